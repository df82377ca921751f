"""Runs workloads on all sides in turn, and prints a table with ratios."""

import argparse
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from sides import SIDES, Mediamirror
from workloads import WORKLOADS, NotArrived


def play(workload, side, arguments, turn):
    home = Path(tempfile.mkdtemp(prefix=f"bench-{side}-", dir=arguments.scratch)) / "home"
    make = SIDES[side]
    more = {"programs": arguments.programs, "server": arguments.server} if make is Mediamirror else {}
    contender = make(home, workload.nodes, **more)
    try:
        contender.start()
        contender.meter.mark()
        result = workload.run(contender, seed=turn * 1000)
        usage = contender._usage if side == "floor" else contender.meter.usage()
        return {**result, "cpu_s": usage.cpu_s, "peak_mib": usage.peak_mib}
    finally:
        contender.stop()
        shutil.rmtree(home.parent, ignore_errors=True)


def middle(results, key):
    values = [result[key] for result in results if key in result]
    return statistics.median(values) if values else None


def row(workload, side, results, ours):
    if not results:
        return f"| {workload.name} | {side} | did not arrive | | | | |"
    value, base = middle(results, "value"), ours and middle(ours, "value")
    ratio = ""
    if base and side != "mediamirror":
        times = base / value if workload.unit.endswith("/s") else value / base
        ratio = f"{times:.2f} ×"
    p99 = middle(results, "p99")
    shown = f"{value:,.1f} {workload.unit}" if value < 100 else f"{value:,.0f} {workload.unit}"
    tail = f"{p99:,.1f} ms" if p99 else ""
    memory = f"{middle(results, 'peak_mib'):,.0f}" if middle(results, "peak_mib") else ""
    return f"| {workload.name} | {side} | {shown} | {tail} | {ratio} | {middle(results, 'cpu_s'):.1f} | {memory} |"


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
        results = {side: [] for side in sides}
        for turn in range(arguments.turns):
            for side in sides:
                try:
                    results[side].append(play(workload, side, arguments, turn))
                except (NotArrived, TimeoutError) as error:
                    print(f"{workload.name}, {side}: {error}", file=sys.stderr, flush=True)
                    failed |= side == "mediamirror"
        for side in sides:
            lines.append(row(workload, side, results[side], results.get("mediamirror")))
            print(lines[-1], file=sys.stderr, flush=True)
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown")
    print(f"{platform.system()} {platform.release()}, {cpu}, every figure the median of {arguments.turns}\n")
    print("| workload | side | result | 99th percentile | mediamirror is better by | CPU s | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(lines))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
