# Sourced by run and upgrade, after lib.sh: programs of the clients, and namespaces of their own.
# shellcheck shell=bash
here="$interop/replicas"

# The replicas have one name, and the ports of a registry, on addresses that no other program sees.
isolated=(unshare --mount --net --pid --fork --kill-child --mount-proc)
[[ $(id -u) == 0 ]] || isolated+=(--user --map-root-user)
need unshare "install util-linux (Debian: util-linux)"
need go "install Go 1.26 or newer from https://go.dev/dl"

build_clients() { # CLIENT…: clients of the suite xds
    local name
    for name in "$@"; do
        [[ -x "$interop/xds/clients/$name/build" ]] || fail "no client \`$name\` in ${interop#"$root/"}/xds/clients"
        "$interop/xds/clients/$name/build" || fail "the client $name was not built: see the message above"
    done
    (cd "$interop/xds" && go build -modfile=clients/go-old/go.mod -o "$cache/backend" ./backend)
    (cd "$interop/consul/go" && go build -o "$cache/" ./register ./discover)
}

run_isolated() { # PROGRAM [ARGUMENTS…]: a program of this directory in Python, in place of this process
    ETCD="$("$root/tests/etcd/install")"
    python_env
    python_stubs
    # The name of all replicas, and a resolver that asks each of them.
    cp "$here/hosts" "$here/resolv.conf" "$cache"
    export ETCD REPLICAS_PROGRAMS="$cache" PYTHONPATH="$here:$interop/xds/driver:$PYTHONPATH"
    # shellcheck disable=SC2016 # the inner bash expands the variables
    exec "${isolated[@]}" bash -euo pipefail -c '
        python3 "$0/loopback.py"
        mount --bind "$REPLICAS_PROGRAMS/hosts" /etc/hosts
        mount --bind "$REPLICAS_PROGRAMS/resolv.conf" /etc/resolv.conf
        exec "$@"' "$here" "$venv/bin/python" "$here/$1" "${@:2}"
}
