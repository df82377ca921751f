#!/usr/bin/env bash
# Measures this system and its rivals side by side, on the same workloads, in one run.
#
#   deploy/bench.sh [--quick] [--turns N] [--side NAME]… [WORKLOAD…]
#
# Sides: mediamirror, syncthing, lsyncd (with rsync), nats-object (put and get by an official client, one file after the other), floor (a copy that is
# hashed on both ends), nginx (serves a folder by HTTP). They have their turns one after the other, and every file is hashed at its destination. Builds
# the programs, gets a nats-server and a Python client below target/tools, and installs syncthing, lsyncd, rsync, nginx and wrk from the distribution
# where they are missing. Prints a table, and without --quick and --side writes it into docs/BENCHMARKS.md; 1 when a file of ours did not arrive.
set -euo pipefail
cd "$(dirname "$0")/.."

server=$(deploy/nats.sh current)
missing=()
export PATH=$PATH:/usr/sbin
for program in syncthing lsyncd rsync nginx wrk; do
  command -v "$program" >/dev/null || missing+=("${program/nginx/nginx-light}")
done
if ((${#missing[@]})); then
  echo "installing ${missing[*]}" >&2
  { apt-get update -q && apt-get install -y -q "${missing[@]}"; } >&2
fi
python=$(deploy/python.sh)
cargo build --release --workspace >&2

exec "$python" deploy/bench/run.py --programs target/release --server "$server" "$@"
