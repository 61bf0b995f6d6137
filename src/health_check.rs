//! Health checks: scheduling, probes and results, on a thread of their own.
//!
//! ```text
//!   registry ─► change_queue ─► runner ─► probe ─► threshold_counter ─► SetCheckStatus ─► app::Commands
//!                                 │                      └─► history
//!                                 └─ schedule
//! ```
//!
//! | file | contents |
//! |---|---|
//! | `checks` | histories of all checks |
//! | `report` | reports of TTL checks, at the replica that holds the instance or at another one |
//! | `runner` | the thread that schedules probes and submits statuses |
//! | `schedule` | due times (pure) |
//! | `threshold_counter` | number of consecutive results that change a status (pure) |
//! | `history` | recent results and times of one check |
//! | `handover` | transfer of the history when another instance takes over a check |
//! | `change_queue` | changes of instances with checks |
//! | `policy` | addresses that probes may connect to (pure) |
//! | `url` | URLs of HTTP checks and redirects (pure) |
//! | `probe` | probes: HTTP, TCP, gRPC |
//!
//! The status of a check is part of its instance in the registry: every protocol shows it, and a restart keeps it. The outputs of a
//! check are kept here. Once a second the engine gets the changed outputs and TTL times, and stores them for the next process.
//!
//! In a registry that several replicas share, only the replica that holds an instance runs its checks, decides its TTL checks, and removes
//! it when they stay critical. `history/holder_times.rs` has the rules for reports that arrive at another replica. The status of a check
//! is known everywhere, its results only where it runs.
//! Self-preservation holds no instance that a check made critical, because a status is a result, not an inference.

mod change_queue;
mod checks;
mod handover;
mod history;
mod policy;
mod probe;
mod report;
mod runner;
mod schedule;
mod threshold_counter;
mod url;

pub use change_queue::ChangeQueue;
pub use checks::HealthChecks;
pub use history::{CheckHistory, CheckResult};
pub use policy::ProbePolicy;
pub use report::ReportError;
pub use runner::HealthCheckThread;
