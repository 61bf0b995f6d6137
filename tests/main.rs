//! Integration tests: one program that uses a registry through its protocols.
//!
//! | module | contents |
//! |---|---|
//! | `harness` | servers in this process and as processes, clients, watches that record their messages |
//! | `invariant` | the guarantees, one file each: checkers of recorded histories |
//! | `history` | concurrent writers and readers of every kind, checked by all invariants |
//! | `lease` | registration, expiry and take-over |
//! | `checks`, `check_state`, `http_checks` | health checks, their state over restarts, HTTP probes and redirects |
//! | `self_preservation` | self-preservation |
//! | `watch` | messages of one watch, case by case |
//! | `balancing` | effective weights, policies and subsets on a watch |
//! | `stalled`, `unread`, `unread_http` | readers that stop reading, on every protocol |
//! | `http_host` | hosts that the HTTP listener serves |
//! | `handshake`, `limits`, `age`, `descriptors` | connections: start, limits, end |
//! | `caller` | the caller of every event |
//! | `cancelled` | clients that cancel calls |
//! | `outcome` | writes to a store that does not answer |
//! | `bad_input` | invalid requests |
//! | `balanced_channel` | channels of the Rust client: calls over instances that come, go, drain and are killed |
//! | `settle` | restarts of a registry in memory, with watches that resume |
//! | `several_servers` | commands and clients with several servers: failover, lists over all of them |
//! | `shutdown`, `snapshot` | shutdown with thousands of streams, a service that is larger than a message |
//! | `policy` | policies of services: documents, revisions, errors, kills, exports |
//! | `live_export` | exports of running registries, moves between memory and disk |
//! | `disk`, `process` | the store: kills, exports; kills, stops and restarts of processes |
//! | `dns` | DNS packets |
//! | `etcd` | the client of etcd, against real clusters: `just etcd` |
//! | `systemd` | readiness, watchdog, socket activation |
//! | `tls` | certificates on both sides, their renewal, clients without one |
//! | `abuse` | hostile peers beside well-behaved ones: `just abuse` |
//! | `cluster` | replicas over etcd through faults of both: `just faults-cluster` |
//! | `faults` | kills, stops, failing networks and disks, storms, clocks that jump: `just faults` |
//! | `command_line`, `policy_commands` | commands, their output and exit codes |
//! | `consul`, `consul_fields`, `consul_identity` | Consul's HTTP API: registration, fields, nodes and ids |
//! | `consul_blocking`, `consul_filter` | blocking queries and filters |
//! | `consul_replay` | two recordings of Consul's answers |
//! | `watchers` | the list of readers of every protocol |
//! | `xds_explain` | xDS for operators: streams in the list of clients, explanations, CSDS, metrics |
//! | `xds` | xDS streams of both protocols: subscriptions, endpoints, restarts, bad input, readers that stop |
//! | `writes` | writes that span several instances, through disconnects and kills |
//! | `layers`, `language`, `documents` | dependencies, language and documents of the sources; `lexer` reads Rust for them |
//! | `reference` | reference pages in `docs/`, compared with the code |
//! | `readme` | transcripts of README.md and the book |
//! | `interop` | suites in other languages, which `just interop` runs |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test reports its line")]

mod abuse;
mod age;
mod bad_input;
mod balanced_channel;
mod balancing;
mod caller;
mod cancelled;
mod check_state;
mod checks;
mod cluster;
mod command_line;
mod consul;
mod consul_blocking;
mod consul_fields;
mod consul_filter;
mod consul_identity;
mod consul_replay;
mod descriptors;
mod disk;
mod dns;
mod documents;
mod etcd;
mod faults;
mod handshake;
mod harness;
mod history;
mod http_checks;
mod http_host;
mod interop;
mod invariant;
mod language;
mod layers;
mod lease;
mod lexer;
mod limits;
mod live_export;
mod outcome;
mod policy;
mod policy_commands;
mod pressure;
mod process;
mod readme;
mod reference;
mod self_preservation;
mod settle;
mod several_servers;
mod shutdown;
mod snapshot;
mod stalled;
#[cfg(target_os = "linux")]
mod systemd;
mod tls;
mod unread;
mod unread_http;
mod watch;
mod watchers;
mod writes;
mod xds;
mod xds_explain;
