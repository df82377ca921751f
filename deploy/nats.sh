#!/usr/bin/env bash
# Gets a nats-server and prints its path; says on stderr where it came from.
#
#   deploy/nats.sh [current|oldest]
#
# Without an argument: the one on the PATH from 2.9.10 on, else a build of a pinned version, else the distribution's
# package, unpacked. `current` is the pinned version or newer, `oldest` is exactly 2.9.10: the tests run with both.
# Nothing is installed on the system: what is fetched stands below target/tools. It can be sourced for its functions.
set -euo pipefail

NATS_OLDEST=2.9.10
NATS_CURRENT=2.15.2
NATS_TOOLS="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/target/tools"

# nats_version PROGRAM: for example 2.15.2; nothing when it does not run.
nats_version() {
  { "$1" --version 2>/dev/null || true; } | sed -n 's/^nats-server: v\([0-9.]*\).*/\1/p'
}

# nats_at_least PROGRAM VERSION
nats_at_least() {
  local version
  version=$(nats_version "$1")
  [[ -n $version && $(printf '%s\n' "$2" "$version" | sort -V | head -n 1) == "$2" ]]
}

# nats_build VERSION FOLDER: builds this version into the folder.
nats_build() {
  command -v go >/dev/null || return 1
  echo "building nats-server $1 with go (about a minute, once)" >&2
  GOBIN="$2" go install "github.com/nats-io/nats-server/v2@v$1" >&2
}

# unpack PACKAGE FOLDER [PROGRAM…]: puts these programs (else the one named like it) of a package of the distribution into the folder; its daemon is
# neither installed nor started.
unpack() {
  command -v apt-get >/dev/null || return 1
  echo "unpacking the distribution's $1" >&2
  local package=$1 folder=$2 scratch program
  shift 2
  scratch=$(mktemp -d)
  # apt drops its rights where it may: the folder has to be open to it.
  chmod 755 "$scratch"
  (cd "$scratch" && { apt-get download -q "$package" || { apt-get update -q && apt-get download -q "$package"; }; } &&
    dpkg -x ./*.deb unpacked) >&2 || { rm -rf "$scratch"; return 1; }
  mkdir -p "$folder"
  for program in "${@:-$package}"; do
    mv "$(find "$scratch/unpacked/usr" -type f -path "*bin/$program" | head -n 1)" "$folder/$program"
  done
  rm -rf "$scratch"
}

nats_oldest() {
  local folder=$NATS_TOOLS/nats-oldest
  if [[ $(nats_version "$folder/nats-server") != "$NATS_OLDEST" ]]; then
    # Another release of the distribution has another version: then it is built.
    unpack nats-server "$folder" && [[ $(nats_version "$folder/nats-server") == "$NATS_OLDEST" ]] ||
      nats_build "$NATS_OLDEST" "$folder" ||
      { echo "nats-server $NATS_OLDEST: neither apt-get nor go could get it" >&2; return 1; }
  fi
  echo "$folder/nats-server"
}

# nats_server MINIMUM: from the PATH when it is new enough, else built, else unpacked.
nats_server() {
  local found built=$NATS_TOOLS/bin/nats-server
  found=$(command -v nats-server || true)
  if [[ -n $found ]] && nats_at_least "$found" "$1"; then
    echo "nats-server $(nats_version "$found") from the PATH: $found" >&2
    echo "$found"
    return
  fi
  if ! nats_at_least "$built" "$1"; then
    nats_build "$NATS_CURRENT" "$NATS_TOOLS/bin" || unpack nats-server "$NATS_TOOLS/bin" || true
  fi
  if [[ -z $(nats_version "$built") ]]; then
    echo "no nats-server: install Go (https://go.dev) and run this again, or put a nats-server from" \
      "https://github.com/nats-io/nats-server/releases on the PATH" >&2
    return 1
  fi
  echo "nats-server $(nats_version "$built"): $built" >&2
  echo "$built"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  case ${1:-} in
    "") nats_server "$NATS_OLDEST" ;;
    current) nats_server "$NATS_CURRENT" ;;
    oldest) nats_oldest ;;
    *) sed -n 's/^# \{0,1\}//p' "$0" | sed -n 1,8p >&2; exit 2 ;;
  esac
fi
