#!/usr/bin/env bash
# Two nodes on this machine, one mirror, a few thousand real files.
#
#   deploy/quickstart.sh [--check]
#
# Makes demo/ anew, with node-a and node-b, and mirrors files of this machine from the first to the second. Stays up
# for playing until Ctrl-C. --check compares both sides with sha256sum, stops everything, and ends with 0 or 1.
set -euo pipefail
cd "$(dirname "$0")/.."

check=false
case ${1:-} in
  "") ;;
  --check) check=true ;;
  *) echo "usage: deploy/quickstart.sh [--check]" >&2; exit 2 ;;
esac

MAX_FILES=3000
MAX_BYTES=$((200 * 1024 * 1024))
WAIT_SECONDS=180
demo=$PWD/demo
bin=$PWD/target/release
source_folder=/usr/share
pids=()

say() { printf '%s\n' "$*"; }
fail() {
  printf 'quickstart: %s\n' "$*" >&2
  exit 1
}

running() { kill -0 "$1" 2>/dev/null; }

# Ends what was started here, by its process ids. The server ends with the last of them.
stop_all() {
  trap - EXIT INT TERM
  local pid n
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do
    for ((n = 0; n < 100; n++)); do
      running "$pid" || break
      sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  for ((n = 0; n < 100; n++)); do
    listening "${port:-0}" || break
    sleep 0.1
  done
}
trap stop_all EXIT
trap 'say; say "stopping"; exit 0' INT TERM

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port FIRST: the first free one from there on.
free_port() {
  local try
  for ((try = $1; try < $1 + 100; try++)); do
    listening "$try" || { echo "$try"; return; }
  done
  fail "no free port from $1 on"
}

mkdir -p target
exec 9>target/quickstart.lock
flock -n 9 || fail "another quickstart runs on this folder"

# As an own setting would: what the environment says about NATS is not for the demo.
unset NATS_URL NATS_CREDS NATS_NKEY NATS_CERT NATS_KEY NATS_CA NATS_CONTEXT STATE_DIRECTORY
server=$(deploy/nats.sh)
PATH=$(dirname "$server"):$PATH
cargo build --release --workspace

port=$(free_port 4222)
[[ $port == 4222 ]] || say "port 4222 is in use: the broker gets $port"
rm -rf "$demo"
mkdir -p "$demo"/{state,node-a/media,node-b/media}
export PATH XDG_STATE_HOME=$demo/state MEDIAMIRROR_EMBEDDED_PORT=$port

# start PROGRAM NODE
start() {
  "$bin/$1" run --root "$demo/$2/media" --node "$2" >"$demo/$2/$1.log" 2>&1 9>&- &
  pids+=($!)
}

# alive: fails with the log of a process that has ended.
alive() {
  local i names=(node-a/watcher node-a/replicator node-b/watcher node-b/replicator)
  for i in "${!pids[@]}"; do
    running "${pids[$i]}" || { cat "$demo/${names[$i]}.log" >&2; fail "${names[$i]} ended"; }
  done
}

status() { "$bin/$1" status --json --root "$demo/$2/media" --node "$2" 2>/dev/null || true; }

# field NAME: the first number of this name in JSON on standard input.
field() { grep -o "\"$1\": *[0-9]*" | head -n 1 | grep -o '[0-9]*$' || true; }

listing() { (cd "$1" && find . -path ./.mirror -prune -o -type f -printf '%P\t%s\n' | LC_ALL=C sort); }
count() { find "$1" -path "$1/.mirror" -prune -o -type f -print0 | tr -dc '\0' | wc -c; }

say "starting a watcher and a replicator for each of node-a and node-b"
for node in node-a node-b; do
  start watcher "$node"
  start replicator "$node"
done
for ((n = 0; ; n++)); do
  alive
  ! grep -q '"ready"' <<<"$(status replicator node-b)" || break
  ((n < 60)) || fail "node-b is not ready after $n tries; see $demo/node-b/replicator.log"
  sleep 0.5
