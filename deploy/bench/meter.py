"""What a side costs: CPU seconds and peak resident memory of all its processes, its broker included."""

import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
# Between two looks at memory, seconds.
EVERY = 0.05


@dataclass
class Usage:
    cpu_s: float
    peak_mib: float


def stat_of(pid):
    """Parent, CPU ticks of the process and of its children that have ended, resident pages. None: it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[1]), sum(int(field) for field in fields[11:15]), int(fields[21])


def cpu_of(pid):
    """CPU seconds of a process that runs."""
    return stat_of(pid)[1] / TICKS


class Meter:
    """Follows a group of processes and whatever they start, from outside."""

    def __init__(self):
        self.roots = []
        self.ticks = {}
        self.peak = 0
        self.began = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self, command, log, **how):
        """Starts a process of this side."""
        with open(log, "ab") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, **how)
        self.roots.append(process)
        if not self._thread.is_alive():
            self._thread.start()
        return process

    def _follow(self):
        while not self._stop.is_set():
            self.look()
            time.sleep(EVERY)

    def look(self):
        parents, seen = {}, {}
        for entry in os.listdir("/proc"):
            if entry.isdigit() and (stat := stat_of(entry)):
                parents[int(entry)], seen[int(entry)] = stat[0], stat
        ours, rss = {process.pid for process in self.roots}, 0
        grew = True
        while grew:
            more = {pid for pid, parent in parents.items() if parent in ours} - ours
            ours |= more
            grew = bool(more)
        for pid in ours & seen.keys():
            self.ticks[pid] = seen[pid][1]
            rss += seen[pid][2]
        self.peak = max(self.peak, rss)

    def mark(self):
        """What was used up to now is not counted: it was the start."""
        self.look()
        self.began, self.peak = dict(self.ticks), 0

    def usage(self):
        self.look()
        ticks = sum(ticks - self.began.get(pid, 0) for pid, ticks in self.ticks.items())
        return Usage(max(ticks, 0) / TICKS, self.peak * PAGE / 2**20)

    def peak_of(self, process):
        """The most memory that one process had, MiB."""
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def end_all(self, patience=15):
        """Ends all, those started last first."""
        for process in reversed(self.roots):
            process.terminate()
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.roots.clear()

    def end(self):
        """Ends all, and stops looking."""
        self.end_all()
        self._stop.set()
