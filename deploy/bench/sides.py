"""Who is compared: this system, its rivals, and the floor. Each keeps `dst` folders equal to `src`."""

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

READY = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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
    can_fan_out = True

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

    def start(self):
        raise NotImplementedError

    def stop(self):
        self.meter.end()

    def written(self):
        """The user has written everything."""


class Mediamirror(Side):
    name = "mediamirror"

    def __init__(self, home, nodes=2, programs=None, server=None):
        super().__init__(home, nodes)
        self.programs, self.server = Path(programs), server
        self.port = free_port()
        self.running = {}

    def start(self):
        config = self.home / "nats.conf"
        store = self.home / "nats"
        # The log is durable before it is acknowledged.
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{store}", sync_interval: always }}\n'
        )
        self.meter.start([self.server, "-c", config], self.log("nats"))
        wait_until("nats-server", self.answers)
        for node in range(len(self.roots)):
            for program in ("watcher", "replicator"):
                self.start_one(node, program)
        wait_until("all to be ready", self.is_ready)

    def answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def flags(self, node):
        state = self.home / f"state-{node}"
        url = f"nats://127.0.0.1:{self.port}"
        return ["--root", self.roots[node], "--state", state, "--node", f"n{node}", "--nats-url", url]

    def start_one(self, node, program):
        command = [self.programs / program, "run", *self.flags(node), "--http", "off"]
        self.running[node, program] = self.meter.start(command, self.log(f"{program}-{node}"))

    def stop_one(self, node, program):
        process = self.running.pop((node, program))
        process.terminate()
        process.wait()

    def is_ready(self):
        command = [self.programs / "replicator", "status", *self.flags(0), "--json"]
        done = subprocess.run(command, capture_output=True)
        if done.returncode != 0:
            return False
        seen = json.loads(done.stdout)["nodes"]
        return len(seen) == 2 * len(self.roots) and all(one["state"] == "ready" for one in seen)


class Syncthing(Side):
    """Its watcher's delay at the minimum, 1 s (10 s by default)."""

    name = "syncthing"

    def start(self):
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
            command = ["syncthing", "serve", "--no-browser", "--no-restart", f"--home={self.home}/st-{node}"]
            self.meter.start(command, self.log(f"syncthing-{node}"), env={**os.environ, "STNOUPGRADE": "1"})
        others = len(self.roots) - 1
        wait_until("syncthing to connect", lambda: all(self.connected(n) == others for n in range(len(self.roots))))
        time.sleep(2)  # Until its watchers stand: nothing tells.

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

    def start(self):
        config = self.home / "lsyncd.lua"
        syncs = "".join(
            f'sync {{ default.rsync, source="{self.src}", target="{target}", delay=1, rsync={{ archive=true, whole_file=true }} }}\n'
            for target in self.dst
        )
        config.write_text(f'settings {{ nodaemon=true, logfile="{self.log("lsyncd-log")}" }}\n{syncs}')
        self.meter.start(["lsyncd", "-nodaemon", config], self.log("lsyncd"))
        started = lambda: "Finished" in self.log("lsyncd-log").read_text() if self.log("lsyncd-log").exists() else False
        try:
            wait_until("lsyncd's first pass", started, 10)
        except TimeoutError:
            time.sleep(1)


class Floor(Side):
    """What nobody can beat who hashes on both sides: copy and SHA-256, overlapped, by the fastest library; no events, nothing synced."""

    name = "floor"

    def start(self):
        self._usage = Usage(0.0, 0.0)

    def stop(self):
        pass

    def written(self):
        began = os.times()
        files = [Path(base) / name for base, _, names in os.walk(self.src) for name in names]
        files.sort()
        workers = [threading.Thread(target=self.carry, args=(files[n::2],)) for n in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        now = os.times()
        self._usage = Usage(now.user + now.system - began.user - began.system, 0.0)

    def carry(self, files):
        for file in files:
            relative = file.relative_to(self.src)
            for root in self.dst:
                target = root / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                sent, received = sha256(), sha256()
                with open(file, "rb") as read, open(target, "wb") as write:
                    while piece := read.read(1 << 18):
                        sent.update(piece)
                        write.write(piece)
                        received.update(piece)
                shutil.copystat(file, target)


SIDES = {side.name: side for side in (Mediamirror, Syncthing, Lsyncd, Floor)}
