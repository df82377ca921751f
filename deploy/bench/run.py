"""Runs workloads on all sides in turn, and prints a table with ratios."""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from sides import SIDES, Mediamirror, NatsObject
from workloads import WORKLOADS, NotArrived

DOCUMENT = Path(__file__).parents[2] / "docs/BENCHMARKS.md"
LEFT = []
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def play(workload, side, arguments, turn):
    home = Path(tempfile.mkdtemp(prefix=f"bench-{side}-", dir=arguments.scratch)) / "home"
    make = SIDES[side]
    more = {"programs": arguments.programs, "server": arguments.server} if make in (Mediamirror, NatsObject) else {}
    contender = make(home, workload.nodes, **more)
    try:
        result = workload.play(contender, seed=turn * 1000)
        usage = contender.usage()
        return {**result, "cpu_s": usage.cpu_s, "peak_mib": usage.peak_mib}
    finally:
        contender.stop()
        clear(home.parent)


def clear(folder):
    """Gives the space of a turn back, and leaves its files: what is made soon after many were deleted may be slow, as on an ext4 without a journal."""
    LEFT.append(folder)
    for base, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(base, name)
            if os.path.getsize(path) > 1 << 16:
                os.truncate(path, 0)


def middle(results, key):
    values = [result[key] for result in results if key in result]
    return statistics.median(values) if values else None


def row(workload, side, results, ours):
    if not results:
        return f"| {workload.name} | {side} | did not arrive | | | | | |"
    value, base = middle(results, "value"), ours and middle(ours, "value")
    ratio = ""
    if base and side != "mediamirror":
        times = base / value if workload.unit.endswith("/s") else value / base
        ratio = f"{times:.2f} ×"
    p99 = middle(results, "p99")
    shown = f"{value:,.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
    tail = f"{p99:,.1f} ms" if p99 else ""
    memory = f"{middle(results, 'peak_mib'):,.0f}" if middle(results, "peak_mib") else ""
    notes = "; ".join(dict.fromkeys(result["note"] for result in results if "note" in result))
    cells = [workload.name, side, f"{shown} {workload.unit}", tail, ratio, f"{middle(results, 'cpu_s'):.1f}", memory, notes]
    return f"| {' | '.join(cells)} |"


HEAD = "| workload | side | result | 99th percentile | mediamirror is better by | CPU s | peak MiB | |\n|---|---|---|---|---|---|---|---|"


def machine(server, turns):
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown")
    flags = next((l for l in open("/proc/cpuinfo") if l.startswith("flags")), "")
    sha = "with" if "sha_ni" in flags.split() else "without"
    version = subprocess.run([server, "--version"], capture_output=True, text=True).stdout.strip()
    return (
        f"{date.today()}: {os.cpu_count()} × {cpu}, {sha} SHA extensions, {platform.system()} {platform.release()}, {version}, "
        f"`sync_interval: always`; every figure the median of {turns}."
    )


def write(document, facts, lines):
    """Puts the figures into the document. Those of workloads that were not played stay."""
    text = document.read_text()
    begin, rest = text.split(BEGIN)
    before, end = rest.split(END)
    played = {line.split("|")[1].strip() for line in lines}
    kept = [line for line in before.splitlines()[4:] if line.startswith("|") and line.split("|")[1].strip() not in played]
    order = [workload.name for workload in WORKLOADS]
    rows = sorted(kept + lines, key=lambda line: order.index(line.split("|")[1].strip()))
    document.write_text(begin + BEGIN + f"\n{facts}\n\n{HEAD}\n" + "\n".join(rows) + "\n" + END + end)


def main():
    parser = argparse.ArgumentParser(prog="bench.sh")
    parser.add_argument("--quick", action="store_true", help="a tenth of each workload, once")
    parser.add_argument("--turns", type=int, default=3, help="how often each side has its turn")
    parser.add_argument("--side", action="append", choices=list(SIDES), help="only these sides")
    parser.add_argument("--programs", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--server", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", default=None, help="a folder on the disk to measure")
    parser.add_argument("workload", nargs="*", help=", ".join(w.name for w in WORKLOADS))
    arguments = parser.parse_args()
    chosen = [w for w in WORKLOADS if not arguments.workload or w.name in arguments.workload]
    unknown = set(arguments.workload) - {w.name for w in WORKLOADS}
    if unknown:
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    if arguments.quick:
        chosen, arguments.turns = [w.quick() for w in chosen], 1
    sides = arguments.side or list(SIDES)
    lines, failed = [], False
    for workload in chosen:
        playing = [side for side in sides if (side in workload.sides if workload.sides else SIDES[side].carries)]
        results = {side: [] for side in playing}
        for turn in range(arguments.turns):
            for side in playing:
                try:
                    results[side].append(play(workload, side, arguments, turn))
                except (NotArrived, TimeoutError) as error:
                    print(f"{workload.name}, {side}: {error}", file=sys.stderr, flush=True)
                    failed |= side == "mediamirror"
        for side in playing:
            lines.append(row(workload, side, results[side], results.get("mediamirror")))
            print(lines[-1], file=sys.stderr, flush=True)
    for folder in LEFT:
        shutil.rmtree(folder, ignore_errors=True)
    facts = machine(arguments.server, arguments.turns)
    print(f"{facts}\n\n{HEAD}\n" + "\n".join(lines))
    if not arguments.quick and not arguments.side:
        write(DOCUMENT, facts, lines)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
