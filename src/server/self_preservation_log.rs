//! Logs the beginning and the end of self-preservation.

use crate::{
    metrics::Metrics,
    registry::{EventKind, Registry, SelfPreservationEvent, ThresholdInput},
};

/// Maximum number of log lines for single services in one report: a failing network may affect thousands of them.
const MAX_LINES: usize = 10;

/// Logs self-preservation events, and remembers the last one.
#[derive(Debug, Default)]
pub(super) struct SelfPreservationReporter {
    last: u64,
}

impl SelfPreservationReporter {
    /// Logs the events since the last call.
    pub(super) fn report(&mut self, registry: &Registry, metrics: &Metrics) {
        let new = registry.self_preservation_events(self.last);
        let Some(last) = new.last() else { return };
        self.last = last.number;
        let began = new.iter().filter(|event| event.kind == EventKind::Began).count();
        metrics.self_preservation_starts.inc_by(began as u64);
        new.iter().take(MAX_LINES).for_each(log);
        if let Some(more) = new.len().checked_sub(MAX_LINES).filter(|more| *more > 0) {
            tracing::warn!(
                more,
                began,
                "self-preservation began or ended for more services; see `callboard self-preservation events`"
            );
        }
    }
}

fn log(SelfPreservationEvent { kind, status, caller, .. }: &SelfPreservationEvent) {
    let ThresholdInput { instances, peak, expiring, suspects, recent_expirations, limit } = status.input;
    let service = status.service.as_ref().map_or("*", |service| service.as_str());
    match kind {
        EventKind::Began => tracing::warn!(
            service,
            instances,
            peak,
            expiring,
            recent_expirations,
            limit,
            "self-preservation began: too many instances are silent at once and are held as SUSPECT; see `callboard self-preservation`"
        ),
        EventKind::Ended => tracing::info!(service, instances, suspects, recent_expirations, "self-preservation ended"),
        EventKind::Reset => {
            tracing::info!(service, instances, ?caller, "self-preservation ended by an operator");
        }
    }
}
