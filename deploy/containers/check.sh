#!/usr/bin/env bash
# Checks image and compose file where no containers can be run: the compose file against its schema, the brokers' configuration by nats-server,
# and that what the Dockerfile copies and builds is there. check-jsonschema is installed below target/tools.
set -euo pipefail
cd "$(dirname "$0")/../.."

venv=$PWD/target/tools/schemas
if ! "$venv/bin/check-jsonschema" --version >/dev/null 2>&1; then
  deploy/python.sh >/dev/null
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "check-jsonschema==0.39.0" "pyyaml==6.0.4" >&2
fi
compose=deploy/containers/compose.yaml
"$venv/bin/check-jsonschema" --builtin-schema vendor.compose-spec "$compose"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Two dollars are one to compose.
"$venv/bin/python" - "$compose" >"$scratch/nats.conf" <<'PYTHON'
import sys, yaml
compose = yaml.safe_load(open(sys.argv[1]))
nodes = {service["environment"]["MEDIAMIRROR_NODE"] for service in compose["services"].values() if "environment" in service}
assert nodes == {"a", "b", "c"}, nodes
print(compose["configs"]["broker"]["content"].replace("$$", "$"))
PYTHON
HOSTNAME=broker-1 "$(deploy/nats.sh current)" -t -c "$scratch/nats.conf" >&2

dockerfile=deploy/containers/Dockerfile
for package in $(grep -o -- '-p mediamirror-[a-z]*' "$dockerfile" | cut -d' ' -f2); do
  cargo metadata --format-version 1 --no-deps | grep -q "\"name\":\"$package\"" || { echo "no package $package" >&2; exit 1; }
done
echo "image and compose file: as far as can be seen without running them"
