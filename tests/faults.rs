//! What breaks in the field, done on purpose: to real processes, over real sockets, on real disks. Choices come from a printed
//! seed, and the named promises judge what was recorded.
//!
//! | module | does |
//! |---|---|
//! | `killed` | kill -9 of a registry on the disk: while it writes, starts and leaves |
//! | `clients` | kill -9 of instances |
//! | `stopped` | SIGSTOP of the registry, of instances, of both |
//! | `network` | resets, half-closed and half-open connections, delays, trickles, partitions |
//! | `disk` | full, read-only and forbidden disks, a file that is taken away |
//! | `clocks` | jumps of either clock |
//! | `storm` | 20,000 instances that register again at once |
//! | `soak` | all of it for long, with memory, streams and descriptors back where they were |
//!
//! Most take minutes, so that `cargo test` leaves them out: `just faults` runs them, one at a time, and `just soak` the last.

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

/// When the registry heard of an instance last, at the earliest: what it says is left of its time tells.
async fn last_sign(peer: &TestClient, service: &str, id: &str) -> Wall {
    let asked = wall();
    let lease = peer.lease(service, id).await.expect("it is registered");
    let millis = |span: Option<prost_types::Duration>| {
        u64::try_from(Duration::try_from(span.unwrap()).unwrap().as_millis()).unwrap()
    };
    asked + millis(lease.time_left) - millis(lease.ttl)
}

/// Reads whatever there is, up to the goal.
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

/// A number from the environment of the recipe.
fn wanted(variable: &str, usual: u64) -> u64 {
    match env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
        Err(_) => usual,
    }
}
