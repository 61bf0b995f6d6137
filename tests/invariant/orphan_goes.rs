//! `OrphanGoes`: a silent instance is removed at most one second after its TTL by the replica that holds it. If that replica is gone, or
//! etcd was out of reach, others remove the instance once the session has ended and programs had time to reach another replica.

use std::collections::HashMap;

use super::{Held, InstanceLifetime};
use crate::harness::{Key, Span, Wall, key};

/// Maximum time from the end of the TTL to the removal by the replica that holds the instance, in milliseconds.
const MAX_DELAY_MS: Wall = 1_000;
/// TTL of a session, in milliseconds.
const SESSION_TTL_MS: Wall = 10_000;
/// Minimum time that an orphan keeps, in milliseconds.
const MIN_ORPHAN_MS: Wall = 15_000;
/// Time of a removal of an orphan, in milliseconds.
const MAX_ORPHAN_DELAY_MS: Wall = 5_000;
/// Delay of each further replica in the order of take-over, in milliseconds.
const RANK_DELAY_MS: Wall = 5_000;

/// Violation of the invariant.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum OrphanStays {
    #[error("{instance:?} was removed {late} ms after its TTL; {excused} ms of that were this machine's")]
    Late { instance: Key, late: Wall, excused: Wall },
    #[error("{instance:?} is still there, {late} ms after its TTL")]
    StillThere { instance: Key, late: Wall },
}

/// Faults, and the number of replicas.
#[derive(Debug, Clone, Copy)]
pub struct FaultTimes<'a> {
    pub spans: &'a [Span],
    pub replicas: u64,
}

impl FaultTimes<'_> {
    /// Returns the time by which an instance has to be gone, and the milliseconds of that after its TTL or the end of a fault. A fault
    /// within this time, such as the death of the replica that would remove the instance, extends it.
    fn limit(&self, lifetime: &InstanceLifetime) -> (Wall, Wall) {
        let first = lifetime.renewals.iter().map(|renewal| renewal.from).min().unwrap_or(0);
        let orphan = SESSION_TTL_MS + lifetime.ttl.max(MIN_ORPHAN_MS) + MAX_ORPHAN_DELAY_MS;
        let orphan = orphan + (self.replicas - 1) * RANK_DELAY_MS;
        let (mut limit, mut allowed) = (lifetime.overdue() + MAX_DELAY_MS, MAX_DELAY_MS);
        loop {
            let concerned = |span: &&Span| span.from <= limit && span.to + orphan >= first;
            let Some(end) = self.spans.iter().filter(concerned).map(|span| span.to).max() else { break };
            let extended = end.max(lifetime.overdue()) + orphan;
            if extended <= limit {
                break;
            }
            (limit, allowed) = (extended, orphan);
        }
        (limit, allowed)
    }
}

/// Checks silent instances, as of `until`. `gone` has the time at which the first watcher saw each of them removed, `held` the times in
/// which self-preservation held instances, by replica.
pub fn check(
    lifetimes: &[InstanceLifetime],
    gone: &HashMap<Key, Wall>,
    faults: FaultTimes<'_>,
    held: &[Held],
    until: Wall,
    stalled: impl Fn(Span) -> u64,
) -> Result<(), OrphanStays> {
    for lifetime in lifetimes {
        let (instance, overdue) = (key(&lifetime.service, &lifetime.id), lifetime.overdue());
        let at = gone.get(&instance).copied();
        let excused = stalled(Span { from: overdue - lifetime.ttl, to: at.unwrap_or(until) });
        let (limit, allowed) = faults.limit(lifetime);
        let (limit, allowed) = (limit + excused, allowed + excused);
        let until_of = |held: &Held| held.until(&lifetime.service, lifetime.due(), limit, allowed);
        let limit = held.iter().map(until_of).fold(limit, Wall::max);
        match at {
            Some(at) if at > limit => {
                return Err(OrphanStays::Late { instance, late: at - overdue, excused });
            }
            None if until > limit => return Err(OrphanStays::StillThere { instance, late: until - overdue }),
            Some(_) | None => {}
        }
    }
    Ok(())
}

mod tests {
    use super::*;
    use crate::invariant::{Stop, instance_lifetime::made_up::lifetime};

    /// Checks an instance that was due at 13,002.
    fn checked(gone: Option<Wall>, until: Wall, faults: &[Span]) -> Result<(), OrphanStays> {
        let gone = gone.map(|at| (key("web", "a"), at)).into_iter().collect();
        let faults = FaultTimes { spans: faults, replicas: 3 };
        check(&[lifetime(&[10_000], Stop::Silent)], &gone, faults, &[Held::default()], until, |_| 0)
    }

    #[test]
    fn removal_in_time_passes() {
        let fault = [Span { from: 9_000, to: 20_000 }];
        assert_eq!(checked(Some(14_002), 99_000, &[]), Ok(()));
        assert_eq!(checked(Some(59_000), 99_000, &fault), Ok(()));
        assert_eq!(checked(None, 13_900, &[]), Ok(()), "it is not late yet");
        let again = [fault[0], Span { from: 50_000, to: 55_000 }];
        assert_eq!(checked(Some(94_000), 99_000, &again), Ok(()), "the next replica died as well");
    }

    #[test]
    fn each_violation_is_found() {
        let instance = key("web", "a");
        let late = |late| Err(OrphanStays::Late { instance: instance.clone(), late, excused: 0 });
        assert_eq!(checked(Some(14_100), 99_000, &[]), late(1_098));
        assert_eq!(checked(Some(14_100), 99_000, &[Span { from: 20_000, to: 30_000 }]), late(1_098), "a later fault");
        assert_eq!(checked(Some(61_000), 99_000, &[Span { from: 9_000, to: 20_000 }]), late(47_998));
        assert_eq!(
            checked(None, 15_000, &[]),
            Err(OrphanStays::StillThere { instance: instance.clone(), late: 1_998 })
        );
    }
}
