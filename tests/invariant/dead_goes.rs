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
pub enum Undead {
    #[error("{life} was removed {early} ms before its time")]
    TooEarly { life: String, early: u64 },
    #[error("{life} was removed {late} ms after its time; {excused} ms of that were this machine's")]
    TooLate { life: String, late: u64, excused: u64 },
    #[error("{life} is still there, {late} ms after its time")]
    StillThere { life: String, late: u64 },
    #[error("{life} expired, and readers were sent {reason:?}")]
    OtherReason { life: String, reason: RemovalReason },
    #[error(
        "a reader was sent the removal of {life} {late} ms after its time; {excused} ms of that were this machine's"
    )]
    HeardLate { life: String, late: u64, excused: u64 },
}

/// Checks all lifetimes that stopped silently, as of `until`. `stalled` returns the milliseconds for which the whole machine
/// stalled since a time, which the invariant excuses.
pub fn check(
    lives: &[InstanceLifetime],
    history: &ReferenceHistory,
    held: &Held,
    until: Wall,
    stalled: impl Fn(Wall) -> u64,
) -> Result<(), Undead> {
    for life in lives.iter().filter(|life| life.stop == Stop::Silent) {
        let (name, overdue) = (life.name(), life.overdue());
        let excused = stalled(life.due().saturating_sub(life.ttl));
        let limit = held.until(&life.service, life.due(), overdue + MAX_DELAY_MS + excused, MAX_DELAY_MS + excused);
        let Some((end, at)) = life.end_event(history) else {
            if until > limit {
                return Err(Undead::StillThere { life: name, late: until - overdue });
            }
            continue;
        };
        if end.reason() != RemovalReason::Expired {
            return Err(Undead::OtherReason { life: name, reason: end.reason() });
        }
        if at + BLUR < life.due() {
            return Err(Undead::TooEarly { life: name, early: life.due() - at });
        }
        if at > limit {
            return Err(Undead::TooLate { life: name, late: at - overdue, excused });
        }
    }
    Ok(())
}

/// Checks when a reader that reads at once was sent the removals.
pub fn check_heard(
    record: &Record,
    lives: &[InstanceLifetime],
    history: &ReferenceHistory,
    held: &Held,
    stalled: impl Fn(Wall) -> u64,
) -> Result<(), Undead> {
    let mut ends = HashMap::new();
    for life in lives.iter().filter(|life| life.stop == Stop::Silent) {
        ends.extend(life.end_event(history).map(|(event, _)| (event.revision, life)));
    }
    for heard in &record.heard {
        let What::Message(WatchResponse { message: Some(Message::Changes(step)) }) = &heard.what else { continue };
        for change in step.changes.iter().filter_map(|change| change.change.as_ref()) {
            let Some(life) = ends.get(&revision(change)) else { continue };
            let late = heard.at.saturating_sub(life.overdue());
            let excused = stalled(life.due().saturating_sub(life.ttl));
            let limit = life.overdue() + MAX_DELAY_MS + excused;
            if heard.at > held.until(&life.service, life.due(), limit, MAX_DELAY_MS + excused) {
                return Err(Undead::HeardLate { life: life.name(), late, excused });
            }
        }
    }
    Ok(())
}

mod tests {
    use super::*;
    use crate::harness::{Filter, Heard, Scope, Span, message};
    use crate::invariant::instance_lifetime::made_up::{gone, life};

    fn checked(life: InstanceLifetime, at: Wall, reason: RemovalReason, stalled: u64) -> Result<(), Undead> {
        check(&[life], &gone(at, reason), &Held::default(), 99_000, |_| stalled)
    }

    fn silent() -> InstanceLifetime {
        life(&[10_000], Stop::Silent)
    }

    #[test]
    fn removal_in_time_passes() {
        assert_eq!(checked(silent(), 13_001, RemovalReason::Expired, 0), Ok(()));
        assert_eq!(checked(silent(), 14_002, RemovalReason::Expired, 0), Ok(()));
        assert_eq!(checked(silent(), 15_000, RemovalReason::Expired, 1_000), Ok(()), "the machine stalled");
        assert_eq!(checked(life(&[10_000], Stop::Told), 10_001, RemovalReason::Deregistered, 0), Ok(()));
        let history = crate::invariant::reference_history::made_up::truth(&[(1, "a", true)]);
        assert_eq!(check(&[silent()], &history, &Held::default(), 13_900, |_| 0), Ok(()), "it is not late yet");
    }

    #[test]
    fn reader_that_was_sent_a_removal_late_is_found() {
        let heard = |at| {
            let change = Heard { at, ..message::changes(&[message::removed("a", 2)], 2) };
            let record = Record { heard: vec![change], ..Record::new("r", Scope::Everything, Filter::NONE) };
            check_heard(&record, &[silent()], &gone(13_001, RemovalReason::Expired), &Held::default(), |_| 0)
        };
        assert_eq!(heard(14_002), Ok(()));
        let late = Undead::HeardLate { life: silent().name(), late: 1_498, excused: 0 };
        assert_eq!(heard(14_500), Err(late));
    }

    #[test]
    fn each_violation_is_found() {
        let life = silent().name();
        let early = checked(silent(), 12_000, RemovalReason::Expired, 0);
        assert_eq!(early, Err(Undead::TooEarly { life: life.clone(), early: 1_000 }));
        let late = checked(silent(), 14_100, RemovalReason::Expired, 50);
        assert_eq!(late, Err(Undead::TooLate { life: life.clone(), late: 1_098, excused: 50 }));
        let broke = InstanceLifetime { grace: Some(1_000), broke: Some(Span { from: 10_500, to: 10_510 }), ..silent() };
        let late = checked(broke, 13_000, RemovalReason::Expired, 0);
        assert_eq!(late, Err(Undead::TooLate { life: life.clone(), late: 1_490, excused: 0 }), "it had a grace");
        let other = checked(silent(), 13_100, RemovalReason::Reaped, 0);
        assert_eq!(other, Err(Undead::OtherReason { life: life.clone(), reason: RemovalReason::Reaped }));
        let history = crate::invariant::reference_history::made_up::truth(&[(1, "a", true)]);
        let there = check(&[silent()], &history, &Held::default(), 20_000, |_| 0);
        assert_eq!(there, Err(Undead::StillThere { life, late: 6_998 }));
    }
}
