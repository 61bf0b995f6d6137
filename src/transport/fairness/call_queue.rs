//! Calls of a connection that have arrived but not started.
//!
//! A thread has one queue of tasks for all its connections, and a peer may send hundreds of calls at the same time. A few of them start, and the
//! others wait until the ready tasks of other connections have run.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::{sync::Semaphore, task::yield_now};

use super::MAX_STARTING_CALLS;

/// Queue of the calls of a connection that have not started.
#[derive(Debug)]
pub(in crate::transport) struct CallQueue {
    waiting: AtomicUsize,
    /// Held by the calls that start next.
    next: Semaphore,
}

impl Default for CallQueue {
    fn default() -> Self {
        Self { waiting: AtomicUsize::new(0), next: Semaphore::new(MAX_STARTING_CALLS) }
    }
}

/// Call that has arrived but not started.
#[derive(Debug)]
pub(in crate::transport) struct StartingCall(Arc<CallQueue>);

impl StartingCall {
    pub(in crate::transport) fn new(queue: &Arc<CallQueue>) -> Self {
        queue.waiting.fetch_add(1, Relaxed);
        Self(Arc::clone(queue))
    }

    /// Waits until the call may start. Returns immediately if few calls of the connection wait.
    pub(in crate::transport) async fn may_begin(self) {
        let CallQueue { waiting, next } = &*self.0;
        if waiting.load(Relaxed) > MAX_STARTING_CALLS
            && let Ok(_next) = next.acquire().await
        {
            yield_now().await;
        }
    }
}

impl Drop for StartingCall {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}
