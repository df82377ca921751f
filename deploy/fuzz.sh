#!/usr/bin/env bash
# Fuzzes what parses foreign bytes: paths, subjects, payloads and ranges, each for so many seconds (60).
#
#   deploy/fuzz.sh [SECONDS]
#
# It needs a nightly toolchain and cargo-fuzz, and installs both where they are missing. What breaks a promise is kept below fuzz/artifacts; play it again
# by `cargo +nightly fuzz run TARGET FILE --features libfuzzer`, and make a test of it. What was found to be of interest stays below target/fuzz-corpus.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
[[ $seconds =~ ^[0-9]+$ ]] || { echo "usage: deploy/fuzz.sh [SECONDS]" >&2; exit 2; }
cargo +nightly --version >/dev/null 2>&1 || { echo "installing a nightly toolchain" >&2; rustup toolchain install nightly --profile minimal; }
cargo fuzz --version >/dev/null 2>&1 || { echo "installing cargo-fuzz" >&2; cargo install cargo-fuzz --locked; }
for target in path subject payload range; do
  corpus=target/fuzz-corpus/$target
  mkdir -p "$corpus"
  cargo +nightly fuzz run --features libfuzzer --target-dir target/fuzz "$target" "$corpus" -- -max_total_time="$seconds" -max_len=2048
done
