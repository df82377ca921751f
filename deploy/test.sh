#!/usr/bin/env bash
# Installs what the tests need below target/tools, then runs formatting, lints and every test.
#
#   deploy/test.sh [--full]
#
# The end-to-end tests run with a current nats-server and with the oldest one that is supported, and what depends on
# permissions once more as an ordinary user. --full adds what takes gigabytes or minutes, the latency bar, and the mutations.
# What the tests of faults need (strace, ext4, a false clock) is installed where it is missing. The last line is the sum:
# "N passed, N failed". What could not run on this machine is counted in the line before it.
set -euo pipefail
cd "$(dirname "$0")/.."

full=false
case ${1:-} in
  "") ;;
  --full) full=true ;;
  *) echo "usage: deploy/test.sh [--full]" >&2; exit 2 ;;
esac

tools=$PWD/target/tools
results=$(mktemp)
scratch=$(mktemp -d)
trap 'rm -rf "$results" "$scratch"' EXIT

step() { printf '\n== %s\n' "$*"; }

# tested COMMAND… [-- ARGUMENT…]: runs tests, and those that failed once more, alone: a busy machine fails a test that waits
# for something, a bug does so again. What passed only then is named in the sum.
broken_runs=0
tested() {
  local first again names
  first=$(mktemp -p "$scratch") again=$(mktemp -p "$scratch")
  if "$@" 2>&1 | tee "$first"; then
    cat "$first" >>"$results"
    return
  fi
  sed 's/^\(test result: \)FAILED\. \([0-9]* passed\); [0-9]* failed;/\1\2;/' "$first" >>"$results"
  mapfile -t names < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$first" | sort -u)
  # Did each binary come to its end?
  if ((${#names[@]} == 0)) || (($(grep -c '^test result:' "$first") < $(grep -cE '^ +(Running|Doc-tests) ' "$first"))); then
    broken_runs=$((broken_runs + 1))
    return
  fi
  step "again, alone: ${names[*]}"
  RUST_TEST_THREADS=1 "$@" --exact "${names[@]}" 2>&1 | tee "$again" || true
  cat "$again" >>"$results"
  sed -n 's/^test \(.*\) \.\.\. ok$/only alone: \1/p' "$again" >>"$results"
  if (($(grep -cE '^test .* \.\.\. (ok|FAILED)$' "$again") < ${#names[@]})); then
    broken_runs=$((broken_runs + 1))
  fi
}

step "tools"
cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
current=$(deploy/nats.sh current)
oldest=$(deploy/nats.sh oldest)
echo "oldest nats-server: $oldest"
MEDIAMIRROR_TEST_PYTHON=$(deploy/python.sh)
MEDIAMIRROR_S3_SERVER=$(deploy/s3.sh)
export MEDIAMIRROR_TEST_PYTHON MEDIAMIRROR_S3_SERVER

# The tests of alerts look for Prometheus on the PATH.
export PATH=$PATH:$tools/prometheus
command -v promtool >/dev/null || (source deploy/nats.sh && unpack prometheus "$tools/prometheus" prometheus promtool) ||
  echo "prometheus could not be had"
if $full; then
  export PATH=$PATH:$tools/nginx:/usr/sbin
  MEDIAMIRROR_SCHEMATHESIS=$(deploy/schemathesis.sh) && export MEDIAMIRROR_SCHEMATHESIS || echo "schemathesis could not be had"
  command -v nginx >/dev/null || (source deploy/nats.sh && unpack nginx "$tools/nginx") || echo "nginx could not be had"
fi

missing=()
command -v strace >/dev/null || missing+=(strace)
command -v mkfs.ext4 >/dev/null || missing+=(e2fsprogs)
command -v mount >/dev/null || missing+=(mount)
command -v setpriv >/dev/null || missing+=(util-linux)
if $full; then command -v chromedriver >/dev/null || missing+=(chromium chromium-driver); fi
ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || missing+=(libfaketime)
if ((${#missing[@]})) && [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
  echo "installing ${missing[*]}, for the tests of faults"
  { apt-get update -q && apt-get install -y -q "${missing[@]}"; } || echo "could not be installed: ${missing[*]}"
elif ((${#missing[@]})); then
  echo "missing, and not to be installed here: ${missing[*]}"
fi

# Faults at system calls need strace, and the right to trace.
skip=()
if ! strace -o /dev/null true 2>/dev/null; then
  skip=(--skip sweep:: --skip errors:: --skip races::)
  echo "not run: sweep, errors and races: strace does not work here" | tee -a "$results"
fi

step "format and lints"
cargo fmt --check
cargo clippy --workspace --all-targets --release -- -D warnings

step "build"
# Without the benchmarks, which clippy has checked.
cargo build --release --workspace --lib --bins --tests --examples

# Six at a time: most of an end-to-end test is waiting.
export RUST_TEST_THREADS=6
export MEDIAMIRROR_NATS_SERVERS=$oldest:$current

step "all tests, $("$current" --version)"
export MEDIAMIRROR_NATS_SERVER=$current
tested cargo test --release --workspace --no-fail-fast -- "${skip[@]}"

step "end to end, $("$oldest" --version)"
# What has its blobs elsewhere asks the same of any broker.
MEDIAMIRROR_NATS_SERVER=$oldest tested cargo test --release --workspace --test mirror --test observe --test stores -- \
  --skip contract:: --skip elsewhere:: --skip export::

if [[ $(id -u) == 0 ]]; then
  step "what depends on permissions, as an ordinary user"
  # That user may not come through to the build's folder.
  mirror=$(cargo test --release --workspace --test mirror --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))$/\1/p')
  cp "$mirror" "$scratch/mirror"
  cp target/release/watcher target/release/replicator "$current" "$scratch/"
  mkdir "$scratch/tmp"
  chmod 755 "$scratch"
  chown 65534:65534 "$scratch/tmp"
  tested setpriv --reuid=65534 --regid=65534 --clear-groups env -C "$scratch/tmp" \
    HOME="$scratch/tmp" TMPDIR="$scratch/tmp" MEDIAMIRROR_BIN_DIR="$scratch" \
    MEDIAMIRROR_NATS_SERVER="$scratch/$(basename "$current")" \
    "$scratch/mirror" users:: refusals:: live::files_added embedded::two_nodes
fi

if $full; then
  step "what is too long for every commit"
  # One at a time: gigabytes and milliseconds do not go together.
  RUST_TEST_THREADS=1 tested cargo test --release --workspace --no-fail-fast -- --ignored "${skip[@]}"

  step "advisories, licences and sources"
  command -v cargo-deny >/dev/null || cargo install cargo-deny --locked
  cargo deny check || broken_runs=$((broken_runs + 1))

  step "fuzzing, a minute each"
  deploy/fuzz.sh 60 || broken_runs=$((broken_runs + 1))

  step "the package"
  deploy/package.sh --check || broken_runs=$((broken_runs + 1))

  step "mutations: each must turn a test red"
  deploy/mutations.sh || broken_runs=$((broken_runs + 1))
fi

step "sum"
awk -v broken="$broken_runs" '
  # A test that could not run says so among the lines of the runner.
  /not run: / { skipped++ }
  /^only alone: / { alone = alone " " $3 }
  /^test result:/ {
    for (i = 2; i <= NF; i++) {
      if ($i ~ /^passed/) passed += $(i - 1)
      if ($i ~ /^failed/) failed += $(i - 1)
    }
  }
  END {
    # A run that broke before its tests ended has no line of its own.
    failed += broken
    if (alone != "") print "failed beside others, and passed alone:" alone
    if (skipped > 0) printf "%d not run: they need a mount or a program that cannot be had here\n", skipped
    printf "%d passed, %d failed\n", passed, failed
    exit failed > 0
  }' "$results"
