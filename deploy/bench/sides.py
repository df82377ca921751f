"""Who is compared: this system, its rivals, and the floor. Each keeps `dst` folders equal to `src`."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from hashlib import sha256
from pathlib import Path

from meter import Meter, Usage
from nats.js.errors import APIError

READY = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(what, condition, limit=READY):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.02)
    raise TimeoutError(f"waited {limit} s for {what}")


class Side:
    """One contender in a folder of its own."""

    name = ""
    # Whether it keeps folders equal.
    carries = True

    def __init__(self, home, nodes=2):
        self.home, self.meter = Path(home), Meter()
        self.home.mkdir(parents=True)
        self.roots = [self.home / f"node-{n}" for n in range(nodes)]
        for root in self.roots:
            root.mkdir()

    @property
    def src(self):
        return self.roots[0]

    @property
    def dst(self):
        return self.roots[1:]

    def log(self, name):
        return self.home / f"{name}.log"

    def launch(self):
        """Starts what follows files."""
        raise NotImplementedError

    def settle(self):
        """Waits until what was launched follows files."""

    def halt(self):
        """Ends what `launch` started: the broker stays, if there is one."""
        self.meter.end_all()

    def stop(self):
        self.meter.end()

    def usage(self):
        """What all its processes used since the last mark."""
        return self.meter.usage()

    def written(self):
        """The user has written everything."""


class Mediamirror(Side):
    name = "mediamirror"

    def __init__(self, home, nodes=2, programs=None, server=None):
        super().__init__(home, nodes)
        self.programs, self.server = Path(programs), server
        self.port = free_port()
        self.running = {}
        self.broker = None
        # Where the replicator of the first node listens.
        self.http = None

    def launch(self):
        if self.broker is None:
            self.start_broker()
        for node in range(len(self.roots)):
            for program in ("watcher", "replicator"):
                self.start_one(node, program)

    def settle(self):
        wait_until("all to be ready", self.is_ready)

    def halt(self):
        for one in list(self.running):
            self.stop_one(*one)

    def start_broker(self):
        config = self.home / "nats.conf"
        store = self.home / "nats"
        # The log is durable before it is acknowledged.
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{store}", sync_interval: always }}\n'
        )
        self.broker = self.meter.start([self.server, "-c", config], self.log("nats"))
        wait_until("nats-server", self.answers)

    def serve(self):
        """Where files can be read by HTTP from the first node, once it is launched: the path follows."""
        self.http = f"127.0.0.1:{free_port()}"
        return f"http://{self.http}/api/v1/paths/"

    def answers(self):
        return answers(self.port)

    def flags(self, node):
        state = self.home / f"state-{node}"
        url = f"nats://127.0.0.1:{self.port}"
        return ["--root", self.roots[node], "--state", state, "--node", f"n{node}", "--nats-url", url]

    def start_one(self, node, program):
        http = self.http if self.http and (node, program) == (0, "replicator") else "off"
        command = [self.programs / program, "run", *self.flags(node), "--http", http]
        self.running[node, program] = self.meter.start(command, self.log(f"{program}-{node}"))

    def stop_one(self, node, program):
        process = self.running.pop((node, program))
        process.terminate()
        process.wait()

    def wait_published(self, count, limit=900):
        """Until the log has that many events at least."""
        wait_until(f"{count} events", lambda: self.head() >= count, limit)

    def head(self):
        seen = self.status()
        return max((one["head"] for one in seen or []), default=0)

    def wait_scanned(self):
        """Seconds that the watcher took to look at everything."""
        def scanned():
            lines = self.log("watcher-0").read_text().splitlines() if self.log("watcher-0").exists() else []
            return [line for line in lines if '"scanned"' in line]

        wait_until("the scan", scanned, 600)
        return int(json.loads(scanned()[0])["elapsed_ms"]) / 1000

    def is_ready(self):
        seen = self.status()
        return len(seen) == 2 * len(self.roots) and all(one["state"] == "ready" for one in seen)

    def status(self):
        """The records of all nodes, as far as they have told."""
        command = [self.programs / "replicator", "status", *self.flags(0), "--json"]
        done = subprocess.run(command, capture_output=True)
        return json.loads(done.stdout)["nodes"] if done.stdout else []


class Syncthing(Side):
    """Its watcher's delay at the minimum, 1 s (10 s by default)."""

    name = "syncthing"

    def launch(self):
        if not hasattr(self, "gui"):
            self.prepare()
        for node in range(len(self.roots)):
            command = ["syncthing", "serve", "--no-browser", "--no-restart", f"--home={self.home}/st-{node}"]
            self.meter.start(command, self.log(f"syncthing-{node}"), env={**os.environ, "STNOUPGRADE": "1"})

    def settle(self):
        others = len(self.roots) - 1
        wait_until("syncthing to connect", lambda: all(self.connected(n) == others for n in range(len(self.roots))))
        time.sleep(2)  # Until its watchers stand: nothing tells.

    def prepare(self):
        self.gui = [free_port() for _ in self.roots]
        self.listen = [free_port() for _ in self.roots]
        ids = []
        for node in range(len(self.roots)):
            home = self.home / f"st-{node}"
            generate = ["syncthing", "generate", "--skip-port-probing", f"--home={home}"]
            subprocess.run(generate, check=True, capture_output=True)
            out = subprocess.run(["syncthing", f"--home={home}", "--device-id"], check=True, capture_output=True)
            ids.append(out.stdout.decode().strip())
        for node, root in enumerate(self.roots):
            self.configure(node, root, ids)

    def configure(self, node, root, ids):
        devices = "".join(
            f'<device id="{one}" name="n{other}"><address>tcp://127.0.0.1:{self.listen[other]}</address></device>'
            for other, one in enumerate(ids)
        )
        members = "".join(f'<device id="{one}"></device>' for one in ids)
        (self.home / f"st-{node}" / "config.xml").write_text(
            f'<configuration version="35"><folder id="media" label="media" path="{root}" type="sendreceive" '
            f'rescanIntervalS="3600" fsWatcherEnabled="true" fsWatcherDelayS="1" ignorePerms="false" autoNormalize="true">'
            f"{members}<order>random</order></folder>{devices}"
            f'<gui enabled="true" tls="false"><address>127.0.0.1:{self.gui[node]}</address><apikey>bench</apikey></gui>'
            f"<options><listenAddress>tcp://127.0.0.1:{self.listen[node]}</listenAddress>"
            f"<globalAnnounceEnabled>false</globalAnnounceEnabled><localAnnounceEnabled>false</localAnnounceEnabled>"
            f"<relaysEnabled>false</relaysEnabled><natEnabled>false</natEnabled><urAccepted>-1</urAccepted>"
            f"<startBrowser>false</startBrowser><crashReportingEnabled>false</crashReportingEnabled></options></configuration>"
        )

    def connected(self, node):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.gui[node]}/rest/system/connections", headers={"X-API-Key": "bench"}
        )
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:
                connections = json.load(answer)["connections"].values()
        except OSError:
            return -1
        return sum(one["connected"] for one in connections)


