# Sourced by each suite's `run`. README.md says what it offers.
# shellcheck shell=bash

set -euo pipefail

interop="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$interop/../.." && pwd)"
suite="$(basename "$(cd "$(dirname "$0")" && pwd)")"
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

# Rows of the table. Without the table (a suite run by itself) it only prints which client is tested.
client() {
    echo "interop: $suite: $1, $2" >&2
    if [[ -n "${INTEROP_CLIENTS:-}" ]]; then
        printf '%s\t%s\n' "$1" "$2" >>"$INTEROP_CLIENTS"
    fi
}

# The environment is named after what it is made of: another Python or other pins make another one.
python_env() { # [REQUIREMENTS]
    local wants="${1:-$interop/python/requirements.txt}" name
    need python3 "install Python 3.10 or newer with venv (Debian: python3-venv)"
    name="$({ python3 --version && cat "$wants"; } | cksum | cut -d' ' -f1)"
    venv="$caches/venv-$name"
    if [[ ! -e "$venv/complete" ]]; then
        rm -rf "$venv"
        python3 -m venv "$venv" || fail "no virtual environment: install venv (Debian: python3-venv)"
        "$venv/bin/pip" install --quiet --requirement "$wants" >&2 || fail "pip refused ${wants#"$interop/"}: its message is above"
        touch "$venv/complete"
    fi
}

# What is installed carries the sum of the lock file that it was installed from.
node_packages() { # in the working directory, which has a package-lock.json
    local locked
    need node "install Node.js 20 or newer (Debian: nodejs)"
    need npm "install npm (Debian: npm)"
    locked="$(cksum <package-lock.json)"
    if [[ ! -e node_modules/.locked || "$(<node_modules/.locked)" != "$locked" ]]; then
        npm ci --ignore-scripts --no-audit --no-fund --silent >&2 || fail "npm could not install package-lock.json: run \`npm ci\` in $PWD to see why"
        echo "$locked" >node_modules/.locked
    fi
}

protoc() {
    python_env
    (cd "$root" && "$venv/bin/python" -m grpc_tools.protoc --proto_path proto "$@")
}

certificates() { # DIRECTORY: certificates/main.go says which
    go run "$interop/certificates/main.go" "$1" || fail "no certificates: Go's message is above"
}

CALLBOARD="${CALLBOARD:-${CARGO_TARGET_DIR:-$root/target}/debug/callboard}"
[[ "$CALLBOARD" == /* ]] || CALLBOARD="$PWD/$CALLBOARD"
[[ -x "$CALLBOARD" ]] || fail "no program at $CALLBOARD: build it with \`cargo build\`, or name one in CALLBOARD"
export CALLBOARD
