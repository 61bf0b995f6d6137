//! `DeadGoes`: an instance that stopped is removed at most one second after its TTL, and never before it, unless
//! self-preservation holds it.

use std::collections::HashMap;

use callboard::pb::callboard::v1::{RemovalReason, WatchResponse, watch_response::Message};

use super::{Held, InstanceLifetime, ReferenceHistory, Stop, instance_lifetime::BLUR, ordered::revision};
use crate::harness::{Record, Wall, What};

/// Maximum time from the end of the TTL to the removal, in milliseconds.
const MAX_DELAY_MS: u64 = 1_000;

/// Violation of the invariant.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum RemovalError {
    #[error("{lifetime} was removed {early} ms before its time")]
    TooEarly { lifetime: String, early: u64 },
    #[error("{lifetime} was removed {late} ms after its time; {excused} ms of that were this machine's")]
    TooLate { lifetime: String, late: u64, excused: u64 },
    #[error("{lifetime} is still there, {late} ms after its time")]
    StillThere { lifetime: String, late: u64 },
    #[error("{lifetime} expired, and readers were sent {reason:?}")]
    OtherReason { lifetime: String, reason: RemovalReason },
    #[error(
        "a reader was sent the removal of {lifetime} {late} ms after its time; {excused} ms of that were this machine's"
    )]
    ReceivedLate { lifetime: String, late: u64, excused: u64 },
}

/// Checks all lifetimes that stopped silently, as of `until`. `stalled` returns the milliseconds for which the whole machine
/// stalled since a time, which the invariant excuses.
pub fn check(
    lifetimes: &[InstanceLifetime],
    history: &ReferenceHistory,
    held: &Held,
    until: Wall,
    stalled: impl Fn(Wall) -> u64,
) -> Result<(), RemovalError> {
    for lifetime in lifetimes.iter().filter(|lifetime| lifetime.stop == Stop::Silent) {
        let (name, overdue) = (lifetime.name(), lifetime.overdue());
        let excused = stalled(lifetime.due().saturating_sub(lifetime.ttl));
        let limit =
            held.until(&lifetime.service, lifetime.due(), overdue + MAX_DELAY_MS + excused, MAX_DELAY_MS + excused);
        let Some((end, at)) = lifetime.end_event(history) else {
            if until > limit {
                return Err(RemovalError::StillThere { lifetime: name, late: until - overdue });
            }
            continue;
        };
        if end.reason() != RemovalReason::Expired {
            return Err(RemovalError::OtherReason { lifetime: name, reason: end.reason() });
        }
        if at + BLUR < lifetime.due() {
            return Err(RemovalError::TooEarly { lifetime: name, early: lifetime.due() - at });
        }
        if at > limit {
            return Err(RemovalError::TooLate { lifetime: name, late: at - overdue, excused });
        }
    }
    Ok(())
}

/// Checks when a reader that reads at once was sent the removals.
pub fn check_received(
    record: &Record,
    lifetimes: &[InstanceLifetime],
    history: &ReferenceHistory,
    held: &Held,
    stalled: impl Fn(Wall) -> u64,
) -> Result<(), RemovalError> {
    let mut ends = HashMap::new();
    for lifetime in lifetimes.iter().filter(|lifetime| lifetime.stop == Stop::Silent) {
        ends.extend(lifetime.end_event(history).map(|(event, _)| (event.revision, lifetime)));
    }
    for observation in &record.observations {
        let What::Message(WatchResponse { message: Some(Message::Changes(step)) }) = &observation.what else {
            continue;
        };
        for change in step.changes.iter().filter_map(|change| change.change.as_ref()) {
            let Some(lifetime) = ends.get(&revision(change)) else { continue };
            let late = observation.at.saturating_sub(lifetime.overdue());
            let excused = stalled(lifetime.due().saturating_sub(lifetime.ttl));
            let limit = lifetime.overdue() + MAX_DELAY_MS + excused;
            if observation.at > held.until(&lifetime.service, lifetime.due(), limit, MAX_DELAY_MS + excused) {
                return Err(RemovalError::ReceivedLate { lifetime: lifetime.name(), late, excused });
            }
        }
    }
    Ok(())
}

mod tests {
    use super::*;
    use crate::harness::{Filter, Observation, Scope, Span, message};
    use crate::invariant::instance_lifetime::made_up::{gone, lifetime};

    fn checked(lifetime: InstanceLifetime, at: Wall, reason: RemovalReason, stalled: u64) -> Result<(), RemovalError> {
        check(&[lifetime], &gone(at, reason), &Held::default(), 99_000, |_| stalled)
    }

    fn silent() -> InstanceLifetime {
        lifetime(&[10_000], Stop::Silent)
    }

    #[test]
    fn removal_in_time_passes() {
        assert_eq!(checked(silent(), 13_001, RemovalReason::Expired, 0), Ok(()));
        assert_eq!(checked(silent(), 14_002, RemovalReason::Expired, 0), Ok(()));
        assert_eq!(checked(silent(), 15_000, RemovalReason::Expired, 1_000), Ok(()), "the machine stalled");
        assert_eq!(checked(lifetime(&[10_000], Stop::Deregistered), 10_001, RemovalReason::Deregistered, 0), Ok(()));
        let history = crate::invariant::reference_history::made_up::reference(&[(1, "a", true)]);
        assert_eq!(check(&[silent()], &history, &Held::default(), 13_900, |_| 0), Ok(()), "it is not late yet");
    }

    #[test]
    fn reader_that_was_sent_a_removal_late_is_found() {
        let result = |at| {
            let change = Observation { at, ..message::changes(&[message::removed("a", 2)], 2) };
            let record = Record { observations: vec![change], ..Record::new("r", Scope::Everything, Filter::NONE) };
            check_received(&record, &[silent()], &gone(13_001, RemovalReason::Expired), &Held::default(), |_| 0)
        };
        assert_eq!(result(14_002), Ok(()));
        let late = RemovalError::ReceivedLate { lifetime: silent().name(), late: 1_498, excused: 0 };
        assert_eq!(result(14_500), Err(late));
    }

    #[test]
    fn each_violation_is_found() {
        let lifetime = silent().name();
        let early = checked(silent(), 12_000, RemovalReason::Expired, 0);
        assert_eq!(early, Err(RemovalError::TooEarly { lifetime: lifetime.clone(), early: 1_000 }));
        let late = checked(silent(), 14_100, RemovalReason::Expired, 50);
        assert_eq!(late, Err(RemovalError::TooLate { lifetime: lifetime.clone(), late: 1_098, excused: 50 }));
        let broke = InstanceLifetime { grace: Some(1_000), broke: Some(Span { from: 10_500, to: 10_510 }), ..silent() };
        let late = checked(broke, 13_000, RemovalReason::Expired, 0);
        assert_eq!(
            late,
            Err(RemovalError::TooLate { lifetime: lifetime.clone(), late: 1_490, excused: 0 }),
            "it had a grace"
        );
        let other = checked(silent(), 13_100, RemovalReason::Reaped, 0);
        assert_eq!(other, Err(RemovalError::OtherReason { lifetime: lifetime.clone(), reason: RemovalReason::Reaped }));
        let history = crate::invariant::reference_history::made_up::reference(&[(1, "a", true)]);
        let there = check(&[silent()], &history, &Held::default(), 20_000, |_| 0);
        assert_eq!(there, Err(RemovalError::StillThere { lifetime, late: 6_998 }));
    }
}
