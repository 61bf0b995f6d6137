//! `LivePresent`: an instance with heartbeats in time is never absent for any watcher, at whichever replica, also when the replica that
//! held it dies.

use super::{InstanceLifetime, instance_lifetime::BLUR};
use crate::harness::{Key, Span, Wall, key};

/// Time after a gap between two renewals in which a watcher may still learn that the instance had expired, in milliseconds.
const MAX_NEWS_MS: Wall = 5_000;

/// Time at which an instance that a watcher had is absent from its set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disappearance {
    pub at: Wall,
    pub instance: Key,
}

/// Violation of the invariant.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum LiveAbsent {
    #[error(
        "{watcher} lost {instance:?} at {at}, {left} ms before its lease could expire: it was renewed at {renewed}"
    )]
    Absent { watcher: String, instance: Key, at: Wall, renewed: Wall, left: Wall },
    #[error(
        "no replica renewed the lease of {instance:?} from {from} to {to}; {excused} ms of that were this machine's"
    )]
    NotRenewed { instance: Key, from: Wall, to: Wall, excused: Wall },
}

/// Checks what one watcher lost.
pub fn check(watcher: &str, lost: &[Disappearance], lifetimes: &[InstanceLifetime]) -> Result<(), LiveAbsent> {
    for Disappearance { at, instance } in lost {
        let of_instance = lifetimes.iter().filter(|life| key(&life.service, &life.id) == *instance);
        for lifetime in of_instance {
            let answered = lifetime.renewals.iter().filter(|renewal| renewal.to + BLUR < *at);
            let Some(newest) = answered.max_by_key(|renewal| renewal.from) else { continue };
            let due = newest.from + lifetime.ttl;
            if *at + BLUR < due && !had_gap(lifetime, *at) {
                let (watcher, instance) = (watcher.to_owned(), instance.clone());
                return Err(LiveAbsent::Absent { watcher, instance, at: *at, renewed: newest.from, left: due - at });
            }
        }
    }
    Ok(())
}

/// Checks that some replica accepted heartbeats within each TTL. `stalled` returns the milliseconds for which the whole machine stalled
/// in a span.
pub fn check_renewed(lifetimes: &[InstanceLifetime], stalled: impl Fn(Span) -> u64) -> Result<(), LiveAbsent> {
    for lifetime in lifetimes {
        for (from, to) in gaps(lifetime) {
            let excused = stalled(Span { from, to });
            if to - from > lifetime.ttl + excused {
                let instance = key(&lifetime.service, &lifetime.id);
                return Err(LiveAbsent::NotRenewed { instance, from, to, excused });
            }
        }
    }
    Ok(())
}

/// Returns whether the lease could have expired between two renewals shortly before this time.
fn had_gap(lifetime: &InstanceLifetime, at: Wall) -> bool {
    gaps(lifetime).any(|(from, to)| to - from + BLUR >= lifetime.ttl && (to..=to + MAX_NEWS_MS).contains(&at))
}

/// Times from each renewal to the answer to the next one.
fn gaps(lifetime: &InstanceLifetime) -> impl Iterator<Item = (Wall, Wall)> {
    lifetime.renewals.windows(2).map(|pair| (pair[0].from, pair[1].to))
}

mod tests {
    use super::*;
    use crate::invariant::{Stop, instance_lifetime::made_up::lifetime};

    fn lost(at: Wall) -> Vec<Disappearance> {
        vec![Disappearance { at, instance: key("web", "a") }]
    }

    #[test]
    fn absence_after_the_last_lease_or_a_gap_passes() {
        let silent = [lifetime(&[10_000, 11_000], Stop::Silent)];
        assert_eq!(check("w", &lost(14_001), &silent), Ok(()));
        let with_gap = [lifetime(&[10_000, 13_500, 14_500], Stop::Silent)];
        assert_eq!(check("w", &lost(13_600), &with_gap), Ok(()), "the removal may arrive after the next registration");
        let other = [Disappearance { at: 11_500, instance: key("web", "b") }];
        assert_eq!(check("w", &other, &silent), Ok(()));
    }

    #[test]
    fn absence_of_a_live_instance_is_found() {
        let live = [lifetime(&[10_000, 11_000, 12_000], Stop::Silent)];
        let (instance, watcher) = (key("web", "a"), "w".to_owned());
        let absent = LiveAbsent::Absent { watcher, instance, at: 12_500, renewed: 12_000, left: 2_500 };
        assert_eq!(check("w", &lost(12_500), &live), Err(absent));
        let old_gap = [lifetime(&[1_000, 5_000, 10_500, 11_000, 12_000], Stop::Silent)];
        assert_eq!(check("w", &lost(12_500), &old_gap), Ok(()));
        assert!(check("w", &lost(14_900), &[lifetime(&[5_000, 8_500, 10_000, 12_000], Stop::Silent)]).is_err());
    }

    #[test]
    fn lease_that_no_replica_renewed_is_found() {
        let renewed = |times: &[Wall], excused| check_renewed(&[lifetime(times, Stop::Silent)], |_| excused);
        assert_eq!(renewed(&[10_000, 12_900], 0), Ok(()));
        assert_eq!(renewed(&[10_000, 13_500], 600), Ok(()), "the machine stalled");
        let instance = key("web", "a");
        let missed = LiveAbsent::NotRenewed { instance, from: 10_000, to: 13_502, excused: 0 };
        assert_eq!(renewed(&[10_000, 13_500], 0), Err(missed));
    }
}
