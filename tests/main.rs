//! Callboard from outside: one program over real gRPC.
//!
//! | module | holds |
//! |---|---|
//! | `harness` | servers in this process and as processes, connections, watches that keep a record |
//! | `promise` | what Callboard promises, a file for each: a checker over what was recorded |
//! | `history` | concurrent writers and readers of every kind, and all checkers over what came of it |
//! | `lease` | who stays and who goes, and when |
//! | `check_state` | states of checks over restarts |
//! | `checks` | health checks, and what readers hear of them |
//! | `http_checks` | HTTP checks: what the target sees, where redirects lead, what is kept of the output |
//! | `protection` | many that fall silent at once |
//! | `watch` | what one reader is told, case by case |
//! | `stalled`, `unread`, `unread_http` | readers that take nothing, of every kind |
//! | `handshake`, `limits`, `age`, `descriptors` | connections: how they begin, how many there may be, how they end |
//! | `caller` | the caller that every event names |
//! | `cancelled` | clients that cancel calls, and how many they may |
//! | `outcome` | writes on a store that does not answer |
//! | `bad_input` | what nobody should send |
//! | `settle` | restarts of a registry that forgets, and readers that remember |
//! | `shutdown`, `snapshot` | a goodbye to thousands of streams, a service too large for a message |
//! | `disk` | a registry that is kept: kills, exports |
//! | `process` | kills, stops and restarts of real processes |
//! | `dns` | the DNS door, with real packets |
//! | `systemd` | who starts a registry: what it is told, and the sockets that it gives |
//! | `tls` | certificates on both sides, their renewal, and who comes without |
//! | `abuse` | peers that mean harm, beside honest ones: `just abuse` |
//! | `faults` | kills, stops, networks and disks that fail, storms, clocks that jump: minutes, so `just faults` runs it |
//! | `command_line` | the verbs and their exit codes |
//! | `consul_fields` | what registrations in Consul's words carry: spellings, tags, metadata, catalog entries, proxies |
//! | `consul_blocking` | which change wakes which blocking query over HTTP |
//! | `consul_filter` | filters over HTTP, made from the answers themselves |
//! | `consul_replay` | two recordings of what Consul was asked and answered, asked of Callboard |
//! | `consul_identity` | nodes, ids and checks of Consul's API: which are one, which are not, and what goes along when one moves |
//! | `writes` | writes that span several instances, through clients that hang up and kills |
//! | `layers` | which room may know which |
//! | `readme` | the README's tour |
//! | `interop` | names the suites that need other languages, and are not run here |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on says where")]

mod abuse;
mod age;
mod bad_input;
mod caller;
mod cancelled;
mod check_state;
mod checks;
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
mod faults;
mod handshake;
mod harness;
mod history;
mod http_checks;
mod interop;
mod invariant;
mod language;
mod layers;
mod lease;
mod lexer;
mod limits;
mod outcome;
mod pressure;
mod process;
mod protection;
mod readme;
mod settle;
mod shutdown;
mod snapshot;
mod stalled;
#[cfg(target_os = "linux")]
mod systemd;
mod tls;
mod unread;
mod unread_http;
mod watch;
mod writes;