done

say "choosing files from $source_folder"
files=0 bytes=0
while IFS=$'\t' read -r -d '' size path; do
  ((files < MAX_FILES)) || break
  ((bytes + size <= MAX_BYTES)) || continue
  files=$((files + 1)) bytes=$((bytes + size))
  printf '%s\0' "$path"
done < <(find "$source_folder" -xdev -type f -readable -size -8M \
  ! -name '*~' ! -name '.~*' ! -name '.#*' ! -name '.nfs*' ! -name '*.tmp' ! -name '*.part' ! -name '*.partial' \
  ! -name '*.crdownload' ! -name '*.swp' -printf '%s\t%P\0' 2>/dev/null) >"$demo/files"
total=$(tr -dc '\0' <"$demo/files" | wc -c)
((total > 0)) || fail "no readable files below $source_folder"

begin=$(date +%s.%N)
tar -C "$source_folder" --null -T "$demo/files" -cf - | tar -C "$demo/node-a/media" --no-same-owner -xf -
bar=''
[[ ! -t 1 ]] || bar=$'\r'
last=0
while :; do
  alive
  here=$(count "$demo/node-b/media")
  now=$(date +%s.%N)
  seconds=$(awk -v a="$begin" -v b="$now" 'BEGIN { printf "%.1f", b - a }')
  if [[ -n $bar ]]; then
    printf '%s%5d of %d files on node-b, %s s ' "$bar" "$here" "$total" "$seconds"
  elif ((SECONDS - last >= 2)); then
    last=$SECONDS
    say "$here of $total files on node-b, $seconds s"
  fi
  if ((here == total)) && [[ $(listing "$demo/node-a/media") == "$(listing "$demo/node-b/media")" ]]; then
    record=$(status replicator node-b)
    version=$(field version <<<"$record") head=$(field head <<<"$record")
    [[ -z $version || $version != "$head" || $version == 0 ]] || break
  fi
  awk -v s="$seconds" -v limit="$WAIT_SECONDS" 'BEGIN { exit s > limit }' ||
    fail "node-b has $here of $total files after $seconds s; see $demo/node-b/replicator.log"
  sleep 0.2
done
[[ -z $bar ]] || say

bytes=$(listing "$demo/node-b/media" | awk -F '\t' '{ sum += $NF } END { printf "%d", sum }')
say "node-b equals node-a: $total files, $bytes bytes, in $seconds s; version $version of $head in the log"

if $check; then
  sums() { (cd "$1" && find . -path ./.mirror -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum); }
  if ! diff <(sums "$demo/node-a/media") <(sums "$demo/node-b/media") >"$demo/difference"; then
    head -n 20 "$demo/difference" >&2
    fail "sha256sum finds a difference"
  fi
  say "sha256sum agrees on both sides: $total files"
  stop_all
  for pid in "${pids[@]}"; do ! running "$pid" || fail "process $pid is still there"; done
  ! listening "$port" || fail "the broker is still there"
  exit 0
fi

cat <<EOF

Add, change and remove files below either folder, and look at the other:
  $demo/node-a/media
  $demo/node-b/media

What the two commands say (with XDG_STATE_HOME=$demo/state MEDIAMIRROR_EMBEDDED_PORT=$port):
  target/release/replicator status --root $demo/node-b/media --node node-b
  target/release/replicator log --follow --root $demo/node-b/media --node node-b

And with the nats CLI:
  export NATS_URL=nats://127.0.0.1:$port
  nats stream ls
  nats stream info MIRROR_MEDIA
  nats sub 'mirror.media.>'
  nats consumer info MIRROR_MEDIA replicator-node-b
  nats object ls MIRROR_MEDIA_BLOBS

Ctrl-C stops everything; logs are in demo/node-*/.
EOF
while alive; do sleep 1; done
