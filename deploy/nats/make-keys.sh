#!/usr/bin/env bash
# Writes the secrets of a broker and its users, and the includes that the configurations beside this script read them from.
#
#   deploy/nats/make-keys.sh --nodes a,b,c [--brokers HOST,…] [--mirror NAME] [--out DIR] [--client-certificates]
#
# Into DIR (default: secrets/ beside this script, mode 0700):
#   ca.pem ca.key              who signs the certificates; ca.pem is what clients trust (--tls-ca)
#   server.pem server.key      of the brokers, for these names, localhost and 127.0.0.1 (default: this host's name)
#   users/<node>-watcher.nk    the NKey seeds, mode 0600 (--nkey): two for each node, and operator, observer
#   tls.conf cluster.conf accounts/*.conf
#
# What is there stays: run it again with all nodes to add some, or without one to shut it out, then `nats-server --signal reload`.
# With --client-certificates the brokers ask each client for a certificate too (--tls-cert, --tls-key).
# A certificate is good for two years: delete server.pem and run this again for another.
set -euo pipefail
umask 077

here=$(cd "$(dirname "$0")" && pwd)
usage() { sed -n 's/^# \{0,1\}//p' "$0" | sed -n 3p >&2; exit 2; }
nodes="" brokers="" mirror=media out=$here/secrets certificates=false
while (($#)); do
  case $1 in
    --nodes) nodes=${2:?names of nodes} ;;
    --brokers) brokers=${2:?names of hosts} ;;
    --mirror) mirror=${2:?the name of a mirror} ;;
    --out) out=${2:?a folder} ;;
    --client-certificates) certificates=true; shift; continue ;;
    *) usage ;;
  esac
  shift 2
done
[[ -n $nodes ]] || usage
[[ $nodes =~ ^[a-z0-9][a-z0-9_-]*(,[a-z0-9][a-z0-9_-]*)*$ ]] || { echo "not names of nodes: $nodes" >&2; exit 2; }
[[ $mirror =~ ^[a-z0-9][a-z0-9-]{0,31}$ ]] || { echo "not the name of a mirror: $mirror" >&2; exit 2; }
[[ $brokers =~ ^[A-Za-z0-9.,:-]*$ ]] || { echo "not names of hosts: $brokers" >&2; exit 2; }
for reserved in operator observer; do
  [[ ,$nodes, != *,$reserved,* ]] || { echo "a node cannot be called $reserved: that user is no node" >&2; exit 2; }
done
command -v openssl >/dev/null || { echo "openssl is missing: apt-get install openssl" >&2; exit 1; }
brokers=${brokers:-$(hostname)}
mkdir -p "$out/users" "$out/accounts"
out=$(cd "$out" && pwd)

