#!/usr/bin/env bash
# Makes a Python with an official NATS client below target/tools, where it is missing, and prints where it is.
set -euo pipefail
cd "$(dirname "$0")/.."

NATS_PY=2.16.0
venv=$PWD/target/tools/venv

make() { python3 -m venv "$venv"; }
if ! "$venv/bin/python" -c "import nats" 2>/dev/null; then
  {
    # Debian keeps it in a package of its own.
    make 2>/dev/null || { apt-get update -q && apt-get install -y -q python3-venv && make; }
    "$venv/bin/pip" install --quiet --disable-pip-version-check "nats-py==$NATS_PY"
  } >&2
fi
echo "$venv/bin/python"
