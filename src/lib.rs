//! Callboard: a gRPC-native service discovery control plane.
//!
//! Instances sign in and keep signing; whoever watches is told of a change within milliseconds.
//!
//! ```text
//!   cli ─► config ─► server ─► api, dns, web (doors) ─► app ─► engine ─► registry ─► model
//!                       └────► net (connections, hubs) ────────┘
//!   cli ─► client ─► pb (the contract)
//! ```
//!
//! | room | what it does | what it may not know |
//! |---|---|---|
//! | [`model`] | validated types | IO, time, everything else here |
//! | [`registry`] | the sharded map: decisions, rings, leases, cursors | IO, time, runtime, wire formats |
//! | [`engine`] | puts commands in order | doors |
//! | [`app`] | the one path of writes | doors |
//! | [`health_check`] | health checks | doors |
//! | [`protocol::grpc`] | the native gRPC door, health, reflection | other doors |
//! | [`protocol::consul`] | Consul's HTTP API, discovery part | other doors |
//! | [`protocol::dns`] | the DNS door | other doors |
//! | [`protocol::http`] | metrics, readiness, targets for Prometheus | |
//! | [`transport`] | acceptor, workers, hubs, shutdown | doors |
//! | [`client`] | registers and watches, through reconnects | the server |
//! | [`cli`] | one file a verb | |
//!
//! ARCHITECTURE.md has the rules and the reasons.

#[cfg(feature = "server")]
pub mod app;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod clock;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod engine;
#[cfg(any(test, fuzzing))]
#[cfg(feature = "server")]
pub mod fuzz;
#[cfg(feature = "server")]
pub mod health_check;
#[cfg(feature = "server")]
pub mod metrics;
#[cfg(feature = "server")]
pub mod model;
pub mod pb;
#[cfg(feature = "server")]
pub mod protocol;
#[cfg(feature = "server")]
pub mod random;
#[cfg(feature = "server")]
pub mod registry;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub(crate) mod sync;
#[cfg(feature = "server")]
pub mod telemetry;
#[cfg(feature = "server")]
pub mod transport;
