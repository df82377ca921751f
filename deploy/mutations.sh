#!/usr/bin/env bash
# Applies mutations of our code, one at a time, and shows for each the test that goes red.
#
#   deploy/mutations.sh [NAME…]
#
# A mutation is deploy/mutations/NAME.patch; its first line names the test that must fail: "# test: " and what follows `cargo test`.
# NAME may be a beginning: `deploy/mutations.sh 07`. Each is applied to a copy of the tree as git knows it (changes that are not
# committed included, new files not), which is built in the dev profile in a folder of its own, kept for the next run.
# Every test is run without a mutation first: red means nothing where green was not possible.
# Exit 1: a mutation does not apply, does not compile, or leaves its test green.
set -euo pipefail
cd "$(dirname "$0")/.."

# The longest of them cuts the power a few times; on a busy machine it takes minutes.
LIMIT=15m

patches=()
for name in "${@:-}"; do
  for patch in deploy/mutations/"$name"*.patch; do
    [[ -e $patch ]] || { echo "no mutation begins with $name" >&2; exit 2; }
    patches+=("$PWD/$patch")
  done
done

own=$PWD/target/mutations
tree=$own/tree log=$own/log
mkdir -p "$own"
MEDIAMIRROR_NATS_SERVER=${MEDIAMIRROR_NATS_SERVER:-$(deploy/nats.sh current)}
export MEDIAMIRROR_NATS_SERVER MEDIAMIRROR_NATS_SERVERS=${MEDIAMIRROR_NATS_SERVERS:-$MEDIAMIRROR_NATS_SERVER}
export CARGO_TARGET_DIR=$own/build CARGO_INCREMENTAL=1 CARGO_PROFILE_DEV_DEBUG=line-tables-only RUST_BACKTRACE=0

# The copy stays, so that only what differs is built again.
commit=$(git stash create)
commit=${commit:-$(git rev-parse HEAD)}
git worktree prune
if [[ -d $tree ]]; then
  git -C "$tree" checkout --quiet --force --detach "$commit"
else
  git worktree add --quiet --force --detach "$tree" "$commit"
fi

test_of() { sed -n '1s/^# test: //p' "$1"; }

# build TEST: builds it, and the programs where it starts them.
build() {
  local test=$1
  if [[ $test == *--workspace* ]]; then
    (cd "$tree" && cargo build --quiet --workspace --bins) &>"$log" || return 1
  fi
  # shellcheck disable=SC2086 # Words.
  (cd "$tree" && cargo test --quiet --no-run $test) &>"$log"
}

# run TEST: 0 when it is green. What it said is in the log.
run() {
  local test=$1
  # shellcheck disable=SC2086
  (cd "$tree" && timeout "$LIMIT" cargo test $test) &>"$log"
}

# What failed, and the first thing that was said about it.
red() { sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | paste -sd' '; }
how() { grep -A1 -m1 'panicked at' "$log" | tail -1 | cut -c1-120; }

echo "without a mutation:"
for patch in "${patches[@]}"; do test_of "$patch"; done | sort -u >"$own/tests"
while read -r test; do
  build "$test" && run "$test" || { tail -40 "$log"; echo "not green without a mutation: cargo test $test" >&2; exit 1; }
  echo "  green: cargo test $test"
done <"$own/tests"

bad=0
rows=()
for patch in "${patches[@]}"; do
  name=$(basename "$patch" .patch) test=$(test_of "$patch")
  git -C "$tree" checkout --quiet --force "$commit"
  if ! git -C "$tree" apply "$patch" 2>"$log"; then
    row="$name | - | DOES NOT APPLY: $(head -1 "$log")" bad=$((bad + 1))
  elif ! build "$test"; then
    row="$name | - | DOES NOT COMPILE: $(grep -m1 '^error' "$log")" bad=$((bad + 1))
  elif run "$test"; then
    row="$name | - | STAYS GREEN: cargo test $test" bad=$((bad + 1))
  elif [[ -z $(red) ]]; then
    row="$name | - | BROKE BEFORE ANY TEST FAILED: $(tail -1 "$log")" bad=$((bad + 1))
  else
    row="$name | $(red) | $(how)"
  fi
  echo "$row"
  rows+=("$row")
done
git -C "$tree" checkout --quiet --force "$commit"

printf '\nmutation | test that went red | how\n'
printf '%s\n' "${rows[@]}"
printf '%d mutations, %d not shown by a test\n' "${#rows[@]}" "$bad"
((bad == 0))
