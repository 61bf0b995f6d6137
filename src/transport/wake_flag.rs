//! A bell: any number of threads ring it, one task waits for it.

use std::task::{Context, Poll};

use crate::sync::{AtomicBool, AtomicWaker, Ordering};

/// Rung once or often before the task looks, it has rung once. What was written before it was rung is there for the task
/// that heard it.
#[derive(Debug, Default)]
pub(super) struct WakeFlag {
    rung: AtomicBool,
    waker: AtomicWaker,
}

impl WakeFlag {
    /// Rings it. Costs a look at one word while nobody has heard the last time.
    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Ready once for each time, or several, that it was rung. For one task.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.hear() {
            return Poll::Ready(());
        }
        self.waker.register(context.waker());
        // Whoever rang before the waker was there woke nobody.
        if self.hear() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn hear(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }
}
