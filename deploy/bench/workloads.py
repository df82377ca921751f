"""What is done to the source, and how long until it stands complete at every destination, as seen from outside."""

import os
import random
import shutil
import statistics
import time
from hashlib import sha256
from pathlib import Path

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
            if sha256((root / name).read_bytes()).hexdigest() != digest:
                raise NotArrived(f"{root / name} has other bytes")


class Many:
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


class Single:
    """One file after the other, from close to complete at the destination: milliseconds."""

    unit = "ms"
    nodes = 2

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
        times.sort()
        return {"value": statistics.median(times), "p99": times[min(len(times) - 1, int(len(times) * 0.99))]}


class Folder:
    """A folder of small files that is copied, or moved, into the tree."""

    unit = "s"
    nodes = 2

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


WORKLOADS = [
    Many("small", 10_000, 10 << 10),
    Many("medium", 1_000, 1 << 20),
    Many("large", 2, 1 << 30),
    Many("fan-out", 1_000, 1 << 20, nodes=6),
    Single("single", 100, 100 << 10),
    Folder("copied-in", 2_000, 10 << 10, moved=False),
    Folder("moved-in", 2_000, 10 << 10, moved=True),
]
