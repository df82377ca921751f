#!/usr/bin/env bash
# Gets an S3-compatible server for the tests, below target/tools, and prints its path.
set -euo pipefail
cd "$(dirname "$0")/.."

VERSITYGW=1.8.0
server=$PWD/target/tools/bin/versitygw

if ! go version -m "$server" 2>/dev/null | grep -q "versitygw[[:space:]]v$VERSITYGW"; then
  command -v go >/dev/null || { echo "no S3 server: versitygw is built with Go (https://go.dev)" >&2; exit 1; }
  echo "building versitygw $VERSITYGW with go (some two minutes, once)" >&2
  GOBIN=$PWD/target/tools/bin go install "github.com/versity/versitygw/cmd/versitygw@v$VERSITYGW" >&2
fi
echo "$server"
