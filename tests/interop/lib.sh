# Sourced by the `run` of each suite. README.md describes its functions.
# shellcheck shell=bash

set -euo pipefail

interop="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$interop/../.." && pwd)"
suite="$(cd "$(dirname "$0")" && pwd)"
suite="${suite#"$interop/"}"
source "$interop/packages.sh"

# Adds a row to the table. A suite that is run by itself has no table; then this only prints the client and its version.
client() {
    echo "interop: $suite: $1, $2" >&2
    if [[ -n "${INTEROP_CLIENTS:-}" ]]; then
        printf '%s\t%s\n' "$1" "$2" >>"$INTEROP_CLIENTS"
    fi
}

# The name of the environment is a checksum of the Python version and of the requirements, so that a change of either makes a
# new one.
python_env() { # [REQUIREMENTS]
    local requirements="${1:-$interop/python/requirements.txt}" name
    need python3 "install Python 3.10 or newer with venv (Debian: python3-venv)"
    name="$({ python3 --version && cat "$requirements"; } | cksum | cut -d' ' -f1)"
    venv="$caches/venv-$name"
    if [[ ! -e "$venv/complete" ]]; then
        rm -rf "$venv"
        python3 -m venv "$venv" || fail "no virtual environment: install venv (Debian: python3-venv)"
        "$venv/bin/pip" install --quiet --requirement "$requirements" >&2 || fail "pip could not install ${requirements#"$interop/"}: see its message above"
        touch "$venv/complete"
    fi
}

# node_modules/.locked has the checksum of the lock file that the packages were installed from.
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

# Debian's Ruby looks for its files below /usr, unless these variables name other directories.
ruby_env() { # ROOT of debian_packages; the program is then ROOT/usr/bin/ruby3.1
    local lib="$1/usr/lib" machine gems grpc protobuf
    machine="$lib/$(uname -m)-linux-gnu"
    gems="$machine/rubygems-integration/3.1.0"
    grpc="$(echo "$gems"/gems/grpc-*/src/ruby)"
    protobuf="$(echo "$gems"/extensions/*/3.1.0/google-protobuf-*)"
    export LD_LIBRARY_PATH="$machine" RUBYOPT=--disable-gems
    export RUBYLIB="$lib/ruby/vendor_ruby:$machine/ruby/vendor_ruby/3.1.0:$lib/ruby/3.1.0:$machine/ruby/3.1.0:$protobuf:$grpc/lib:$grpc/pb"
}

# Builds outside the source tree. The first attempt is offline, so that later runs need no network.
maven_build() { # the pom.xml of the suite; the classes and the class path are then in $cache/build
    if ! command -v mvn >/dev/null && [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
        apt-get install --yes --quiet --no-install-recommends maven default-jdk-headless >&2 ||
            fail "apt-get could not install Maven: see its message above"
    fi
    need java "install a JDK, 17 or newer (Debian: default-jdk-headless)"
    need mvn "install Maven 3.8 or newer (Debian: maven)"
    local command=(mvn --batch-mode --quiet -Dstyle.color=never --file "$interop/$suite/pom.xml" "-Dinterop.build=$cache/build")
    "${command[@]}" --offline compile &>/dev/null || "${command[@]}" compile >&2 || fail "Maven could not build the client: see its message above"
}

run_java() { # CLASS [ARGUMENTS…]: a class of maven_build, in this process
    exec java -Xmx128m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$cache/build/classes:$(<"$cache/build/classpath")" "$@"
}

protoc() {
    python_env
    (cd "$root" && "$venv/bin/python" -m grpc_tools.protoc --proto_path proto "$@")
}

python_stubs() { # generates stubs of the native API and of xDS into $cache/stubs, and sets PYTHONPATH to them and to the suite python
    rm -rf "$cache/stubs"
    mkdir "$cache/stubs"
    protoc --python_out="$cache/stubs" --pyi_out="$cache/stubs" --grpc_python_out="$cache/stubs" \
        callboard/v1/{instance,registry,discovery,admin,xds}.proto $(cd "$root/proto" && find envoy google -name '*.proto')
    export PYTHONPATH="$cache/stubs:$interop/python" PYTHONDONTWRITEBYTECODE=1
}

certificates() { # DIRECTORY [NAME…]: certificates/main.go lists the files; the names are further ones of the server
    go run "$interop/certificates/main.go" "$@" || fail "Go could not make the certificates: see its message above"
}

CALLBOARD="${CALLBOARD:-${CARGO_TARGET_DIR:-$root/target}/debug/callboard}"
[[ "$CALLBOARD" == /* ]] || CALLBOARD="$PWD/$CALLBOARD"
[[ -x "$CALLBOARD" ]] || fail "no program at $CALLBOARD: build it with \`cargo build\`, or name one in CALLBOARD"
export CALLBOARD
