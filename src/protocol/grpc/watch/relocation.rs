//! Notice and end of a watch at a replica that cannot reach its store.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep};

use crate::{
    app::{ServerContext, stream_end},
    random,
};

/// Progress of a watch while the replica cannot reach its store.
#[derive(Debug)]
pub(super) struct WatchRelocation {
    /// Time at which the watch was opened, since the start of the process.
    opened: Duration,
    /// End of the watch. `None` while the replica reaches its store.
    end: Option<Pin<Box<Sleep>>>,
}

/// Next step of the watch.
#[derive(Debug)]
pub(super) enum WatchRelocationStep {
    /// The watch goes on.
    Stay,
    /// The client has to be sent the notice.
    Notify,
    /// The watch ends.
    Leave,
}

impl WatchRelocation {
    pub(super) fn new(context: &ServerContext) -> Self {
        Self { opened: context.clock.since_start(), end: None }
    }

    /// Returns the next step. The watch is woken when the replica loses its store, and for its end.
    pub(super) fn step(&mut self, context: &ServerContext, task: &mut Context<'_>) -> WatchRelocationStep {
        let Some(since) = context.engine.degraded_since() else {
            self.end = None;
            return WatchRelocationStep::Stay;
        };
        match &mut self.end {
            None => {
                let end = since + stream_end(self.opened.saturating_sub(since), random::u64());
                self.end = Some(Box::pin(sleep(end.saturating_sub(context.clock.since_start()))));
                WatchRelocationStep::Notify
            }
            Some(end) => match end.as_mut().poll(task) {
                Poll::Ready(()) => WatchRelocationStep::Leave,
                Poll::Pending => WatchRelocationStep::Stay,
            },
        }
    }
}
