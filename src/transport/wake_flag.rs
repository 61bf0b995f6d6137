//! Coalescing wake-up flag: many producers, one task.

use std::task::{Context, Poll};

use crate::sync::{AtomicBool, AtomicWaker, Ordering};

/// Coalescing wake-up flag. However often it is set before the task looks, the task sees it once. The task sees what was written
/// before it was set.
#[derive(Debug, Default)]
pub(super) struct WakeFlag {
    is_set: AtomicBool,
    waker: AtomicWaker,
}

impl WakeFlag {
    /// Sets the flag and wakes the task. Costs one swap while the task has not looked since the last time.
    pub(super) fn set(&self) {
        if !self.is_set.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Ready when the flag was set since the last time; clears it. For one task.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.take() {
            return Poll::Ready(());
        }
        self.waker.register(context.waker());
        // A producer that set it before the waker was registered woke nothing.
        if self.take() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn take(&self) -> bool {
        self.is_set.swap(false, Ordering::AcqRel)
    }
}