# coded HEX: these bytes with their check (CRC-16/XMODEM, low byte first), as NKeys are written.
coded() {
  local hex=$1 crc=0 at bit
  for ((at = 0; at < ${#hex}; at += 2)); do
    crc=$((crc ^ (16#${hex:at:2} << 8)))
    for ((bit = 0; bit < 8; bit++)); do
      crc=$(((crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1) & 0xffff))
    done
  done
  printf '%s%02x%02x' "$hex" $((crc & 255)) $((crc >> 8)) | bytes | base32 -w 0 | tr -d =
}
# Text of hexadecimal digits as bytes.
bytes() { local hex; hex=$(cat); printf '%b' "$(sed 's/../\\x&/g' <<<"$hex")"; }

# nkey NAME: makes the user's seed where there is none; prints its public key.
nkey() {
  local seed=$out/users/$1.nk public=$out/users/$1.pub key
  if [[ ! -s $seed || ! -s $public ]]; then
    key=$(mktemp)
    openssl genpkey -algorithm ed25519 -out "$key" 2>/dev/null
    # The last 32 bytes of either form are the key itself; 0x95 0x00 begins the seed of a user, 0xa0 the public key of one.
    coded "a0$(openssl pkey -in "$key" -pubout -outform DER | tail -c 32 | od -An -v -tx1 | tr -d ' \n')" >"$public"
    coded "9500$(openssl pkey -in "$key" -outform DER | tail -c 32 | od -An -v -tx1 | tr -d ' \n')" >"$seed"
    rm -f "$key"
    echo "made the key of $1" >&2
  fi
  cat "$public"
}

# certificate FILE NAME SAN USAGE: signed by our own authority.
certificate() {
  [[ ! -s $1.pem ]] || return 0
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" -keyout "$1.key" -out "$1.csr" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA "$out/ca.pem" -CAkey "$out/ca.key" -CAcreateserial -days 730 -out "$1.pem" \
    -extfile <(echo "subjectAltName=$3"; echo "extendedKeyUsage=$4"; echo "keyUsage=digitalSignature") 2>/dev/null
  rm -f "$1.csr"
  echo "made the certificate of $2" >&2
}

if [[ ! -s $out/ca.pem ]]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=mediamirror" \
    -addext keyUsage=critical,keyCertSign,cRLSign -keyout "$out/ca.key" -out "$out/ca.pem" 2>/dev/null
fi
sans=DNS:localhost,IP:127.0.0.1
IFS=, read -ra hosts <<<"$brokers"
for host in "${hosts[@]}"; do
  if [[ $host =~ ^[0-9.]+$|: ]]; then sans+=,IP:$host; else sans+=,DNS:$host; fi
done
certificate "$out/server" "${hosts[0]}" "$sans" serverAuth,clientAuth

tls() {
  echo "cert_file: \"$out/server.pem\""
  echo "key_file: \"$out/server.key\""
  echo "ca_file: \"$out/ca.pem\""
}
{ tls; ! $certificates || echo "verify: true"; } >"$out/tls.conf"

# Brokers know each other by their certificates, and by this password.
[[ -s $out/cluster.password ]] || openssl rand -hex 24 >"$out/cluster.password"
password=$(<"$out/cluster.password")
{
  echo "tls {"; tls; echo "verify: true"; echo "}"
  echo "authorization { user: cluster, password: \"$password\", timeout: 5 }"
  echo "routes: ["
  for host in "${hosts[@]}"; do echo "  \"nats://cluster:$password@$host:6222\""; done
  echo "]"
} >"$out/cluster.conf"

# MIRROR as it is called in names of streams.
upper=${mirror^^}; upper=${upper//-/_}
log=MIRROR_$upper blobs=MIRROR_${upper}_BLOBS records=MIRROR_${upper}_NODES
streams=("$log" "OBJ_$blobs" "KV_$records")
quoted() { local text; text=$(printf '"%s", ' "$@"); echo "[${text%, }]"; }

# What everybody may ask: how the streams are, and what is in them.
read_rights=("\$JS.API.INFO")
for stream in "${streams[@]}"; do
  read_rights+=("\$JS.API.STREAM.INFO.$stream" "\$JS.API.DIRECT.GET.$stream" "\$JS.API.DIRECT.GET.$stream.>")
done
consumers="\$JS.API.CONSUMER.INFO.$log.*"

user() { # NAME PUBLISH SUBSCRIBE
  echo "  { nkey: $(nkey "$1"), permissions: { publish: { allow: $2 }, subscribe: { allow: $3 } } } # $1"
  ! $certificates || certificate "$out/users/$1" "$1" "DNS:$1" clientAuth
}
# services VERB SUBJECT…: what an account gives (export), or takes (import).
services() {
  local verb=$1 subject; shift
  for subject in "$@"; do
    case $verb in
      export) echo "  { service: \"$subject\", response_type: stream, accounts: [READERS, WRITERS] }" ;;
      import) echo "  { service: { account: MIRROR, subject: \"$subject\" } }" ;;
    esac
  done
}
next="\$JS.API.CONSUMER.MSG.NEXT.$log.*" acks="\$JS.ACK.$log.>" values="\$KV.$records.>" objects="\$O.$blobs.>" events="mirror.$mirror.>"
names="\$JS.API.STREAM.NAMES" list="\$JS.API.STREAM.LIST"
IFS=, read -ra each <<<"$nodes"
{
  echo "users: ["
  user operator "$(quoted "\$JS.API.>" "$values" "$objects")" '[">"]'
  echo "]"
  echo "exports: ["
  services export "${read_rights[@]}" "$names" "$list" "$consumers" "$next" "$acks" "$values" "$objects" "$events"
  echo "  { stream: \"$events\", accounts: [READERS] }"
  echo "]"
} >"$out/accounts/mirror.conf"
{
  echo "users: ["
  for node in "${each[@]}"; do
    user "$node-replicator" "$(quoted "${read_rights[@]}" "\$JS.API.CONSUMER.INFO.$log.replicator-$node" \
      "\$JS.API.CONSUMER.MSG.NEXT.$log.replicator-$node" "\$JS.ACK.$log.replicator-$node.>" \
      "\$KV.$records.$node.replicator" "\$KV.$records.$node.wanted")" "$(quoted "_INBOX_${node}_replicator.>" "$events")"
  done
  user observer "$(quoted "${read_rights[@]}" "$names" "$list" "$consumers")" "$(quoted "_INBOX.>" "_INBOX_observer_replicator.>" "_INBOX_observer_watcher.>" "$events")"
  echo "]"
  echo "imports: ["
  services import "${read_rights[@]}" "$names" "$list" "$consumers" "$next" "$acks" "$values"
  echo "  { stream: { account: MIRROR, subject: \"$events\" } }"
  echo "]"
} >"$out/accounts/readers.conf"
{
  echo "users: ["
  for node in "${each[@]}"; do
    user "$node-watcher" "$(quoted "${read_rights[@]}" "$events" "$objects" "\$KV.$records.$node.watcher")" "$(quoted "_INBOX_${node}_watcher.>")"
  done
  echo "]"
  echo "imports: ["
  services import "${read_rights[@]}" "$values" "$objects" "$events"
  echo "]"
} >"$out/accounts/writers.conf"
echo "keys and includes are in $out; the users' seeds are in $out/users"
