//! `LiveStays`: an instance with heartbeats in time is never absent or suspect.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use callboard::pb::callboard::v1::{EventKind, InstanceStatus, RemovalReason};

use super::{
    InstanceLifetime, ReferenceHistory, Stop,
    instance_lifetime::{BLUR, time},
};
use crate::harness::{Key, Wall};

/// Violation of the invariant.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum LifetimeError {
    #[error("{lifetime} was removed at {at}, {early} ms before it could be")]
    TooEarly { lifetime: String, at: Wall, early: u64 },
    #[error("{lifetime} became suspect at {at}, {early} ms before it could be")]
    Suspected { lifetime: String, at: Wall, early: u64 },
    #[error("{lifetime} was removed without a request")]
    Unrequested { lifetime: String },
    #[error("{lifetime} was answered HELD at {renewal}, after it was removed at {at}")]
    HeldAfterRemoval { lifetime: String, at: Wall, renewal: Wall },
    #[error("{instance:?} is live, and a program that had it no longer uses it, but {left} of {of}")]
    NotServed { instance: Key, left: usize, of: usize },
}

/// Checks the set that a program uses, step by step, whatever happens to the registry: these instances live all the time, and once
/// the program had them all, it never lacks one.
#[derive(Debug, Clone)]
pub struct Kept {
    live: Arc<BTreeSet<Key>>,
    had_all: bool,
}

impl Kept {
    pub fn new(live: &Arc<BTreeSet<Key>>) -> Self {
        Self { live: Arc::clone(live), had_all: false }
    }

    pub fn serves(&mut self, set: &BTreeMap<Key, u64>) -> Result<(), LifetimeError> {
        let lacking = self.live.iter().find(|instance| !set.contains_key(*instance));
        match lacking {
            None => self.had_all = true,
            Some(instance) if self.had_all => {
                let (left, of) = (set.len(), self.live.len());
                return Err(LifetimeError::NotServed { instance: instance.clone(), left, of });
            }
            Some(_) => {}
        }
        Ok(())
    }
}

/// Checks all lifetimes of a history.
pub fn check(lifetimes: &[InstanceLifetime], history: &ReferenceHistory) -> Result<(), LifetimeError> {
    for lifetime in lifetimes {
        suspected_in_time(lifetime, history)?;
        let Some((end, at)) = lifetime.end_event(history) else { continue };
        let name = || lifetime.name();
        let expired = end.kind() == EventKind::Removed && end.reason() == RemovalReason::Expired;
        if expired && at + BLUR < lifetime.due() {
            return Err(LifetimeError::TooEarly { lifetime: name(), at, early: lifetime.due() - at });
        }
        if !expired && lifetime.stop == Stop::Silent {
            return Err(LifetimeError::Unrequested { lifetime: name() });
        }
        if let Some(renewal) = lifetime.renewals.iter().find(|renewal| renewal.from > at + BLUR) {
            return Err(LifetimeError::HeldAfterRemoval { lifetime: name(), at, renewal: renewal.from });
        }
    }
    Ok(())
}

/// Checks that the instance became suspect no sooner than it could have expired.
fn suspected_in_time(lifetime: &InstanceLifetime, history: &ReferenceHistory) -> Result<(), LifetimeError> {
    let end = lifetime.end_event(history).map_or(u64::MAX, |(event, _)| event.revision);
    let of_life =
        history.of(&lifetime.service, &lifetime.id).filter(|event| (lifetime.revision..end).contains(&event.revision));
    for event in of_life.filter(|event| event.status_after() == InstanceStatus::Suspect) {
        let at = time(event);
        // A renewal that had been answered by then.
        let Some(renewal) =
            lifetime.renewals.iter().filter(|renewal| renewal.to < at).map(|renewal| renewal.from).max()
        else {
            continue;
        };
        let grace = lifetime.broke.zip(lifetime.grace).map(|(broke, grace)| broke.from + grace);
        let due = grace.map_or(renewal + lifetime.ttl, |grace| grace.min(renewal + lifetime.ttl));
        if at + BLUR < due {
            return Err(LifetimeError::Suspected { lifetime: lifetime.name(), at, early: due - at });
        }
    }
    Ok(())
}

mod tests {
    use super::*;
    use crate::harness::{Span, key};
    use crate::invariant::instance_lifetime::made_up::{gone, lifetime};

    #[test]
    fn removal_when_due_passes() {
        let silent = lifetime(&[10_000, 11_000], Stop::Silent);
        assert_eq!(check(std::slice::from_ref(&silent), &gone(14_001, RemovalReason::Expired)), Ok(()));
        let deregistered = lifetime(&[10_000], Stop::Deregistered);
        assert_eq!(check(&[deregistered], &gone(10_500, RemovalReason::Deregistered)), Ok(()));
        let broke = InstanceLifetime { grace: Some(200), broke: Some(Span { from: 11_500, to: 11_510 }), ..silent };
        assert_eq!(check(&[broke], &gone(11_710, RemovalReason::Expired)), Ok(()));
    }

    #[test]
    fn program_lacks_an_instance_only_after_it_had_all() {
        let (a, b) = (key("web", "a"), key("web", "b"));
        let mut kept = Kept::new(&Arc::new(BTreeSet::from([a.clone(), b.clone()])));
        let one = BTreeMap::from([(a.clone(), 1)]);
        assert_eq!(kept.serves(&one), Ok(()));
        assert_eq!(kept.serves(&BTreeMap::from([(a, 1), (b.clone(), 2)])), Ok(()));
        assert_eq!(kept.serves(&one), Err(LifetimeError::NotServed { instance: b, left: 1, of: 2 }));
    }

    #[test]
    fn each_violation_is_found() {
        let silent = || lifetime(&[10_000, 11_000], Stop::Silent);
        let name = silent().name();
        let early = check(&[silent()], &gone(13_500, RemovalReason::Expired));
        assert_eq!(early, Err(LifetimeError::TooEarly { lifetime: name.clone(), at: 13_500, early: 500 }));
        let no_grace = InstanceLifetime { broke: Some(Span { from: 11_500, to: 11_510 }), ..silent() };
        let early = check(&[no_grace], &gone(12_000, RemovalReason::Expired));
        assert_eq!(early, Err(LifetimeError::TooEarly { lifetime: name.clone(), at: 12_000, early: 2_000 }));
        let unasked = check(&[silent()], &gone(20_000, RemovalReason::Deregistered));
        assert_eq!(unasked, Err(LifetimeError::Unrequested { lifetime: name }));
        let mut suspected = gone(14_500, RemovalReason::Expired);
        suspected.events.insert(1, suspected.events[1].clone());
        suspected.events[1].kind = EventKind::Updated.into();
        suspected.events[1].status_after = InstanceStatus::Suspect.into();
        suspected.events[2].revision = 3;
        assert_eq!(check(&[silent()], &suspected), Ok(()));
        suspected.events[1].time.as_mut().unwrap().seconds = 12;
        let early = LifetimeError::Suspected { lifetime: silent().name(), at: 12_500, early: 1_500 };
        assert_eq!(check(&[silent()], &suspected), Err(early));
        let deregistered = lifetime(&[10_000, 12_000], Stop::Deregistered);
        let held = LifetimeError::HeldAfterRemoval { lifetime: deregistered.name(), at: 11_000, renewal: 12_000 };
        assert_eq!(check(&[deregistered], &gone(11_000, RemovalReason::Deregistered)), Err(held));
    }
}
