//! Fault injection on real processes, sockets and disks. Random choices come from a printed seed, and the invariant checkers verify
//! the recorded histories.
//!
//! | module | faults |
//! |---|---|
//! | `killed` | kill -9 of a registry with a data directory while it writes, starts and stops |
//! | `clients` | kill -9 of instances |
//! | `stopped` | SIGSTOP of the registry, of instances, of both |
//! | `network` | resets, half-closed and half-open connections, delays, trickles, partitions |
//! | `disk` | full and read-only disks, denied permissions, a file that is removed |
//! | `clocks` | jumps of the wall clock and the monotonic clock |
//! | `storm` | 20,000 instances that register again at the same time |
//! | `soak` | all faults for a long time, after which memory, streams and descriptors are as before |
//!
//! Most of these tests take minutes, so `cargo test` skips them. `just faults` runs them one at a time, and `just soak` runs the last.

mod clients;
mod clocks;
mod disk;
mod killed;
mod network;
mod soak;
mod stopped;
mod storm;

use std::{env, time::Duration};

use tokio::sync::watch;

use crate::harness::{Reader, TestClient, Wall, wall};

/// Returns a lower bound of the time of the last heartbeat, computed from the remaining time of the lease.
async fn last_renewal(client: &TestClient, service: &str, id: &str) -> Wall {
    let asked = wall();
    let lease = client.lease(service, id).await.expect("it is registered");
    let millis = |span: Option<prost_types::Duration>| {
        u64::try_from(Duration::try_from(span.unwrap()).unwrap().as_millis()).unwrap()
    };
    asked + millis(lease.time_left) - millis(lease.ttl)
}

/// Reads until the view has the revision of the goal.
async fn follow(mut reader: Reader, mut goal: watch::Receiver<Option<u64>>) -> Reader {
    loop {
        if goal.borrow_and_update().is_some_and(|newest| reader.view.revision >= newest) {
            return reader;
        }
        tokio::select! {
            message = reader.message() => message.map(drop).unwrap(),
            Ok(()) = goal.changed() => {}
        }
    }
}

/// Returns a number from the environment of the recipe.
pub fn wanted(variable: &str, usual: u64) -> u64 {
    match env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
        Err(_) => usual,
    }
}
