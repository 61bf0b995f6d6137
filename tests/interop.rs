//! Suites of clients in other languages, which need those languages and are therefore ignored by `cargo test`. `just interop` runs
//! them, as CI does, and so does `cargo test -- --ignored`.

use std::{path::Path, process::Command};

fn suite(name: &str) {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/run");
    let status = Command::new(run).arg(name).env("CALLBOARD", env!("CARGO_BIN_EXE_callboard")).status().unwrap();
    assert!(status.success(), "{name}: {status}");
}

macro_rules! suites {
    ($($name:ident: $needs:literal,)*) => {
        $(
            #[test]
            #[ignore = $needs]
            fn $name() {
                suite(stringify!($name));
            }
        )*
    };
}

suites! {
    consul: "needs Go, Python, Node.js, HAProxy and dig: just interop consul",
    deploy: "needs Go and Python: just interop deploy",
    go: "needs Go: just interop go",
    java: "needs Java and Maven: just interop java",
    node: "needs Node.js: just interop node",
    pages: "needs the languages of the pages, among them Go, Python, Java, Node.js and Rust: just interop pages",
    python: "needs Python: just interop python",
    replicas: "needs the languages of the suite xds, and namespaces of Linux: just interop replicas",
    tools: "needs Go and Python: just interop tools",
    xds: "needs the languages of its clients, among them Go, Python, Java and Node.js: just interop xds",
}
