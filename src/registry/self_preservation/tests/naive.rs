//! Protection said in the plainest way: all leases are looked at each time, and nothing is remembered but what happened.

use std::collections::{BTreeMap, BTreeSet};

/// Service and instance.
pub type Key = (String, String);

#[derive(Debug, Clone, Default)]
pub struct NaiveLease {
    pub ttl: u64,
    pub deadline: u64,
    pub suspect: bool,
    /// As readers see it: registering again takes it away at once.
    pub mark: bool,
    pub condemned: bool,
}

impl NaiveLease {
    fn is_overdue(&self, now: u64) -> bool {
        now > self.deadline
    }

    fn is_weak(&self, now: u64) -> bool {
        now > self.deadline.saturating_sub(self.ttl / 3)
    }
}

#[derive(Debug, Clone, Copy)]
struct NaiveProtection {
    storm: u64,
    span: u64,
}

/// `None` is the registry as a whole.
type Scope = Option<String>;

#[derive(Debug, Default)]
pub struct NaiveSelfPreservation {
    pub leases: BTreeMap<Key, NaiveLease>,
    /// When who was removed by inference, and what its time to live was.
    removals: Vec<(u64, Key)>,
    forgotten_before: BTreeMap<Scope, usize>,
    guards: BTreeMap<Scope, NaiveProtection>,
}

/// What a sweep should do. Of those in `patient`, some go, as far as the budget allows; the others are, or become, suspects.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expected {
    pub expire: BTreeSet<Key>,
    pub suspect: BTreeSet<Key>,
    pub recover: BTreeSet<Key>,
    pub patient: BTreeSet<Key>,
}

impl NaiveSelfPreservation {
    /// What is to happen now.
    pub fn sweep(&mut self, now: u64) -> Expected {
        let mut expected = Expected::default();
        for (key, lease) in &mut self.leases {
            let steady = !lease.is_weak(now);
            if lease.condemned && steady || lease.suspect && !lease.condemned && !lease.is_overdue(now) {
                (lease.condemned, lease.suspect, lease.mark) = (false, false, false);
                expected.recover.insert(key.clone());
            }
        }
        // Who has just been believed again is looked at next time.
        let weak: Vec<Key> = self.weak(now).filter(|key| !expected.recover.contains(*key)).cloned().collect();
        let judged: Vec<Key> = weak.iter().filter(|key| self.leases[*key].is_overdue(now)).cloned().collect();
        for (service, id) in &judged {
            let ttl = self.leases[&(service.clone(), id.clone())].ttl;
            for scope in [Some(service.clone()), None] {
                if self.is_exceeded(&scope, &weak, now, ttl) {
                    let guard = self.guards.entry(scope).or_insert(NaiveProtection { storm: now, span: 0 });
                    *guard = NaiveProtection { storm: now, span: guard.span.max(ttl) };
                }
            }
        }
        for key in judged {
            let lease = &self.leases[&key];
            let held = self.holds(&Some(key.0.clone()), now, lease.ttl) || self.holds(&None, now, lease.ttl);
            if !held {
                expected.expire.insert(key);
            } else if now > lease.deadline + 10 * lease.ttl {
                expected.patient.insert(key);
            } else if !lease.suspect {
                expected.suspect.insert(key);
            }
        }
        let condemned = self.leases.iter().filter(|(_, lease)| lease.condemned && lease.is_overdue(now));
        expected.expire.extend(condemned.map(|(key, _)| key.clone()));
        expected
    }

    /// Whether the budget allows that this patient one goes.
    pub fn lets_go(&self, key: &Key, now: u64) -> bool {
        let ttl = self.leases[key].ttl;
        let allows = |scope: &Scope, share: usize| {
            let limit = self.peak(scope, now, ttl) / share;
            self.removed(scope, now, ttl) < limit.max(1) && self.removed(scope, now, ttl / 20) < (limit / 20).max(1)
        };
        allows(&Some(key.0.clone()), 5) && (!self.holds(&None, now, ttl) || allows(&None, 10))
    }

    /// It went.
    pub fn gone(&mut self, key: &Key, now: u64) {
        if !self.leases.remove(key).unwrap().condemned {
            self.removals.push((now, key.clone()));
        }
    }

    /// Ends what has nobody left to protect.
    pub fn close(&mut self, now: u64) {
        let suspects: Vec<Key> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.suspect && !lease.condemned)
            .map(|(key, _)| key.clone())
            .collect();
        self.guards
            .retain(|scope, guard| suspects.iter().any(|key| within(scope, key)) && now - guard.storm < guard.span);
    }

    pub fn reset(&mut self, service: Option<&str>, now: u64) {
        for ((of, _), lease) in &mut self.leases {
            if service.is_none_or(|service| service == of) && lease.is_weak(now) {
                lease.condemned = true;
            }
        }
        let scopes: Vec<Scope> = match service {
            Some(service) => vec![Some(service.to_owned())],
            None => self.removals.iter().map(|(_, (service, _))| Some(service.clone())).chain([None]).collect(),
        };
        for scope in &scopes {
            self.forgotten_before.insert(scope.clone(), self.removals.len());
        }
        if service.is_none() { self.guards.clear() } else { self.guards.retain(|scope, _| *scope != scopes[0]) }
    }

    pub fn protected(&self) -> Vec<String> {
        self.guards.keys().flatten().cloned().collect()
    }

    pub fn all_protected(&self) -> bool {
        self.guards.contains_key(&None)
    }

    /// Leases whose heartbeats are missing, or that were seen to be so.
    fn weak(&self, now: u64) -> impl Iterator<Item = &Key> {
        self.leases.iter().filter(move |(_, lease)| lease.is_weak(now) && !lease.condemned).map(|(key, _)| key)
    }

    fn is_exceeded(&self, scope: &Scope, weak: &[Key], now: u64, ttl: u64) -> bool {
        let silent = weak.iter().filter(|key| within(scope, key)).count() + self.removed(scope, now, ttl);
        let peak = self.peak(scope, now, ttl);
        if scope.is_some() {
            return peak >= 3 && silent * 5 > peak;
        }
        let services: BTreeSet<_> = self.leases.keys().map(|(service, _)| service).collect();
        peak >= 20 && services.len() >= 3 && silent * 10 > peak
    }

    fn holds(&self, scope: &Scope, now: u64, ttl: u64) -> bool {
        self.guards.get(scope).is_some_and(|guard| now - guard.storm < ttl)
    }

    fn peak(&self, scope: &Scope, now: u64, ttl: u64) -> usize {
        self.leases.keys().filter(|key| within(scope, key)).count() + self.removed(scope, now, ttl)
    }

    fn removed(&self, scope: &Scope, now: u64, span: u64) -> usize {
        let known = self.removals[self.first(scope)..].iter();
        known.filter(|(at, key)| within(scope, key) && *at >= now.saturating_sub(span)).count()
    }

    fn first(&self, scope: &Scope) -> usize {
        self.forgotten_before.get(scope).copied().unwrap_or(0)
    }
}

fn within(scope: &Scope, (service, _): &Key) -> bool {
    scope.as_ref().is_none_or(|scope| scope == service)
}
