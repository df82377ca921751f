#!/usr/bin/env bash
# Installs the fuzzer of APIs below target/tools, where it is missing, and prints where it is.
set -euo pipefail
cd "$(dirname "$0")/.."

SCHEMATHESIS=4.32.5
venv=$PWD/target/tools/schemathesis

if ! "$venv/bin/schemathesis" --version >/dev/null 2>&1; then
  {
    # Makes sure that there is a Python with venv.
    deploy/python.sh
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$SCHEMATHESIS"
  } >&2
fi
echo "$venv/bin/schemathesis"
