//! Whether the server is alive, and how it is, in a line: for a supervisor.

use std::{sync::Arc, time::Duration};

use crate::app::ServerContext;

/// Looks at a server from beside it.
#[derive(Debug, Clone)]
pub struct LivenessProbe(Arc<ServerContext>);

impl LivenessProbe {
    pub(super) fn of(shared: &Arc<ServerContext>) -> Self {
        Self(Arc::clone(shared))
    }

    /// For how long the most silent of its parts has given no sign of life: a worker, or whoever expires leases. Each gives
    /// several a second.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.0.clock.silent_for()
    }

    /// What an operator wants to see first.
    #[must_use]
    pub fn summary(&self) -> String {
        let registry = self.0.engine.registry();
        let settling = if registry.is_settling() { "settling: " } else { "" };
        format!(
            "{settling}{} instances of {} services, {} watches",
            registry.instance_count(),
            registry.service_count(),
            self.0.watchers.len()
        )
    }
}
