//! The beginning and the end of settling: seen by operators, and told to the streams that wait for it.

use std::time::Duration;

use super::Shared;
use crate::registry::ClockReading;

impl Shared {
    /// Begins to settle after a start that lost registrations; a length of zero is none. Before any door opens.
    pub fn settle(&self, length: Duration) {
        self.engine.registry().settle(self.clock.now().lease, length);
        if !length.is_zero() {
            tracing::info!(
                length = %humantime::format_duration(length),
                "settling: instances register again, and readers that remember an earlier registry wait for them"
            );
        }
    }

    /// Ends settling if its time has come, and wakes who waits. To be called as often as leases are expired, with the same
    /// reading.
    pub fn end_settling(&self, now: ClockReading) {
        let registry = self.engine.registry();
        if !registry.end_settling(now.lease) {
            return;
        }
        // Counted before they are woken: then they wait no longer.
        let waiting = self.subscribers.waiting();
        self.hubs.ring_all();
        tracing::info!(
            instances = registry.instance_count(),
            services = registry.service_count(),
            waiting,
            "settled: readers that waited are told who is there"
        );
    }
}
