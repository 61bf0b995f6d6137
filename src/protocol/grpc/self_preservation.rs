//! Protection from mass expiry, as operators see it.

use super::{ApiError, encode};
use crate::{
    model::{FieldError, ServiceName, UnixMillis},
    pb::callboard::v1 as pb,
    registry::{ClockReading, EventKind, LeaseTime, SelfPreservationEvent, SelfPreservationStatus, ThresholdInput},
};

/// Whose protection is to be reset; `None`: everybody's.
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

/// As things are now.
pub(super) fn protection(of: &SelfPreservationStatus, now: ClockReading) -> pb::Protection {
    let ThresholdInput { instances, peak, expiring: weak, suspects, recent_expirations: removals, limit } = of.input;
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    // Both clocks are in milliseconds; that of leases may yet stand still for a while.
    let wall = |time: LeaseTime| UnixMillis(now.wall.0.saturating_add(time.saturating_sub(now.lease)));
    let dead_go = of.first_release_at.filter(|_| suspects > 0).map(|time| encode::timestamp(wall(time)));
    pb::Protection {
        service: of.service.as_ref().map(ToString::to_string).unwrap_or_default(),
        started_at: of.since.map(|since| encode::timestamp(since.wall)),
        instances: count(instances),
        peak: count(peak),
        as_good_as_dead: count(weak),
        suspects: count(suspects),
        inferred_removals: count(removals),
        limit: count(limit),
        dead_go_at: dead_go,
    }
}

/// As things were then.
pub(super) fn event(notice: &SelfPreservationEvent) -> pb::ProtectionEvent {
    let kind = match notice.kind {
        EventKind::Began => pb::ProtectionEventKind::Began,
        EventKind::Ended => pb::ProtectionEventKind::Ended,
        EventKind::Reset => pb::ProtectionEventKind::Reset,
    };
    pb::ProtectionEvent {
        number: notice.number,
        time: Some(encode::timestamp(notice.at.wall)),
        kind: kind.into(),
        protection: Some(protection(&notice.status, notice.at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_names_one_service_or_all() {
        let asked = |service: &str, all| target(&pb::ResetProtectionRequest { service: service.to_owned(), all });
        assert_eq!(asked("web", false).unwrap().unwrap().as_str(), "web");
        assert!(asked("", true).unwrap().is_none());
        for (service, all) in [("", false), ("web", true), ("-", false)] {
            let refusal = asked(service, all).unwrap_err().to_string();
            assert!(refusal.contains("service"), "{refusal}");
        }
    }
}
