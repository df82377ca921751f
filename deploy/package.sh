#!/usr/bin/env bash
# Builds the Debian package of both programs, and prints its path.
#
#   deploy/package.sh [--check]
#
# cargo-deb is installed below target/tools. The programs are built by the profile `dist`; with --check by `release`, and the package is
# then installed in a clean Debian with a systemd of its own (debootstrap and systemd-nspawn, as root): the units of two nodes mirror a file, are killed,
# stopped from turning and upgraded; then it is removed and purged.
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
missing=()
command -v debootstrap >/dev/null || missing+=(debootstrap)
command -v systemd-nspawn >/dev/null || missing+=(systemd-container)
((${#missing[@]} == 0)) || { say "installing ${missing[*]}"; apt-get update -q && apt-get install -y -q "${missing[@]}"; } >&2
newer=$(package "$version-2")
server=$(deploy/nats.sh current)

root=$(mktemp -d)
broker= machine=
end() {
  [[ -z $broker ]] || kill "$broker" 2>/dev/null || true
  # With it goes everything in there.
  [[ -z $machine ]] || { kill "$machine" 2>/dev/null && wait "$machine" 2>/dev/null; } || true
  rm -rf "$root" "$root".*
}
trap end EXIT
# Others have to come through.
chmod 755 "$root"

say "a clean Debian in $root"
# shellcheck disable=SC1091
debootstrap --variant=minbase --include=ca-certificates,dbus,systemd,systemd-sysv "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$root" \
  "$(sed -n 's/^URIs: *//p; s/^deb \([^[ ]*\) .*/\1/p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1)" >"$root.log" 2>&1 ||
  { tail -n 20 "$root.log" >&2; exit 1; }
# until_true WHAT SECONDS COMMAND…
until_true() {
  local what=$1 end=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || { echo "no $what in time" >&2; within journalctl --no-pager -o cat -n 40 >&2; return 1; }
    sleep 0.2
  done
}
cp "$deb" "$newer" "$root/opt/"
systemd-nspawn -q -D "$root" --register=no --keep-unit -b --console=pipe >"$root.console" 2>&1 &
machine=$!
leader() { pgrep -P "$machine"; }
within() { nsenter -t "$(leader)" -m -u -i -n -p -C -r -w env HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
until_true "systemd" 60 within systemctl is-system-running

say "install"
within apt-get install -y -q --no-install-recommends "/opt/${deb##*/}" >&2
within mediamirror-watcher --version >&2
for page in watcher replicator replicator-migrate watcher-run; do test -s "$root/usr/share/man/man1/mediamirror-$page.1.gz"; done
grep -q mediamirror-replicator "$root/usr/share/bash-completion/completions/mediamirror-replicator"
for unit in watcher replicator; do
  test -s "$root/lib/systemd/system/mediamirror-$unit@.service" || test -s "$root/usr/lib/systemd/system/mediamirror-$unit@.service"
done

say "two nodes mirror a file, by their units"
"$server" -js -sd "$root/opt/js" -a 127.0.0.1 -p 14222 -l "$root/opt/nats.log" &
broker=$!
printf 'NATS_URL=nats://127.0.0.1:14222\nMEDIAMIRROR_HTTP=off\nMEDIAMIRROR_NODE=a\n' >"$root/etc/mediamirror/media.env"
# A second node of the same mirror has a folder of its own.
printf 'NATS_URL=nats://127.0.0.1:14222\nMEDIAMIRROR_HTTP=off\nMEDIAMIRROR_NODE=b\nMEDIAMIRROR_MIRROR=media\n' >"$root/etc/mediamirror/other.env"
units=(mediamirror-watcher@media mediamirror-replicator@media mediamirror-watcher@other mediamirror-replicator@other)
install -d -o 33 -g 33 "$root/srv/media" "$root/srv/other"
# It returns once each has said that it is ready.
within systemctl start "${units[@]}"
wrote() { install -o 33 -g 33 -m 644 <(echo "$2") "$root/srv/$1/$2"; }
passes() { wrote media "$1" && until_true "mirrored file $1" 30 cmp "$root/srv/media/$1" "$root/srv/other/$1"; }
passes first
wrote other back && until_true "file that came back" 30 cmp "$root/srv/media/back" "$root/srv/other/back"
pid() { within systemctl show -P MainPID "$1"; }
# All but the media folder and the state is read-only.
sees() { within nsenter -t "$(pid mediamirror-watcher@media)" -m "$@"; }
sees touch /srv/media/probe.tmp
if sees touch /etc/mediamirror/written 2>/dev/null; then echo "the unit may write to /etc" >&2; exit 1; fi

# another UNIT PID: it runs again, as another process.
another() { within systemctl is-active -q "$1" && [[ $(pid "$1") != "$2" ]]; }
say "a process that is killed is started again, and so is one that does not turn (watchdog, 30 s)"
was=$(pid mediamirror-watcher@media)
within systemctl kill -s KILL mediamirror-watcher@media
until_true "restart after kill -9" 30 another mediamirror-watcher@media "$was"
was=$(pid mediamirror-replicator@other)
within systemctl kill -s STOP mediamirror-replicator@other
until_true "restart by the watchdog" 90 another mediamirror-replicator@other "$was"
passes second

say "upgrade, while they run"
was=$(pid mediamirror-watcher@media)
echo '# of the operator' >>"$root/etc/mediamirror/config.toml"
within apt-get install -y -q --no-install-recommends "/opt/${newer##*/}" >&2
[[ $(within dpkg-query -W -f='${Version}' mediamirror) == "$version-2" ]]
grep -q '^# of the operator' "$root/etc/mediamirror/config.toml"
until_true "restart by the upgrade" 30 another mediamirror-watcher@media "$was"
passes third

say "remove, purge"
within apt-get remove -y -q mediamirror >&2
if pgrep -f "^/usr/bin/mediamirror-" >&2; then echo "programs run on after the package is gone" >&2; exit 1; fi
test ! -e "$root/usr/bin/mediamirror-watcher"
test -e "$root/etc/mediamirror/config.toml" -a -d "$root/var/lib/mediamirror"
within apt-get purge -y -q mediamirror >&2
test ! -e "$root/etc/mediamirror/config.toml" -a ! -d "$root/var/lib/mediamirror"
cmp "$root/srv/media/third" "$root/srv/other/third"
say "the package installs, works, upgrades, and goes"
echo "$deb"
