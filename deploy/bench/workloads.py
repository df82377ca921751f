"""What is done to the source, and how long until it stands complete at every destination, as seen from outside."""

import math
import os
import random
import re
import shutil
import statistics
import subprocess
import time
from hashlib import file_digest, sha256
from pathlib import Path

from meter import cpu_of

# However slow a rival is, seconds.
LIMIT = 300
FOLDERS = 400


class NotArrived(Exception):
    pass


def names(count, prefix=""):
    """Spread over folders, as a content site spreads its uploads."""
    folders = max(1, min(FOLDERS, count // 25))
    return [f"{prefix}{n % folders // 20:02}/{n % folders:03}/{n:07}" for n in range(count)]


def fill(root, files, size, seed):
    """Writes the files, each with other bytes, and returns what they are."""
    rng = random.Random(seed)
    base = rng.randbytes(min(size, 1 << 20))
    expected = {}
    made = set()
    for name in files:
        path = root / name
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        head = rng.randbytes(min(size, 32))
        digest = sha256(head)
        with open(path, "wb") as out:
            out.write(head)
            left = size - len(head)
            while left > 0:
                piece = base[: min(left, len(base))]
                out.write(piece)
                digest.update(piece)
                left -= len(piece)
        expected[name] = (size, digest.hexdigest())
    return expected


def wait_all(roots, expected, began, limit=LIMIT):
    """Until every file has its length everywhere. Seconds since `began`."""
    left = [(root / name, size) for root in roots for name, (size, _) in expected.items()]
    while left:
        # Those that come in order are asked for last first: one look tells while nothing is there.
        path, size = left[-1]
        try:
            there = os.stat(path).st_size == size
        except FileNotFoundError:
            there = False
        if there:
            left.pop()
            continue
        if time.perf_counter() - began > limit:
            raise NotArrived(f"{len(left)} files are not there after {limit} s, {path} for one")
        time.sleep(0.002)
    return time.perf_counter() - began


def verify(roots, expected):
    for root in roots:
        for name, (_, digest) in expected.items():
            with open(root / name, "rb") as read:
                found = file_digest(read, "sha256").hexdigest()
            if found != digest:
                raise NotArrived(f"{root / name} has other bytes")


class Workload:
    """What is measured. `sides`: who can play it, all when it is None."""

    sides = None
    nodes = 2

    def play(self, side, seed):
        """From nothing to a result, with all that follows files running before the first one is written."""
        side.launch()
        side.settle()
        side.meter.mark()
        return self.run(side, seed)


class Many(Workload):
    """Many files written one after the other while everything runs."""

    def __init__(self, name, count, size, nodes=2):
        self.name, self.count, self.size, self.nodes = name, count, size, nodes
        self.unit = "files/s" if size < 1 << 19 else "MiB/s"

    def quick(self):
        return type(self)(self.name, max(2, self.count // 10), self.size, self.nodes)

    def run(self, side, seed):
        began = time.perf_counter()
        expected = fill(side.src, names(self.count), self.size, seed)
        side.written()
        took = wait_all(side.dst, expected, began)
        verify(side.dst, expected)
        amount = self.count if self.unit == "files/s" else self.count * self.size / 2**20
        return {"value": amount * len(side.dst) / took, "took_s": took}


class Single(Workload):
    """One file after the other, from close to complete at the destination: milliseconds."""

    unit = "ms"

    def __init__(self, name, count, size):
        self.name, self.count, self.size = name, count, size

    def quick(self):
        return Single(self.name, max(5, self.count // 5), self.size)

    def run(self, side, seed):
        times = []
        for n in range(self.count):
            name = f"single/{n:05}"
            expected = fill(side.src, [name], self.size, seed + n)
            began = time.perf_counter()
            side.written()
            times.append(wait_all(side.dst, expected, began, 60) * 1000)
            verify(side.dst, expected)
            time.sleep(0.02)
        return percentiles(times)


class Folder(Workload):
    """A folder of small files that is copied, or moved, into the tree."""

    unit = "s"

    def __init__(self, name, count, size, moved):
        self.name, self.count, self.size, self.moved = name, count, size, moved

    def quick(self):
        return Folder(self.name, self.count // 10, self.size, self.moved)

    def run(self, side, seed):
        outside = side.home / "outside"
        made = fill(outside, names(self.count), self.size, seed)
        target = side.src / "folder"
        began = time.perf_counter()
        if self.moved:
            outside.rename(target)
        else:
            shutil.copytree(outside, target)
        side.written()
        expected = {f"folder/{name}": what for name, what in made.items()}
        took = wait_all(side.dst, expected, began)
        verify(side.dst, expected)
        return {"value": took}


class NewNode(Workload):
    """Files that are there before anything runs, until an empty node has them."""

    unit = "files/s"

    def __init__(self, name, count, size):
        self.name, self.count, self.size = name, count, size

    def quick(self):
        return NewNode(self.name, self.count // 10, self.size)

    def play(self, side, seed):
        expected = fill(side.src, names(self.count), self.size, seed)
        began = time.perf_counter()
        side.launch()
        side.written()
        took = wait_all(side.dst, expected, began, 900)
        verify(side.dst, expected)
        return {"value": self.count / took}


class Restart(Workload):
    """Everything is ended, a few files are written meanwhile, and it is started again: until these have arrived."""

    unit = "s"

    def __init__(self, name, known, new, size):
        self.name, self.known, self.new, self.size = name, known, new, size

    def quick(self):
        return Restart(self.name, self.known // 10, self.new, self.size)

    def play(self, side, seed):
        known = fill(side.src, names(self.known), self.size, seed)
        side.launch()
        side.written()
        wait_all(side.dst, known, time.perf_counter(), 900)
        side.settle()
        side.halt()
        new = fill(side.src, names(self.new, "new"), self.size, seed + 1)
        time.sleep(3)  # What was written a moment before a start may still be being written.
        began = time.perf_counter()
        side.launch()
        side.written()
        took = wait_all(side.dst, new, began)
        verify(side.dst, new)
        return {"value": took}


class Behind(Workload):
    """Single files while the destination has many others still to fetch."""

    unit = "ms"
    sides = ("mediamirror",)

    def __init__(self, name, backlog, size, single):
        self.name, self.backlog, self.size, self.single = name, backlog, size, single

    def quick(self):
        return Behind(self.name, self.backlog // 5, self.size, self.single)

    def play(self, side, seed):
        side.launch()
        side.settle()
        side.stop_one(1, "replicator")
        backlog = fill(side.src, names(self.backlog), self.size, seed)
        side.wait_published(self.backlog)
        side.start_one(1, "replicator")
        # The last of them in the order of the log is about the last to arrive.
        last = side.dst[0] / names(self.backlog)[-1]
        wait_some(side.dst[0])
        times = []
        while not last.exists():
            name = f"single/{len(times):05}"
            expected = fill(side.src, [name], self.single, seed + 1 + len(times))
            began = time.perf_counter()
            times.append(wait_all(side.dst, expected, began) * 1000)
            verify(side.dst, expected)
            time.sleep(0.02)
        wait_all(side.dst, backlog, time.perf_counter())
        verify(side.dst, backlog)
        return percentiles(times)


class Scan(Workload):
    """A node that knows many files is started: until it has looked at all of them. With the memory of each program, and how long it took to publish them."""

    unit = "s"
    nodes = 1
    sides = ("mediamirror",)

    def __init__(self, name, count):
        self.name, self.count = name, count

    def quick(self):
        return Scan(self.name, self.count // 10)

    def play(self, side, seed):
        fill(side.src, names(self.count), 32, seed)
        began = time.perf_counter()
        side.launch()
        side.wait_published(self.count, limit=3600)
        published = time.perf_counter() - began
        side.settle()
        side.halt()
        side.log("watcher-0").unlink()
        side.meter.mark()
        side.launch()
        took = side.wait_scanned()
        side.settle()
        memory = {program: side.meter.peak_of(side.running[0, program]) for program in ("watcher", "replicator")}
        return {"value": took, "note": ", ".join([*(f"{program} {mib:.0f} MiB" for program, mib in memory.items()), f"published in {published:.0f} s"])}


class Idle(Workload):
    """Many files and nothing to do: percent of one CPU that all programs of a node use, without the broker."""

    unit = "%"
    sides = ("mediamirror",)
    SECONDS = 60

    def __init__(self, name, count):
        self.name, self.count = name, count

    def quick(self):
        return Idle(self.name, self.count // 10)

    def play(self, side, seed):
        known = fill(side.src, names(self.count), 100, seed)
        side.launch()
        wait_all(side.dst, known, time.perf_counter(), 900)
        side.settle()
        time.sleep(20)  # What follows an upload, as clearing up, is over.
        ours = [side.running[0, "watcher"], side.running[0, "replicator"]]
        began = sum(cpu_of(process.pid) for process in ours)
        time.sleep(self.SECONDS)
        return {"value": (sum(cpu_of(process.pid) for process in ours) - began) / self.SECONDS * 100}


class Serve(Workload):
    """Files read by HTTP over many connections that stay open: requests a second, and the 99th percentile of their times."""

    unit = "requests/s"
    nodes = 1
    sides = ("mediamirror", "nginx")
    CONNECTIONS = 64

    def __init__(self, name, count, size, seconds):
        self.name, self.count, self.size, self.seconds = name, count, size, seconds

    def quick(self):
        return Serve(self.name, self.count, self.size, 2)

    def play(self, side, seed):
        url = side.serve()
        known = fill(side.src, names(self.count), self.size, seed)
        side.launch()
        side.settle()
        side.wait_published(self.count)
        script = side.home / "paths.lua"
        paths = ",".join(f'"{url}{name}"' for name in known)
        script.write_text(f"local at, urls = 0, {{{paths}}}\nrequest = function() at = at % #urls + 1 return wrk.format('GET', urls[at]) end\n")
        side.meter.mark()
        command = ["wrk", "-t2", f"-c{self.CONNECTIONS}", f"-d{self.seconds}s", "--latency", "-s", script, url]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if "Non-2xx" in said or "Socket errors" in said:
            raise NotArrived(f"not every answer was a file:\n{said}")
        found = lambda pattern: re.search(pattern, said).groups()
        value, unit = found(r"99%\s+([\d.]+)(us|ms|s)")
        p99 = float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]
        return {"value": float(found(r"Requests/sec:\s+([\d.]+)")[0]), "p99": p99, "note": "wrk beside it"}


def wait_some(root):
    """Until a first file is there."""
    began = time.perf_counter()
    while not any(files for base, _, files in os.walk(root) if ".mirror" not in base):
        if time.perf_counter() - began > LIMIT:
            raise NotArrived(f"nothing came in {LIMIT} s")
        time.sleep(0.01)


def percentiles(times):
    if not times:
        raise NotArrived("the backlog was gone before a single file was written")
    times.sort()
    # By nearest rank: of a hundred the 99th.
    last = times[math.ceil(len(times) * 0.99) - 1]
    return {"value": statistics.median(times), "p99": last, "note": f"{len(times)} files"}


WORKLOADS = [
    Many("small", 10_000, 10 << 10),
    Many("medium", 1_000, 1 << 20),
    Many("large", 2, 1 << 30),
    Many("fan-out", 1_000, 1 << 20, nodes=6),
    Single("single", 100, 100 << 10),
    Behind("behind", 50_000, 1 << 10, 100 << 10),
    Folder("copied-in", 2_000, 10 << 10, moved=False),
    Folder("moved-in", 2_000, 10 << 10, moved=True),
    NewNode("new-node", 100_000, 1 << 10),
    Restart("restart", 50_000, 10, 1 << 10),
    Scan("scan-250k", 250_000),
    Scan("scan", 1_000_000),
    Idle("idle", 50_000),
    Serve("http", 1_000, 10 << 10, 10),
]
