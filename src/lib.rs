//! Callboard: a service registry and discovery control plane.
//!
//! Instances register and renew leases; watchers receive every change within milliseconds. Programs use it through gRPC,
//! through Consul's HTTP API, or through DNS.
//!
//! A Rust program that registers or calls instances needs [`client`], and the messages in [`pb`]. The other modules are the
//! server. To build without it, use `default-features = false` and the feature `client`, with `tls` if needed.
//!
//! ```text
//!   cli ─► config ─► server ─► protocol::{grpc, consul, dns, http} ─► app ─► engine ─► registry ─► model
//!                       └────► transport, health_check ───────────────┘
//!   cli ─► client ─► pb
//! ```
//!
//! | module | contents |
//! |---|---|
//! | [`model`] | validated types, the filter language |
//! | [`registry`] | state machine: commands, events, leases, snapshots |
//! | [`engine`] | order and durability of commands: in memory or on disk |
//! | [`etcd`] | client of etcd |
//! | [`app`] | what all protocols share: the write path, the caller, watchers |
//! | [`balancing`] | arithmetic of load balancing |
//! | [`health_check`] | schedule, probes and results of health checks |
//! | [`protocol::grpc`] | native gRPC API, health, reflection |
//! | [`protocol::consul`] | Consul's HTTP API, discovery part |
//! | [`protocol::dns`] | DNS |
//! | [`protocol::http`] | metrics, readiness, Prometheus targets |
//! | [`transport`] | listeners, connections, workers, TLS, limits |
//! | [`server`] | start and shutdown of all parts |
//! | [`client`] | registration, watch, and channels that balance calls |
//! | [`pb`] | messages and services of the gRPC API, generated from `proto/` |
//! | [`cli`] | command line, one file for each command |
//! | [`reference`](mod@reference) | reference pages of the documentation |
//!
//! ARCHITECTURE.md has the rules between the modules, and the reasons.
#![cfg_attr(
    not(feature = "server"),
    allow(rustdoc::broken_intra_doc_links, reason = "the modules of the server are left out")
)]

#[cfg(feature = "server")]
pub mod app;
#[cfg(feature = "server")]
pub mod balancing;
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
#[cfg(feature = "server")]
pub mod etcd;
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
pub mod reference;
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
