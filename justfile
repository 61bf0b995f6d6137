# Recipes for people and for CI. `just` lists them; CONTRIBUTING.md describes them.

set shell := ["bash", "-euo", "pipefail", "-c"]

tools := justfile_directory() / "target" / "tools"
export PATH := tools / "python" / "bin" + ":" + tools / "node" / "node_modules" / ".bin" + ":" + env("PATH")

_list:
    @just --list --unsorted

# All checks that a change has to pass, as CI runs them
ci:
    bash .ci/run

# Install the tools of the other recipes (just, cargo-deny, cargo-fuzz, mdbook, buf) into target/tools
tools:
    bash .ci/tools

# The Rust tests; those that take minutes have recipes of their own below
test *args:
    cargo test {{ args }}

# Leaves out the tests in which the engine makes no difference
engine_tests := "--skip balanced_channel:: --skip command_line:: --skip descriptors:: --skip dns:: --skip documents:: --skip handshake:: \
    --skip http_checks:: --skip http_host:: --skip interop:: --skip invariant:: --skip language:: --skip layers:: --skip lexer:: \
    --skip pressure:: --skip readme:: --skip reference:: --skip stalled:: --skip systemd:: --skip tls:: --skip unread:: \
    --skip unread_http:: --skip xds::"

# The tests of what every engine promises, with the registry on disk
test-disk *args:
    CALLBOARD_TEST_ENGINE=disk cargo test --locked --test main -- {{ engine_tests }} {{ args }}

# The tests of what every engine promises, with the registry in etcd (needs Go)
test-etcd *args:
    tests/etcd/with-etcd env CALLBOARD_TEST_ENGINE=etcd cargo test --locked --test main -- {{ engine_tests }} {{ args }}

# Wake-ups, leases and snapshots in every order in which threads can run, by a model checker
loom $RUSTC_WORKSPACE_WRAPPER=(justfile_directory() / ".ci" / "loom"):
    cargo test --locked --lib loom_

# Compile the code that only cargo-fuzz compiles, without the minutes that building libFuzzer takes
fuzz-check $RUSTC_WORKSPACE_WRAPPER=(justfile_directory() / ".ci" / "fuzzing"):
    cargo check --locked --lib --bench benchmarks

# libFuzzer on one target, or on all of them one after the other (needs a nightly compiler): just fuzz filter 60
fuzz target="" seconds="60": tools
    bash .ci/fuzz {{ seconds }} {{ target }}

# Language of the sources: vague openings, "who", retired words, by folder
language:
    cargo test --locked --test main language:: -- --nocapture

# Which folder uses which, and whether it may
layers:
    cargo test --locked --test main layers -- --nocapture

# Format the sources (--check: only look)
fmt *args:
    cargo fmt {{ args }}

# Lints, for all targets and for the client alone, with and without TLS
clippy:
    cargo clippy --locked --all-targets -- --deny warnings
    cargo clippy --locked --lib --no-default-features --features client -- --deny warnings
    cargo clippy --locked --lib --no-default-features --features client,tls -- --deny warnings

# Documentation of the code, private items included; a broken link is an error
docs $RUSTDOCFLAGS="--deny warnings":
    cargo doc --locked --no-deps --document-private-items

# The book in docs, into target/book; `cargo test documents` checks its links
book: tools
    mdbook build docs

# Write the reference pages of the book anew, after a change of flags, metrics, errors or exit codes
reference:
    CALLBOARD_WRITE_REFERENCE=1 cargo test --locked --test main reference::

# Licences, bans and sources of the dependencies
deny: tools
    cargo deny --locked check bans licenses sources

# Lint the contract, and reject a change that breaks programs built against it
buf: tools
    buf lint
    bash .ci/contract

# Clients in other languages against a debug build: all, or some of go python java node tools consul xds replicas pages deploy
interop *suites:
    cargo build --locked
    tests/interop/run {{ suites }}

# Replicas of another version replaced by a debug build, one after the other, and back, under clients: just upgrade PATH
upgrade other:
    cargo build --locked
    tests/interop/replicas/upgrade {{ quote(other) }}

# Replicas, and the client of etcd, over real members with kills and stops (needs Go)
etcd filter="etcd::":
    tests/etcd/contract
    etcd="$(tests/etcd/install)" && CALLBOARD_TEST_ETCD_PROGRAM="$etcd" cargo test --locked --test main {{ filter }} -- --ignored --test-threads 2

# The client of etcd on the old version of Debian (needs apt)
etcd-old +filters="etcd::failover etcd::large etcd::security etcd::stopped etcd::transactions etcd::watching":
    etcd="$(tests/etcd/install old)" && CALLBOARD_TEST_ETCD_PROGRAM="$etcd" cargo test --locked --test main -- {{ filters }} --ignored --test-threads 2

# Kills (as many as given) and stops of the registry, failing networks and disks, storms; five minutes, on Linux as root
faults kills="40":
    CALLBOARD_TEST_KILLS={{ kills }} cargo test --locked --test main faults:: -- --ignored --nocapture --test-threads 1

# Replicas over etcd through faults of both, each in a cluster of its own, or one test of them; on Linux as root (needs Go)
faults-cluster test="cluster::":
    etcd="$(tests/etcd/install)" && CALLBOARD_TEST_ETCD_PROGRAM="$etcd" cargo test --locked --test main {{ test }} -- --ignored --nocapture --test-threads 4

# Random faults of replicas and etcd for a number of minutes
soak-cluster minutes="10":
    etcd="$(tests/etcd/install)" && CALLBOARD_TEST_SOAK_MINUTES={{ minutes }} CALLBOARD_TEST_ETCD_PROGRAM="$etcd" cargo test --locked --test main cluster::random_faults -- --ignored --nocapture

# As many kills of replicas, and a quarter as many of etcd's leader: longest silence of a watcher, and live instances that one lost
kills-cluster kills="200":
    etcd="$(tests/etcd/install)" && CALLBOARD_TEST_KILLS={{ kills }} CALLBOARD_TEST_ETCD_PROGRAM="$etcd" cargo test --locked --test main killed_many_times -- --ignored --nocapture --test-threads 1

# Hostile peers, one kind after the other, beside well-behaved ones
abuse:
    cargo test --locked --test main abuse:: -- --ignored --nocapture

# Registrations, kills and watches for a number of minutes; memory, streams and descriptors must not grow
soak minutes="10":
    CALLBOARD_TEST_SOAK_MINUTES={{ minutes }} cargo test --locked --test main faults::soak -- --ignored --nocapture

# Benchmarks: memory, delays and lines of code; load, consul, xds, client, store, sweep, etcd: see benches/benchmarks/main.rs
benchmarks *args:
    cargo bench --locked --bench benchmarks -- {{ args }}

# Delays under load and memory of responses that are not read, within bounds
pressure:
    cargo test --release --locked --test main -- pressure unread --ignored --nocapture --test-threads 1

# 10,000 watches and 50,000 instances through a kill and a restart; `just settle 30s` on a busy machine
settle $SETTLE="10s" $CARGO_PROFILE_RELEASE_LTO="off" $CARGO_PROFILE_RELEASE_CODEGEN_UNITS="16":
    cargo test --locked --release --test main settle::scale -- --ignored --nocapture

# The units of deploy/systemd: valid, and as restricted as they were
systemd:
    bash .ci/systemd
