#!/usr/bin/env bash
# Builds the Debian package of both programs, and prints its path.
#
#   deploy/package.sh [--check]
#
# cargo-deb is installed below target/tools. The programs are built by the profile `dist`; with --check by `release`, and the package is
# then installed in a clean Debian (debootstrap, as root), both programs mirror a file there, and it is upgraded, removed and purged.
set -euo pipefail
cd "$(dirname "$0")/.."

CARGO_DEB=3.6.2
check=false profile=dist
case ${1:-} in
  "") ;;
  --check) check=true profile=release ;;
  *) echo "usage: deploy/package.sh [--check]" >&2; exit 2 ;;
esac

tools=$PWD/target/tools
fast=()
! $check || fast=(--fast)
say() { printf '== %s\n' "$*" >&2; }

if [[ $("$tools/bin/cargo-deb" --version 2>/dev/null) != *"$CARGO_DEB"* ]]; then
  say "installing cargo-deb $CARGO_DEB below target/tools"
  cargo install --quiet --locked --root "$tools" --target-dir "$tools/build" "cargo-deb@$CARGO_DEB" >&2
fi

say "building (profile $profile)"
cargo build --profile "$profile" -p mediamirror-watcher -p mediamirror-replicator -p mediamirror-package >&2
rm -rf target/package
"target/$profile/mediamirror-package" target/package
# bash looks for a completion by the command's name, without an ending.
for file in target/package/completions/*.bash; do mv "$file" "${file%.bash}"; done

# package VERSION: builds it from what is there.
package() {
  "$tools/bin/cargo-deb" --no-build --quiet --strip "${fast[@]}" --profile "$profile" -p mediamirror-replicator --deb-version "$1" \
    --output "$PWD/target/package/mediamirror_$1.deb" >&2
  echo "$PWD/target/package/mediamirror_$1.deb"
}

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
deb=$(package "$version-1")
if ! $check; then
  echo "$deb"
  exit
fi

[[ $(id -u) == 0 ]] || { echo "--check makes a root of its own: run it as root" >&2; exit 1; }
command -v debootstrap >/dev/null || { apt-get update -q && apt-get install -y -q debootstrap; } >&2
newer=$(package "$version-2")
server=$(deploy/nats.sh current)

root=$(mktemp -d)
broker=
end() {
  [[ -z $broker ]] || kill "$broker" 2>/dev/null || true
  # Nothing of ours runs in there any more, or the folder stays.
  pkill -9 -f "^/usr/bin/mediamirror-" 2>/dev/null || true
  umount "$root/proc" 2>/dev/null || true
  rm -rf "$root"
}
trap end EXIT
# Others have to come through.
chmod 755 "$root"

say "a clean Debian in $root"
# shellcheck disable=SC1091
debootstrap --variant=minbase --include=ca-certificates "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$root" \
  "$(sed -n 's/^URIs: *//p; s/^deb \([^[ ]*\) .*/\1/p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1)" >"$root.log" 2>&1 ||
  { tail -n 20 "$root.log" >&2; exit 1; }
rm -f "$root.log"
mount -t proc proc "$root/proc"
cp "$deb" "$newer" "$root/tmp/"
within() { chroot "$root" "$@"; }

say "install"
within apt-get install -y -q --no-install-recommends "/tmp/${deb##*/}" >&2
within mediamirror-watcher --version >&2
for page in watcher replicator replicator-migrate watcher-run; do test -s "$root/usr/share/man/man1/mediamirror-$page.1.gz"; done
grep -q mediamirror-replicator "$root/usr/share/bash-completion/completions/mediamirror-replicator"
for unit in watcher replicator; do
  test -s "$root/lib/systemd/system/mediamirror-$unit@.service" || test -s "$root/usr/lib/systemd/system/mediamirror-$unit@.service"
done

say "two nodes mirror a file, as the units run them"
"$server" -js -sd "$root/tmp/js" -a 127.0.0.1 -p 14222 -l "$root/tmp/nats.log" &
broker=$!
# node NAME PROGRAM ARGUMENT…
node() {
  local name=$1 program=$2
  shift 2
  install -d -o 33 -g 33 "$root/srv/$name" "$root/var/lib/$name"
  chroot --userspec=33:33 "$root" env -i HOME=/ MEDIAMIRROR_MIRROR=media MEDIAMIRROR_ROOT="/srv/$name" STATE_DIRECTORY="/var/lib/$name" \
    NATS_URL=nats://127.0.0.1:14222 MEDIAMIRROR_HTTP=off "/usr/bin/mediamirror-$program" "$@" --node "$name"
}
# until_true WHAT COMMAND…: waits up to 30 s.
until_true() {
  local what=$1 end=$((SECONDS + 30))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || { echo "no $what within 30 s" >&2; cat "$root"/tmp/*.log >&2; return 1; }
    sleep 0.2
  done
}
node a watcher run 2>"$root/tmp/a.log" &
node b replicator run 2>"$root/tmp/b.log" &
until_true "running watcher" grep -q '"the log is trusted' "$root/tmp/a.log"
echo first >"$root/srv/a/first"
until_true "mirrored file" cmp "$root/srv/a/first" "$root/srv/b/first"

say "upgrade, while they run"
echo '# of the operator' >>"$root/etc/mediamirror/config.toml"
within env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "/tmp/${newer##*/}" >&2
[[ $(within dpkg-query -W -f='${Version}' mediamirror) == "$version-2" ]]
grep -q '^# of the operator' "$root/etc/mediamirror/config.toml"
pkill -TERM -f "^/usr/bin/mediamirror-"
until_true "end of the old programs" sh -c '! pgrep -f "^/usr/bin/mediamirror-"'
node a watcher run 2>"$root/tmp/a.log" &
node b replicator run 2>"$root/tmp/b.log" &
echo second >"$root/srv/a/second"
until_true "mirrored file after the upgrade" cmp "$root/srv/a/second" "$root/srv/b/second"
pkill -TERM -f "^/usr/bin/mediamirror-"
until_true "end of the programs" sh -c '! pgrep -f "^/usr/bin/mediamirror-"'

say "remove, purge"
install -d -o 33 -g 33 "$root/var/lib/mediamirror"
within apt-get remove -y -q mediamirror >&2
test ! -e "$root/usr/bin/mediamirror-watcher"
test -e "$root/etc/mediamirror/config.toml" -a -d "$root/var/lib/mediamirror"
within apt-get purge -y -q mediamirror >&2
test ! -e "$root/etc/mediamirror/config.toml" -a ! -d "$root/var/lib/mediamirror"
cmp "$root/srv/a/second" "$root/srv/b/second"
say "the package installs, works, upgrades, and goes"
echo "$deb"
