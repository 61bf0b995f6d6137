//! Conversions of the self-preservation state.

use super::{ApiError, encode, time};
use crate::{
    model::{FieldError, ServiceName, UnixMillis},
    pb::callboard::v1 as pb,
    registry::{ClockReading, EventKind, LeaseTime, SelfPreservationEvent, SelfPreservationStatus, ThresholdInput},
};

/// Decodes the service whose self-preservation is reset. `None`: all services and the registry as a whole.
pub(super) fn target(request: &pb::ResetSelfPreservationRequest) -> Result<Option<ServiceName>, ApiError> {
    match (request.service.is_empty(), request.all) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(ServiceName::parse(&request.service)?)),
        (true, false) => Err(FieldError::without_value("service", "is empty", "name a service, or set all").into()),
        (false, true) => {
            Err(FieldError::new("service", &request.service, "is given together with all", "give one of them").into())
        }
    }
}

/// Encodes the state of a service, or of the registry as a whole.
pub(super) fn state(of: &SelfPreservationStatus, now: ClockReading) -> pb::SelfPreservation {
    let ThresholdInput { instances, peak, expiring, suspects, recent_expirations, limit } = of.input;
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    // Both clocks count milliseconds, but the lease clock may be held back later: the time is an estimate.
    let wall = |time: LeaseTime| UnixMillis(now.wall.0.saturating_add(time.saturating_sub(now.lease)));
    let first_release_at = of.first_release_at.filter(|_| suspects > 0).map(|release| time::timestamp(wall(release)));
    pb::SelfPreservation {
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
pub(super) fn event(event: &SelfPreservationEvent) -> pb::SelfPreservationEvent {
    let kind = match event.kind {
        EventKind::Began => pb::SelfPreservationEventKind::Began,
        EventKind::Ended => pb::SelfPreservationEventKind::Ended,
        EventKind::Reset => pb::SelfPreservationEventKind::Reset,
    };
    pb::SelfPreservationEvent {
        number: event.number,
        time: Some(time::timestamp(event.at.wall)),
        kind: kind.into(),
        self_preservation: Some(state(&event.status, event.at)),
        caller: Some(encode::caller(&event.caller)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_needs_one_service_or_all() {
        let request =
            |service: &str, all| target(&pb::ResetSelfPreservationRequest { service: service.to_owned(), all });
        assert_eq!(request("web", false).unwrap().unwrap().as_str(), "web");
        assert!(request("", true).unwrap().is_none());
        for (service, all) in [("", false), ("web", true), ("-", false)] {
            let error = request(service, all).unwrap_err().to_string();
            assert!(error.contains("service"), "{error}");
        }
    }
}
