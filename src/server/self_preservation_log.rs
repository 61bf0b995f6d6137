//! Says aloud when protection from mass expiry begins and ends.

use crate::{
    metrics::Metrics,
    registry::{EventKind, Registry, SelfPreservationEvent, ThresholdInput},
};

/// What is said one by one of what comes at once: a network that fails may concern thousands of services.
const ONE_BY_ONE: usize = 10;

/// What was said last.
#[derive(Debug, Default)]
pub(super) struct SelfPreservationReporter {
    said: u64,
}

impl SelfPreservationReporter {
    /// Says what is new.
    pub(super) fn hear(&mut self, registry: &Registry, metrics: &Metrics) {
        let fresh = registry.notices(self.said);
        let Some(last) = fresh.last() else { return };
        self.said = last.number;
        let began = fresh.iter().filter(|notice| notice.turned == EventKind::Began).count();
        metrics.self_preservation_starts.inc_by(began as u64);
        fresh.iter().take(ONE_BY_ONE).for_each(say);
        if let Some(more) = fresh.len().checked_sub(ONE_BY_ONE).filter(|more| *more > 0) {
            tracing::warn!(
                more,
                began,
                "self-preservation began or ended for more services; see `callboard self-preservation events`"
            );
        }
    }
}

fn say(SelfPreservationEvent { turned, what, .. }: &SelfPreservationEvent) {
    let ThresholdInput { instances, peak, weak, suspects, removals, limit } = what.numbers;
    let service = what.service.as_ref().map_or("*", |service| service.as_str());
    match turned {
        EventKind::Began => tracing::warn!(
            service,
            instances,
            peak,
            silent = weak,
            removals,
            limit,
            "too many instances are silent at once: they are kept as SUSPECT; see `callboard self-preservation`"
        ),
        EventKind::Ended => tracing::info!(service, instances, suspects, removals, "protection from mass expiry ended"),
        EventKind::Reset => tracing::info!(service, instances, "an operator ended protection from mass expiry"),
    }
}
