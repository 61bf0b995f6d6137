//! Fuzz targets for decoders and state machines. Compiled for tests and for cargo-fuzz only.
//!
//! A target is a function of bytes that panics when it finds a defect. `cargo test` runs each target on random mutations of its
//! seeds; `just fuzz TARGET SECONDS` runs it with libFuzzer, which searches for inputs that reach new code. A new target needs its
//! function, an entry in [`TARGETS`], a program of three lines in `fuzz/targets`, and seeds in `fuzz/seeds`.
//!
//! | target | input |
//! |---|---|
//! | `filter` | a filter, evaluated on several instances |
//! | `token` | valid and invalid resume tokens |
//! | `messages` | gRPC messages, a session of calls and streams |
//! | `xds` | requests of an xDS stream of either protocol, and for the status of clients |
//! | `client` | messages of a server, read by the watch of the client |
//! | `config` | a configuration file |
//! | `policy` | the document of a policy |
//! | `registry` | commands, time and reads, compared with a naive model |
//! | `record` | a record of an instance or a policy |
//! | `etcd` | a key or a value of a registry in etcd |
//! | `import` | lines of an export |
//! | `http2` | bytes of a peer on a gRPC connection |
//! | `http1` | bytes of a peer on an HTTP connection |
//! | `dns` | a DNS packet |
#![expect(clippy::panic, reason = "a target reports a defect by a panic")]

mod client;
mod config;
mod dns;
mod etcd;
mod filter;
mod http;
mod input_cursor;
mod messages;
mod policy;
mod record;
mod registry;
mod server;
mod token;
mod xds;

#[cfg(test)]
mod tests;

/// Function that is run on arbitrary bytes.
#[derive(Debug, Clone, Copy)]
pub struct FuzzTarget {
    /// Name of the target, of its program and of the folder of its seeds.
    pub name: &'static str,
    /// Function that panics when it finds a defect.
    pub run: fn(&[u8]),
    /// Number of inputs in `cargo test`.
    pub inputs: u32,
}

/// All targets.
pub const TARGETS: &[FuzzTarget] = &[
    FuzzTarget { name: "filter", run: filter::run, inputs: 4_000 },
    FuzzTarget { name: "token", run: token::run, inputs: 20_000 },
    FuzzTarget { name: "messages", run: messages::run, inputs: 400 },
    FuzzTarget { name: "xds", run: xds::run, inputs: 2_000 },
    FuzzTarget { name: "client", run: client::run, inputs: 10_000 },
    FuzzTarget { name: "config", run: config::run, inputs: 4_000 },
    FuzzTarget { name: "policy", run: policy::run, inputs: 4_000 },
    FuzzTarget { name: "registry", run: registry::run, inputs: 200 },
    FuzzTarget { name: "record", run: record::run, inputs: 4_000 },
    FuzzTarget { name: "etcd", run: etcd::run, inputs: 4_000 },
    FuzzTarget { name: "import", run: record::import, inputs: 2_000 },
    FuzzTarget { name: "http2", run: http::two, inputs: 300 },
    FuzzTarget { name: "http1", run: http::one, inputs: 300 },
    FuzzTarget { name: "dns", run: dns::run, inputs: 4_000 },
];

/// Runs the target of this name on an input.
///
/// # Panics
///
/// When there is no such target, or the target finds a defect.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("no target is called {name}: see TARGETS in src/fuzz.rs"));
    (target.run)(input);
}
