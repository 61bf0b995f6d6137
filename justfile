# What people and CI do here. `just` lists it; CONTRIBUTING.md tells more.

set shell := ["bash", "-euo", "pipefail", "-c"]

tools := justfile_directory() / "target" / "tools"
export PATH := tools / "python" / "bin" + ":" + tools / "node" / "node_modules" / ".bin" + ":" + env("PATH")

_list:
    @just --list --unsorted

# Everything that a change has to pass, as CI runs it
ci:
    bash .ci/run

# Install the tools that other recipes call (just, cargo-deny, cargo-fuzz, buf) into target/tools
tools:
    bash .ci/tools

# All Rust tests
test *args:
    cargo test {{ args }}

# The tests over sockets once more, with the registry on the disk
test-disk *args:
    CALLBOARD_TEST_ENGINE=disk cargo test --locked --test main {{ args }}

# Threads against each other in every order, by a checker: hubs, leases, cuts
loom $RUSTC_WORKSPACE_WRAPPER=(justfile_directory() / ".ci" / "loom"):
    cargo test --locked --lib loom_

# Whether what libFuzzer would run compiles, without the minutes that building it takes
fuzz-check $RUSTC_WORKSPACE_WRAPPER=(justfile_directory() / ".ci" / "fuzzing"):
    cargo check --locked --lib --bench benchmarks

# libFuzzer on a target, or on all of them one after the other (needs a nightly compiler): just fuzz filter 60
fuzz target="" seconds="60": tools
    bash .ci/fuzz {{ seconds }} {{ target }}

# Language of the sources: vague openings, "who", retired words, by folder
language:
    cargo test --locked --test main language:: -- --nocapture

# Which folder may use which
layers:
    cargo test --locked --test main layers -- --nocapture

# Format the sources (--check: only look)
fmt *args:
    cargo fmt {{ args }}

# Lints, for the whole and for the light client alone, without TLS and with it
clippy:
    cargo clippy --locked --all-targets -- --deny warnings
    cargo clippy --locked --lib --no-default-features --features client -- --deny warnings
    cargo clippy --locked --lib --no-default-features --features client,tls -- --deny warnings

# The documentation, private items too: a link that leads nowhere is an error
docs $RUSTDOCFLAGS="--deny warnings":
    cargo doc --locked --no-deps --document-private-items

# Licences, bans and sources of the dependencies
deny: tools
    cargo deny --locked check bans licenses sources

# Lint the contract, and refuse a change that breaks programs built against it
buf: tools
    buf lint
    bash .ci/contract

# Clients that nobody here wrote, against a debug build: all, or some of go python java node tools consul
interop *suites:
    cargo build --locked
    tests/interop/run {{ suites }}

# What breaks in the field: so many kills of the registry, stops, networks and disks that fail, storms; five minutes
faults kills="40":
    CALLBOARD_TEST_KILLS={{ kills }} cargo test --locked --test main faults:: -- --ignored --nocapture --test-threads 1

# Peers that mean harm, one kind after the other, and what honest ones notice of it
abuse:
    cargo test --locked --test main abuse:: -- --ignored --nocapture

# Churn, kills and watches for so many minutes: memory, streams and descriptors have to stay where they are
soak minutes="10":
    CALLBOARD_TEST_SOAK_MINUTES={{ minutes }} cargo test --locked --test main faults::soak -- --ignored --nocapture

# Benchmarks: memory, delays and lines of code; load, consul, store, sweep: see benches/benchmarks/main.rs
benchmarks *args:
    cargo bench --locked --bench benchmarks -- {{ args }}

# What others feel while the registry is pressed, and what answers cost that nobody takes
pressure:
    cargo test --release --locked --test main -- pressure unread --ignored --nocapture --test-threads 1

# 10,000 watches and 50,000 instances through a kill and a restart; `just settle 30s` where two cores are busy with other things
settle $SETTLE="10s" $CARGO_PROFILE_RELEASE_LTO="off" $CARGO_PROFILE_RELEASE_CODEGEN_UNITS="16":
    cargo test --locked --release --test main settle::scale -- --ignored --nocapture

# The units of deploy/systemd: understood by systemd, and how little of the system they leave open
systemd:
    bash .ci/systemd
