#!/usr/bin/env bash
# Plays three nodes against a model, with users and faults at random, one seed after the other, several side by side.
#
#   deploy/soak.sh --minutes N [--seed S]
#
# Each seed prints its result; one that fails also what happened, the ends of the logs, and the command that plays it again.
# Without --seed the seeds begin at random; with it at S. With MEDIAMIRROR_KEEP=FOLDER what a failed seed leaves stands there.
# A nats-server is installed below target/tools. The last line is the sum: "N seeds played, N failed"; 1 when one failed.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  echo "usage: deploy/soak.sh --minutes N [--seed S]" >&2
  exit 2
}

minutes='' seed=''
while (($#)); do
  [[ ${2:-} =~ ^[0-9]+$ ]] || usage
  case $1 in
    --minutes) minutes=$2 ;;
    --seed) seed=$2 ;;
    *) usage ;;
  esac
  shift 2
done
[[ -n $minutes ]] || usage

server=$(deploy/nats.sh current)
cargo build --release --workspace

output=$(mktemp)
trap 'rm -f "$output"' EXIT
status=0
export MEDIAMIRROR_NATS_SERVER=$server MEDIAMIRROR_SOAK_MINUTES=$minutes
[[ -z $seed ]] || export MEDIAMIRROR_SOAK_SEED=$seed
cargo test --release --workspace --test random -- --ignored --exact --nocapture soak 2>&1 | tee "$output" || status=1

# A test that broke before its end has no sum.
grep -h ' seeds played, ' "$output" || echo "the soak did not come to its end"
exit "$status"
