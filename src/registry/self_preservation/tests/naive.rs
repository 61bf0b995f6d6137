//! Self-preservation in the plainest form: each sweep looks at all leases, and only removals are remembered.

use std::collections::{BTreeMap, BTreeSet};

/// Service and id of an instance.
pub type Key = (String, String);

#[derive(Debug, Clone, Default)]
pub struct NaiveLease {
    pub ttl: u64,
    pub deadline: u64,
    pub suspect: bool,
    /// Suspect mark that readers see: registering again removes it at once.
    pub mark: bool,
    /// An operator ended self-preservation while the lease was silent.
    pub released: bool,
}

impl NaiveLease {
    fn is_overdue(&self, now: u64) -> bool {
        now > self.deadline
    }

    fn is_expiring(&self, now: u64) -> bool {
        now > self.deadline.saturating_sub(self.ttl / 3)
    }
}

#[derive(Debug, Clone, Copy)]
struct NaiveActivation {
    last_exceeded: u64,
    longest_ttl: u64,
}

/// Service. `None`: the registry as a whole.
type Scope = Option<String>;

#[derive(Debug, Default)]
pub struct NaiveSelfPreservation {
    pub leases: BTreeMap<Key, NaiveLease>,
    /// Instances whose lease expired, with the time.
    removals: Vec<(u64, Key)>,
    forgotten_before: BTreeMap<Scope, usize>,
    activations: BTreeMap<Scope, NaiveActivation>,
}

/// Expected result of a sweep. Some of `releasable` are removed, as many as the rule permits; the others are suspects.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expected {
    pub expire: BTreeSet<Key>,
    pub suspect: BTreeSet<Key>,
    pub recover: BTreeSet<Key>,
    pub releasable: BTreeSet<Key>,
}

impl NaiveSelfPreservation {
    /// Returns the expected result of a sweep.
    pub fn sweep(&mut self, now: u64) -> Expected {
        let mut expected = Expected::default();
        for (key, lease) in &mut self.leases {
            let is_fresh = !lease.is_expiring(now);
            if lease.released && is_fresh || lease.suspect && !lease.released && !lease.is_overdue(now) {
                (lease.released, lease.suspect, lease.mark) = (false, false, false);
                expected.recover.insert(key.clone());
            }
        }
        // A lease that has just recovered is looked at by the next sweep.
        let expiring: Vec<Key> = self.expiring(now).filter(|key| !expected.recover.contains(*key)).cloned().collect();
        let judged: Vec<Key> = expiring.iter().filter(|key| self.leases[*key].is_overdue(now)).cloned().collect();
        for (service, id) in &judged {
            let ttl = self.leases[&(service.clone(), id.clone())].ttl;
            for scope in [Some(service.clone()), None] {
                if self.is_exceeded(&scope, &expiring, now, ttl) {
                    let activation =
                        self.activations.entry(scope).or_insert(NaiveActivation { last_exceeded: now, longest_ttl: 0 });
                    *activation = NaiveActivation { last_exceeded: now, longest_ttl: activation.longest_ttl.max(ttl) };
                }
            }
        }
        for key in judged {
            let lease = &self.leases[&key];
            let held = self.holds(&Some(key.0.clone()), now, lease.ttl) || self.holds(&None, now, lease.ttl);
            if !held {
                expected.expire.insert(key);
            } else if now > lease.deadline + 10 * lease.ttl {
                expected.releasable.insert(key);
            } else if !lease.suspect {
                expected.suspect.insert(key);
            }
        }
        let released = self.leases.iter().filter(|(_, lease)| lease.released && lease.is_overdue(now));
        expected.expire.extend(released.map(|(key, _)| key.clone()));
        expected
    }

    /// Returns whether the rule permits the release of an old suspect.
    pub fn permits_release(&self, key: &Key, now: u64) -> bool {
        let ttl = self.leases[key].ttl;
        let allows = |scope: &Scope, share: usize| {
            let limit = self.peak(scope, now, ttl) / share;
            self.removed(scope, now, ttl) < limit.max(1) && self.removed(scope, now, ttl / 20) < (limit / 20).max(1)
        };
        allows(&Some(key.0.clone()), 5) && (!self.holds(&None, now, ttl) || allows(&None, 10))
    }

    /// Records that an instance was removed.
    pub fn removed_instance(&mut self, key: &Key, now: u64) {
        if !self.leases.remove(key).unwrap().released {
            self.removals.push((now, key.clone()));
        }
    }

    /// Ends self-preservation where there are no suspects left.
    pub fn close(&mut self, now: u64) {
        let suspects: Vec<Key> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.suspect && !lease.released)
            .map(|(key, _)| key.clone())
            .collect();
        self.activations.retain(|scope, activation| {
            suspects.iter().any(|key| within(scope, key)) && now - activation.last_exceeded < activation.longest_ttl
        });
    }

    pub fn reset(&mut self, service: Option<&str>, now: u64) {
        for ((of, _), lease) in &mut self.leases {
            if service.is_none_or(|service| service == of) && lease.is_expiring(now) {
                lease.released = true;
            }
        }
        let scopes: Vec<Scope> = match service {
            Some(service) => vec![Some(service.to_owned())],
            None => self.removals.iter().map(|(_, (service, _))| Some(service.clone())).chain([None]).collect(),
        };
        for scope in &scopes {
            self.forgotten_before.insert(scope.clone(), self.removals.len());
        }
        if service.is_none() {
            self.activations.clear();
        } else {
            self.activations.retain(|scope, _| *scope != scopes[0]);
        }
    }

    pub fn preserved_services(&self) -> Vec<String> {
        self.activations.keys().flatten().cloned().collect()
    }

    pub fn is_registry_preserved(&self) -> bool {
        self.activations.contains_key(&None)
    }

    /// Returns the leases whose heartbeats are missing.
    fn expiring(&self, now: u64) -> impl Iterator<Item = &Key> {
        self.leases.iter().filter(move |(_, lease)| lease.is_expiring(now) && !lease.released).map(|(key, _)| key)
    }

    fn is_exceeded(&self, scope: &Scope, expiring: &[Key], now: u64, ttl: u64) -> bool {
        let silent = expiring.iter().filter(|key| within(scope, key)).count() + self.removed(scope, now, ttl);
        let peak = self.peak(scope, now, ttl);
        if scope.is_some() {
            return peak >= 3 && silent * 5 > peak;
        }
        let services: BTreeSet<_> = self.leases.keys().map(|(service, _)| service).collect();
        peak >= 20 && services.len() >= 3 && silent * 10 > peak
    }

    fn holds(&self, scope: &Scope, now: u64, ttl: u64) -> bool {
        self.activations.get(scope).is_some_and(|activation| now - activation.last_exceeded < ttl)
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
