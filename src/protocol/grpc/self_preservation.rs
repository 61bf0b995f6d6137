//! Conversions of the self-preservation state.

use super::{ApiError, time};
use crate::{
    model::{FieldError, ServiceName, UnixMillis},
    pb::callboard::v1 as pb,
    registry::{ClockReading, EventKind, LeaseTime, SelfPreservationEvent, SelfPreservationStatus, ThresholdInput},
};

/// Decodes the service whose self-preservation is reset. `None`: all services and the registry as a whole.
pub(super) fn target(asked: &pb::ResetProtectionRequest) -> Result<Option<ServiceName>, ApiError> {
    match (asked.service.is_empty(), asked.all) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(ServiceName::parse(&asked.service)?)),
        (true, false) => Err(FieldError::without_value("service", "is empty", "name a service, or set all").into()),
        (false, true) => {
            Err(FieldError::new("service", &asked.service, "is given together with all", "give one of them").into())
        }
    }
}

/// Encodes the state of a service, or of the registry as a whole.
pub(super) fn protection(of: &SelfPreservationStatus, now: ClockReading) -> pb::Protection {
    let ThresholdInput { instances, peak, expiring, suspects, recent_expirations, limit } = of.input;
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    // Both clocks count milliseconds, but the lease clock may be held back later: the time is an estimate.
    let wall = |time: LeaseTime| UnixMillis(now.wall.0.saturating_add(time.saturating_sub(now.lease)));
    let first_release_at = of.first_release_at.filter(|_| suspects > 0).map(|release| time::timestamp(wall(release)));
    pb::Protection {
        service: of.service.as_ref().map(ToString::to_string).unwrap_or_default(),
        started_at: of.since.map(|since| time::timestamp(since.wall)),
        instances: count(instances),
        peak: count(peak),
        expiring_instances: count(expiring),
        suspects: count(suspects),
        recent_expirations: count(recent_expirations),
        limit: count(limit),
        first_release_at,
    }
}

/// Encodes an entry of the log.
pub(super) fn event(notice: &SelfPreservationEvent) -> pb::ProtectionEvent {
    let kind = match notice.kind {
        EventKind::Began => pb::ProtectionEventKind::Began,
        EventKind::Ended => pb::ProtectionEventKind::Ended,
        EventKind::Reset => pb::ProtectionEventKind::Reset,
    };
    pb::ProtectionEvent {
        number: notice.number,
        time: Some(time::timestamp(notice.at.wall)),
        kind: kind.into(),
        protection: Some(protection(&notice.status, notice.at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_needs_one_service_or_all() {
        let asked = |service: &str, all| target(&pb::ResetProtectionRequest { service: service.to_owned(), all });
        assert_eq!(asked("web", false).unwrap().unwrap().as_str(), "web");
        assert!(asked("", true).unwrap().is_none());
        for (service, all) in [("", false), ("web", true), ("-", false)] {
            let error = asked(service, all).unwrap_err().to_string();
            assert!(error.contains("service"), "{error}");
        }
    }
}
