# Packages of a Debian suite, downloaded and never installed; sourced, never run, after lib.sh. apt's
# lists, cache and package states are in a folder of the caller's. The mirror is the one that this
# machine's own apt uses, and so are the keys that signatures are checked with.
# shellcheck shell=bash

# private_apt FOLDER SUITE: makes FOLDER ready for the functions below.
private_apt() {
  local mirror
  mirror=$(find_mirror)
  if [ -z "$mirror" ]; then
    apt-get -qq update
    mirror=$(find_mirror)
  fi
  [ -n "$mirror" ] || die "apt knows no mirror of Debian: see its sources.list"
  say "taking packages of Debian $2 from $mirror"
  mkdir -p "$1"/{lists/partial,archives/partial,preferences}
  echo "deb $mirror $2 main" > "$1/sources.list"
  : > "$1/status" # nothing is installed there: apt then names everything that is needed
  PRIVATE_APT=(
    -qq -o Dir::State::lists="$1/lists" -o Dir::State::status="$1/status"
    -o Dir::Cache::archives="$1/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
    -o Dir::Etc::sourcelist="$1/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::Etc::preferencesparts="$1/preferences" -o APT::Sandbox::User=root
    -o APT::Install-Recommends=false -o APT::Architecture=amd64 -o Acquire::Retries=3
    -o DPkg::Post-Invoke::= -o APT::Update::Post-Invoke::=
  )
  private_apt_get update
}

private_apt_get() { apt-get "${PRIVATE_APT[@]}" "$@"; }

# private_apt_closure PACKAGE...: these and all that they depend on, one name a line.
private_apt_closure() { private_apt_get --simulate install "$@" | awk '/^Inst/ { print $2 }'; }

find_mirror() { apt-get indextargets --format '$(REPO_URI)' | grep -v security | head -n 1; }
