//! Settling for all protocols: decides which readers wait after a start that lost registrations, and until when.

use std::time::Duration;

use super::ServerContext;
use crate::{
    engine::StartPoint,
    model::{Incarnation, Revision},
    registry::ClockReading,
};

/// State of the registry that a reader remembers, in the form that its protocol has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReaderMemory {
    /// Incarnation in a resume token.
    Incarnation(Incarnation),
    /// Revision, such as an index of Consul's API.
    Revision(Revision),
}

impl ServerContext {
    /// Starts settling after a start that lost registrations. A length of zero starts none. Call it before any listener opens.
    pub fn settle(&self, length: Duration) {
        self.engine.registry().settle(self.clock.now().lease, length);
        if !length.is_zero() {
            tracing::info!(
                length = %humantime::format_duration(length),
                "settling: instances register again; readers that remember an earlier incarnation wait until settling ends"
            );
        }
    }

    /// Returns whether a reader with this memory has to wait until settling ends: the memory is of an earlier
    /// incarnation, so the set that the reader has may be more complete than the present registrations.
    ///
    /// A revision that no incarnation can have reached does not count as memory.
    #[must_use]
    pub fn must_settle(&self, memory: ReaderMemory) -> bool {
        let registry = self.engine.registry();
        match memory {
            ReaderMemory::Incarnation(incarnation) => registry.must_settle(incarnation),
            ReaderMemory::Revision(revision) => {
                registry.is_settling() && (StartPoint::MIN_REVISION..registry.start_revision()).contains(&revision)
            }
        }
    }

    /// Ends settling once its time is over, and wakes all waiting readers. Call it as often as leases are expired, with the same
    /// reading.
    pub fn end_settling(&self, now: ClockReading) {
        let registry = self.engine.registry();
        if !registry.end_settling(now.lease) {
            return;
        }
        // Counted before the readers are woken, because afterwards none waits.
        let waiting = self.watchers.waiting();
        self.notifier.wake_all();
        tracing::info!(
            instances = registry.instance_count(),
            services = registry.service_count(),
            waiting,
            "settling ended: waiting readers get the current instances"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        app::{Commands, Views, Watchers},
        clock::Clock,
        engine::{Engine, Memory},
        metrics::Metrics,
        registry::test_support::NoListener,
        transport::Notifier,
    };

    fn context() -> ServerContext {
        let clock = Arc::new(Clock::new(0));
        let engine: Arc<dyn Engine> = Arc::new(Memory::new(Incarnation(7), clock.now(), Arc::new(NoListener)));
        let metrics = Metrics::new();
        ServerContext {
            commands: Commands::new(&engine, &clock, None),
            engine,
            notifier: Arc::new(Notifier::new(1)),
            clock,
            views: Views::new(&metrics.views),
            metrics,
            watchers: Watchers::default(),
            weights: Arc::default(),
            max_message_size: 0,
            bookmarks: Duration::ZERO,
            replica: "replica-1".to_owned(),
        }
    }

    #[test]
    fn reader_waits_while_registry_settles_if_it_remembers_an_earlier_incarnation() {
        let context = context();
        let beginning = context.engine.registry().start_revision();
        let earlier = [
            ReaderMemory::Incarnation(Incarnation(3)),
            ReaderMemory::Revision(StartPoint::MIN_REVISION),
            ReaderMemory::Revision(Revision(beginning.0 - 1)),
        ];
        let not_earlier = [
            ReaderMemory::Incarnation(Incarnation(7)),
            ReaderMemory::Revision(beginning),
            ReaderMemory::Revision(Revision(1)),
        ];
        assert!(!earlier.iter().any(|memory| context.must_settle(*memory)), "the registry does not settle");
        context.settle(Duration::from_secs(10));
        assert!(earlier.iter().all(|memory| context.must_settle(*memory)));
        assert!(!not_earlier.iter().any(|memory| context.must_settle(*memory)));
        let now = context.clock.now();
        context.end_settling(ClockReading { lease: now.lease + 10_000, ..now });
        assert!(!earlier.iter().any(|memory| context.must_settle(*memory)), "it has settled");
    }
}