class Lsyncd(Side):
    """With rsync, its delay 1 s (15 s by default). One way; it compares no hashes and syncs nothing to disk."""

    name = "lsyncd"

    def launch(self):
        self.log("lsyncd-log").unlink(missing_ok=True)
        config = self.home / "lsyncd.lua"
        syncs = "".join(
            f'sync {{ default.rsync, source="{self.src}", target="{target}", delay=1, rsync={{ archive=true, whole_file=true }} }}\n'
            for target in self.dst
        )
        config.write_text(f'settings {{ nodaemon=true, logfile="{self.log("lsyncd-log")}" }}\n{syncs}')
        self.meter.start(["lsyncd", "-nodaemon", config], self.log("lsyncd"))

    def settle(self):
        started = lambda: "Finished" in self.log("lsyncd-log").read_text() if self.log("lsyncd-log").exists() else False
        try:
            wait_until("lsyncd's first pass", started, 10)
        except TimeoutError:
            time.sleep(1)


class ByHand(Side):
    """What a user writes with a library: it is called once everything is written, so that nothing is noticed, watched or repaired."""

    def launch(self):
        self.spent = Usage(0.0, 0.0)

    def halt(self):
        pass

    def usage(self):
        return self.spent

    def written(self):
        began = os.times()
        self.carry_all(sorted(Path(base) / name for base, _, names in os.walk(self.src) for name in names))
        now = os.times()
        self.spent = Usage(self.spent.cpu_s + now.user + now.system - began.user - began.system, 0.0)

    def carry_all(self, files):
        raise NotImplementedError


