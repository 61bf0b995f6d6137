//! State that every protocol of one server shares.

use std::{sync::Arc, time::Duration};

use super::{Commands, Views, Watchers};
use crate::{clock::Clock, engine::Engine, metrics::Metrics, registry::ClockReading, transport::Notifier};

/// State that every protocol of one server shares.
///
/// Health checks are not part of it: they write through [`Commands`], so they are above this module. A protocol that reports check
/// results gets them beside its context.
#[derive(Debug)]
pub struct ServerContext {
    /// Engine with the registry, for reads. Writes go through `commands`.
    pub engine: Arc<dyn Engine>,
    /// The one write path.
    pub commands: Commands,
    /// Wakes the streams and blocking queries that wait for changes.
    pub notifier: Arc<Notifier>,
    /// The only source of time.
    pub clock: Arc<Clock>,
    /// Counters, gauges and histograms of the server.
    pub metrics: Arc<Metrics>,
    /// Cache of what protocols encode or compute from the registry.
    pub views: Arc<Views>,
    /// Open watches of all protocols.
    pub watchers: Watchers,
    /// Largest accepted request, in bytes.
    pub max_message_size: usize,
    /// Interval of bookmarks on an idle watch.
    pub bookmarks: Duration,
}

impl ServerContext {
    /// Starts settling after a start that lost registrations. A length of zero starts none. Call it before any listener opens.
    pub fn settle(&self, length: Duration) {
        self.engine.registry().settle(self.clock.now().lease, length);
        if !length.is_zero() {
            tracing::info!(
                length = %humantime::format_duration(length),
                "settling: instances register again; readers that remember an earlier registry wait until it ends"
            );
        }
    }

    /// Ends settling once its time is over, and wakes all waiting readers. Call it as often as leases are expired, with the same
    /// reading.
    pub fn end_settling(&self, now: ClockReading) {
        let registry = self.engine.registry();
        if !registry.end_settling(now.lease) {
            return;
        }
        // Counted before they are woken, because afterwards none waits.
        let waiting = self.watchers.waiting();
        self.notifier.ring_all();
        tracing::info!(
            instances = registry.instance_count(),
            services = registry.service_count(),
            waiting,
            "settled: waiting readers get the current instances"
        );
    }
}
