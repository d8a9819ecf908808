# What the scripts share; sourced, never run. Finds or installs the tools, saying what goes where.
# shellcheck shell=bash

# The checkout that this file belongs to.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Exactly this version: it fixes what the executable is made of.
DENO_VERSION=2.7.11
# Tools that are not installed system-wide go here. Never into the checkout: Deno would check and
# compile whatever lies in a node_modules beside the code.
TOOLS=${MIGRATE_AGENT_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/migrate-agent}

# Networks that check TLS put their certificate among the system's.
export DENO_TLS_CA_STORE=${DENO_TLS_CA_STORE:-system,mozilla}
export DENO_NO_UPDATE_CHECK=1
# Where iproute2 and sshd live; not on every PATH.
export PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# deno_is PROGRAM: whether it is the pinned version.
deno_is() { [[ $("$1" --version 2>/dev/null | head -n 1) == "deno $DENO_VERSION "* ]]; }

# Puts the pinned Deno first on PATH, from npm if it is not there.
need_deno() {
  local folder=$TOOLS/deno-$DENO_VERSION
  if command -v deno >/dev/null && deno_is deno; then return; fi
  if ! [ -x "$folder/deno" ]; then
    install_deno "$folder"
  fi
  export PATH=$folder:$PATH
}

# install_deno FOLDER: the program itself, taken from its npm package; no install script is run.
install_deno() {
  local machine package temp
  command -v npm >/dev/null || need_packages npm:npm
  machine=$(uname -m)
  case $machine in
    x86_64) package=linux-x64-glibc ;;
    aarch64) package=linux-arm64-glibc ;;
    *) die "Cannot install Deno: no package for the architecture '$machine', only x86_64 and aarch64" ;;
  esac
  say "installing Deno $DENO_VERSION from the npm registry into $1"
  mkdir -p "$TOOLS"
  temp=$(mktemp -d "$TOOLS/install.XXXXXX")
  npm install --silent --no-save --no-audit --no-fund --ignore-scripts \
    --prefix "$temp" "@deno/$package@$DENO_VERSION" >&2
  mkdir -p "$1"
  mv "$temp/node_modules/@deno/$package/deno" "$1/deno"
  rm -rf "$temp"
  chmod +x "$1/deno"
  deno_is "$1/deno" || die "Cannot use the Deno in $1: it is not version $DENO_VERSION"
}

# need_packages PROGRAM:PACKAGE...: installs the Debian package of every program that is missing.
need_packages() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    die "Please install the missing packages first (Debian's names): ${missing[*]}"
  fi
  say "installing Debian packages, without starting their services: ${missing[*]}"
  (
    export DEBIAN_FRONTEND=noninteractive
    policy=/usr/sbin/policy-rc.d # what tells packages whether they may start services
    if ! [ -e $policy ]; then
      trap 'rm -f $policy' EXIT
      printf '#!/bin/sh\nexit 101\n' > $policy
      chmod +x $policy
    fi
    # Package lists may be absent, or too old to find the files.
    apt-get -qq -o Acquire::Retries=3 update
    apt-get -qq -o Acquire::Retries=3 install -y --no-install-recommends "${missing[@]}"
  ) > /dev/null || die "Cannot install ${missing[*]}: see apt-get's message above"
}

# What running a migration needs.
need_qemu() { need_packages qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils; }

# What the tests need besides.
need_test_tools() {
  need_packages qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils nasm:nasm nbdkit:nbdkit \
    nbdinfo:libnbd-bin ip:iproute2 socat:socat ansible-playbook:ansible-core \
    sshd:openssh-server ssh:openssh-client jq:jq zsh:zsh openssl:openssl tcpdump:tcpdump losetup:util-linux mount:mount setpriv:util-linux \
    mkfs.ext4:e2fsprogs
}

# A second, newer QEMU for the tests between versions; named by QEMU_NEWER if there is one already.
need_newer_qemu() {
  [ -z "${QEMU_NEWER:-}" ] || return 0
  "$ROOT/scripts/newer-qemu" "$TOOLS/newer-qemu" || return 0 # the tests say what they lack
  export QEMU_NEWER=$TOOLS/newer-qemu/qemu-system-x86_64
}

# The Xen hosts of the tests, built once for each state of their recipe; named by XEN_RIG if they are
# there already.
need_xen_rig() {
  local recipe
  [ -z "${XEN_RIG:-}" ] || return 0
  recipe=$(cat "$ROOT"/test/xen/rig/* "$ROOT/scripts/private_apt.sh" | sha256sum | head -c 12)
  "$ROOT/test/xen/rig/build" "$TOOLS/xen-rig-$recipe" || return 0 # the tests say what they lack
  export XEN_RIG=$TOOLS/xen-rig-$recipe
}

# Builds dist/migrate-agent unless it is newer than everything that it is made of.
build_if_needed() {
  local built=$ROOT/dist/migrate-agent newer
  need_deno
  if [ -x "$built" ]; then
    newer=$(find "$ROOT"/{agents,src,deno.json,deno.lock,scripts/build} -newer "$built" -print -quit)
    [ -n "$newer" ] || return 0
  fi
  "$ROOT/scripts/build"
}
