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
pub enum Gone {
    #[error("{life} was removed at {at}, {early} ms before it could be")]
    TooEarly { life: String, at: Wall, early: u64 },
    #[error("{life} became suspect at {at}, {early} ms before it could be")]
    Suspected { life: String, at: Wall, early: u64 },
    #[error("{life} was removed without a request")]
    Unasked { life: String },
    #[error("{life} was answered HELD at {sign}, after it was removed at {at}")]
    HeldInVain { life: String, at: Wall, sign: Wall },
    #[error("{instance:?} is live, and a program that had it no longer uses it, but {left} of {of}")]
    NotServed { instance: Key, left: usize, of: usize },
}

/// Checks the set that a program uses, step by step, whatever happens to the registry: these instances live all the time, and once
/// the program had them all, it never lacks one.
#[derive(Debug, Clone)]
pub struct Kept {
    living: Arc<BTreeSet<Key>>,
    had_all: bool,
}

impl Kept {
    pub fn new(living: &Arc<BTreeSet<Key>>) -> Self {
        Self { living: Arc::clone(living), had_all: false }
    }

    pub fn serves(&mut self, set: &BTreeMap<Key, u64>) -> Result<(), Gone> {
        let lacking = self.living.iter().find(|instance| !set.contains_key(*instance));
        match lacking {
            None => self.had_all = true,
            Some(instance) if self.had_all => {
                let (left, of) = (set.len(), self.living.len());
                return Err(Gone::NotServed { instance: instance.clone(), left, of });
            }
            Some(_) => {}
        }
        Ok(())
    }
}

/// Checks all lifetimes of a history.
pub fn check(lives: &[InstanceLifetime], history: &ReferenceHistory) -> Result<(), Gone> {
    for life in lives {
        suspected_in_time(life, history)?;
        let Some((end, at)) = life.end_event(history) else { continue };
        let name = || life.name();
        let expired = end.kind() == EventKind::Removed && end.reason() == RemovalReason::Expired;
        if expired && at + BLUR < life.due() {
            return Err(Gone::TooEarly { life: name(), at, early: life.due() - at });
        }
        if !expired && life.stop == Stop::Silent {
            return Err(Gone::Unasked { life: name() });
        }
        if let Some(sign) = life.signs.iter().find(|sign| sign.from > at + BLUR) {
            return Err(Gone::HeldInVain { life: name(), at, sign: sign.from });
        }
    }
    Ok(())
}

/// Checks that the instance became suspect no sooner than it could have expired.
fn suspected_in_time(life: &InstanceLifetime, history: &ReferenceHistory) -> Result<(), Gone> {
    let end = life.end_event(history).map_or(u64::MAX, |(event, _)| event.revision);
    let of_life = history.of(&life.service, &life.id).filter(|event| (life.revision..end).contains(&event.revision));
    for event in of_life.filter(|event| event.status_after() == InstanceStatus::Suspect) {
        let at = time(event);
        // A renewal that had been answered by then.
        let Some(sign) = life.signs.iter().filter(|sign| sign.to < at).map(|sign| sign.from).max() else { continue };
        let grace = life.broke.zip(life.grace).map(|(broke, grace)| broke.from + grace);
        let due = grace.map_or(sign + life.ttl, |grace| grace.min(sign + life.ttl));
        if at + BLUR < due {
            return Err(Gone::Suspected { life: life.name(), at, early: due - at });
        }
    }
    Ok(())
}

mod tests {
    use super::*;
    use crate::harness::{Span, key};
    use crate::invariant::instance_lifetime::made_up::{gone, life};

    #[test]
    fn removal_when_due_passes() {
        let silent = life(&[10_000, 11_000], Stop::Silent);
        assert_eq!(check(std::slice::from_ref(&silent), &gone(14_001, RemovalReason::Expired)), Ok(()));
        let told = life(&[10_000], Stop::Told);
        assert_eq!(check(&[told], &gone(10_500, RemovalReason::Deregistered)), Ok(()));
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
        assert_eq!(kept.serves(&one), Err(Gone::NotServed { instance: b, left: 1, of: 2 }));
    }

    #[test]
    fn each_violation_is_found() {
        let silent = || life(&[10_000, 11_000], Stop::Silent);
        let name = silent().name();
        let early = check(&[silent()], &gone(13_500, RemovalReason::Expired));
        assert_eq!(early, Err(Gone::TooEarly { life: name.clone(), at: 13_500, early: 500 }));
        let no_grace = InstanceLifetime { broke: Some(Span { from: 11_500, to: 11_510 }), ..silent() };
        let early = check(&[no_grace], &gone(12_000, RemovalReason::Expired));
        assert_eq!(early, Err(Gone::TooEarly { life: name.clone(), at: 12_000, early: 2_000 }));
        let unasked = check(&[silent()], &gone(20_000, RemovalReason::Deregistered));
        assert_eq!(unasked, Err(Gone::Unasked { life: name }));
        let mut suspected = gone(14_500, RemovalReason::Expired);
        suspected.events.insert(1, suspected.events[1].clone());
        suspected.events[1].kind = EventKind::Updated.into();
        suspected.events[1].status_after = InstanceStatus::Suspect.into();
        suspected.events[2].revision = 3;
        assert_eq!(check(&[silent()], &suspected), Ok(()));
        suspected.events[1].time.as_mut().unwrap().seconds = 12;
        let early = Gone::Suspected { life: silent().name(), at: 12_500, early: 1_500 };
        assert_eq!(check(&[silent()], &suspected), Err(early));
        let told = life(&[10_000, 12_000], Stop::Told);
        let held = Gone::HeldInVain { life: told.name(), at: 11_000, sign: 12_000 };
        assert_eq!(check(&[told], &gone(11_000, RemovalReason::Deregistered)), Err(held));
    }
}
