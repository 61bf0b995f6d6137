# Sourced by lib.sh and by ../etcd/install, with `suite` and `interop` set: the cache, and packages of Debian.
# shellcheck shell=bash

caches="${CALLBOARD_INTEROP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/callboard-interop}"
cache="$caches/$suite"
mkdir -p "$cache"

fail() {
    echo "interop: $suite: $*" >&2
    exit 1
}

need() {
    command -v "$1" >/dev/null || fail "no \`$1\` on the PATH: $2"
}

# Unpacks packages of Debian 12 into $cache/root, which needs no root. $cache/unpacked has the checksum of the list. A package
# that the list names without a version gets security updates, which replace the version before.
debian_packages() { # LIST, a file below the directory of the suites or with an absolute path: a package a line
    local list="$interop/$1" state="$cache/apt" listed names package
    [[ "$1" != /* ]] || list="$1"
    listed="$(cksum <"$list")"
    [[ ! -e "$cache/unpacked" || "$(<"$cache/unpacked")" != "$listed" ]] || return 0
    need apt-get "$1 names packages of Debian 12"
    rm -rf "$cache"
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/packages"
    local apt=(apt-get -qq -o APT::Sandbox::User="$(id -un)" -o Dir::State::lists="$state/lists" -o Dir::Cache="$state/cache")
    "${apt[@]}" update >&2 || fail "apt-get could not read the lists of packages: see its message above"
    mapfile -t names <"$list"
    (cd "$state/packages" && "${apt[@]}" download "${names[@]}" >&2) ||
        fail "apt-get could not download $1, which needs Debian 12: see its message above"
    for package in "$state/packages"/*.deb; do
        dpkg -x "$package" "$cache/root"
    done
    rm -rf "$state"
    echo "$listed" >"$cache/unpacked"
}
