//! Liveness of the server, and a summary of its state, for a supervisor of the process.

use std::{sync::Arc, time::Duration};

use crate::{
    app::{ServerContext, WatchProtocol},
    clock::LoopStatus,
};

/// Reads the liveness of a running server.
#[derive(Debug, Clone)]
pub struct LivenessProbe(Arc<ServerContext>);

impl LivenessProbe {
    pub(super) fn of(context: &Arc<ServerContext>) -> Self {
        Self(Arc::clone(context))
    }

    /// Event loops of the server, each with the time since it last made progress: workers, health checks, acceptors, DNS and lease expiry. All of them make
    /// progress several times a second.
    #[must_use]
    pub fn event_loops(&self) -> Vec<LoopStatus> {
        self.0.clock.event_loops()
    }

    /// Longest time for which an event loop has made no progress.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.event_loops().into_iter().map(|status| status.silent_for).max().unwrap_or_default()
    }

    /// Numbers of instances, services and watches, as one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let registry = self.0.engine.registry();
        let settling = if registry.is_settling() { "settling: " } else { "" };
        format!(
            "{settling}{} instances of {} services, {} watches",
            registry.instance_count(),
            registry.service_count(),
            self.0.watchers.count(WatchProtocol::Grpc)
        )
    }
}