class Floor(ByHand):
    """What nobody can beat who hashes on both sides: copy and SHA-256, overlapped, by the fastest library; no events, nothing synced."""

    name = "floor"

    def carry_all(self, files):
        workers = [threading.Thread(target=self.carry, args=(files[n::2],)) for n in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def carry(self, files):
        for file in files:
            relative = file.relative_to(self.src)
            for root in self.dst:
                target = root / relative
                if target.exists():
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                sent, received = sha256(), sha256()
                with open(file, "rb") as read, open(target, "wb") as write:
                    while piece := read.read(1 << 18):
                        sent.update(piece)
                        write.write(piece)
                        received.update(piece)
                shutil.copystat(file, target)


class NatsObject(ByHand):
    """The object store of NATS by an official client, as `nats object put` and `get` use it: one file after the other, the broker's setting as ours."""

    name = "nats-object"

    def __init__(self, home, nodes=2, programs=None, server=None):
        super().__init__(home, nodes)
        self.broker = Mediamirror(self.home / "broker", nodes=0, programs=programs, server=server)
        self.meter = self.broker.meter
        self.sent = set()

    def launch(self):
        super().launch()
        if self.broker.broker is None:
            self.broker.start_broker()

    def usage(self):
        broker = self.meter.usage()
        return Usage(self.spent.cpu_s + broker.cpu_s, broker.peak_mib)

    def carry_all(self, files):
        try:
            asyncio.run(self.put_and_get([file for file in files if file not in self.sent]))
        except APIError as error:
            # Its get leaves a consumer for each object, of which a server allows some thousand.
            raise TimeoutError(f"the client gave up: {error}") from error
        self.sent.update(files)

    async def put_and_get(self, files):
        import nats

        client = await nats.connect(f"nats://127.0.0.1:{self.broker.port}")
        js = client.jetstream(timeout=30)
        store = await js.create_object_store("bench")
        for file in files:
            relative = file.relative_to(self.src)
            with open(file, "rb") as read:
                await store.put(str(relative), read)
            for root in self.dst:
                target = root / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb") as write:
                    await store.get(str(relative), writeinto=write)
        await client.close()


class Nginx(Side):
    """Serves a folder, with `sendfile`, as many workers as there are CPUs and no access log."""

    name = "nginx"
    carries = False

    def serve(self):
        self.port = free_port()
        return f"http://127.0.0.1:{self.port}/"

    def launch(self):
        config = self.home / "nginx.conf"
        config.write_text(
            f"user root; worker_processes auto; daemon off; pid {self.home}/nginx.pid; error_log stderr;\n"
            f"events {{ worker_connections 1024; }}\n"
            f"http {{ access_log off; sendfile on; keepalive_requests 1000000; open_file_cache off;\n"
            f"  server {{ listen 127.0.0.1:{self.port}; root {self.src}; }} }}\n"
        )
        self.meter.start(["nginx", "-p", self.home, "-c", config], self.log("nginx"))

    def settle(self):
        wait_until("nginx", lambda: answers(self.port))

    def wait_published(self, count):
        """What it serves is what stands in the folder."""


SIDES = {side.name: side for side in (Mediamirror, Syncthing, Lsyncd, NatsObject, Floor, Nginx)}
