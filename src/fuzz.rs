//! Decoders and state machines against bytes that nobody would send. Compiled for tests and for cargo-fuzz alone.
//!
//! A target is a function of bytes that panics when something is wrong. `cargo test` gives each its seeds, changed at random,
//! for a moment; `just fuzz TARGET SECONDS` has libFuzzer look for inputs that go new ways. What it takes to add a target:
//! its function, a line in [`TARGETS`], a program of three lines in `fuzz/targets`, and seeds in `fuzz/seeds`.
//!
//! | target | bytes are |
//! |---|---|
//! | `filter` | a filter, asked of several instances |
//! | `token` | resume tokens, right and wrong ones |
//! | `messages` | gRPC messages, a session of calls and streams |
//! | `client` | messages of a server, read by the client's watch |
//! | `config` | a configuration file |
//! | `registry` | commands, time and readers, beside a naive model |
//! | `record` | an instance on the disk |
//! | `import` | lines of an export |
//! | `http2` | what a peer writes on a gRPC connection |
//! | `http1` | what a peer writes on an HTTP connection |
//! | `dns` | a packet of DNS |
#![expect(clippy::panic, reason = "how a target says that something is wrong")]

mod client;
mod config;
mod dns;
mod draw;
mod filter;
mod http;
mod messages;
mod record;
mod registry;
mod token;
mod world;

#[cfg(test)]
mod tests;

/// Something to be given bytes.
#[derive(Debug, Clone, Copy)]
pub struct FuzzTarget {
    /// Its name, which is also that of its program and of its seeds' folder.
    pub name: &'static str,
    /// Panics when something is wrong.
    pub run: fn(&[u8]),
    /// How many inputs `cargo test` gives it.
    pub inputs: u32,
}

/// All of them.
pub const TARGETS: &[FuzzTarget] = &[
    FuzzTarget { name: "filter", run: filter::run, inputs: 4_000 },
    FuzzTarget { name: "token", run: token::run, inputs: 20_000 },
    FuzzTarget { name: "messages", run: messages::run, inputs: 400 },
    FuzzTarget { name: "client", run: client::run, inputs: 10_000 },
    FuzzTarget { name: "config", run: config::run, inputs: 4_000 },
    FuzzTarget { name: "registry", run: registry::run, inputs: 200 },
    FuzzTarget { name: "record", run: record::run, inputs: 4_000 },
    FuzzTarget { name: "import", run: record::import, inputs: 2_000 },
    FuzzTarget { name: "http2", run: http::two, inputs: 300 },
    FuzzTarget { name: "http1", run: http::one, inputs: 300 },
    FuzzTarget { name: "dns", run: dns::run, inputs: 4_000 },
];

/// Gives bytes to the target of this name.
///
/// # Panics
///
/// When there is none, or when something is wrong with what it tests.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("no target is called {name}: see TARGETS in src/fuzz.rs"));
    (target.run)(input);
}
