//! Coalescing wake-up flag: many producers, one task.

use std::task::{Context, Poll};

use crate::sync::{AtomicBool, AtomicWaker, Ordering};

/// Coalescing wake-up flag. If it is set several times before the task polls it, the task sees it once. The task also sees
/// everything that was written before the flag was set.
#[derive(Debug, Default)]
pub(super) struct WakeFlag {
    is_set: AtomicBool,
    waker: AtomicWaker,
}

impl WakeFlag {
    /// Sets the flag and wakes the task. Costs one swap if the flag is already set.
    pub(super) fn set(&self) {
        if !self.is_set.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Ready if the flag was set since the last call; clears it. Only one task may call this.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.take() {
            return Poll::Ready(());
        }
        self.waker.register(context.waker());
        // A producer that set the flag before the waker was registered woke no task.
        if self.take() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn take(&self) -> bool {
        self.is_set.swap(false, Ordering::AcqRel)
    }
}
