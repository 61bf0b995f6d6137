//! Services whose changes concern the endpoints of one stream: the subscribed services, and the services that take their calls.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
};

use crate::model::ServiceName;

/// Services whose changes concern the endpoints of one stream.
#[derive(Debug, Default)]
pub(super) struct StreamInterest {
    subscribed: BTreeMap<ServiceName, SubscribedService>,
    /// Number of reasons for which each service wakes the stream.
    reasons: HashMap<ServiceName, usize>,
    /// Subscribed services by the services that take their calls.
    dependents: BTreeMap<ServiceName, BTreeSet<ServiceName>>,
}

/// Service whose endpoints the client subscribes to.
#[derive(Debug, Default)]
struct SubscribedService {
    /// Number of subscribed assignments: that of the service and those of its subsets.
    assignments: usize,
    /// Services that take the calls if this one has no instances.
    fallbacks: Vec<ServiceName>,
}

/// Services that begin or cease to wake the stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct WakeChanges {
    pub(super) added: Vec<ServiceName>,
    pub(super) removed: Vec<ServiceName>,
}

impl StreamInterest {
    /// Adds an assignment of a service. Returns whether it is the first one of the service.
    pub(super) fn subscribe(&mut self, service: &ServiceName, changes: &mut WakeChanges) -> bool {
        let subscribed = self.subscribed.entry(service.clone()).or_default();
        subscribed.assignments += 1;
        let is_first = subscribed.assignments == 1;
        if is_first {
            self.add_reason(service, changes);
        }
        is_first
    }

    /// Removes an assignment of a service.
    pub(super) fn unsubscribe(&mut self, service: &ServiceName, changes: &mut WakeChanges) {
        let Some(subscribed) = self.subscribed.get_mut(service) else { return };
        subscribed.assignments -= 1;
        if subscribed.assignments > 0 {
            return;
        }
        self.set_fallbacks(service, Vec::new(), changes);
        self.subscribed.remove(service);
        self.remove_reason(service, changes);
    }

    /// Sets the services that take the calls of a subscribed service. Returns whether they are others than before.
    pub(super) fn set_fallbacks(
        &mut self,
        service: &ServiceName,
        fallbacks: Vec<ServiceName>,
        changes: &mut WakeChanges,
    ) -> bool {
        let Some(subscribed) = self.subscribed.get_mut(service).filter(|one| one.fallbacks != fallbacks) else {
            return false;
        };
        let before = mem::replace(&mut subscribed.fallbacks, fallbacks.clone());
        for fallback in fallbacks {
            self.add_reason(&fallback, changes);
            self.dependents.entry(fallback).or_default().insert(service.clone());
        }
        for fallback in before {
            self.remove_reason(&fallback, changes);
            let is_still = self.subscribed.get(service).is_some_and(|one| one.fallbacks.contains(&fallback));
            if !is_still && let Some(dependents) = self.dependents.get_mut(&fallback) {
                dependents.remove(service);
                if dependents.is_empty() {
                    self.dependents.remove(&fallback);
                }
            }
        }
        true
    }

    /// Returns the subscribed services whose calls a service takes if they have no instances.
    pub(super) fn dependents_of(&self, service: &ServiceName) -> impl Iterator<Item = &ServiceName> {
        self.dependents.get(service).into_iter().flatten()
    }

    /// Returns whether the client subscribes to an assignment of a service.
    pub(super) fn is_subscribed(&self, service: &ServiceName) -> bool {
        self.subscribed.contains_key(service)
    }

    /// Returns the services with a subscribed assignment.
    pub(super) fn subscribed(&self) -> impl Iterator<Item = &ServiceName> {
        self.subscribed.keys()
    }

    fn add_reason(&mut self, service: &ServiceName, changes: &mut WakeChanges) {
        let reasons = self.reasons.entry(service.clone()).or_default();
        *reasons += 1;
        if *reasons == 1 {
            changes.removed.retain(|removed| removed != service);
            changes.added.push(service.clone());
        }
    }

    fn remove_reason(&mut self, service: &ServiceName, changes: &mut WakeChanges) {
        let Some(reasons) = self.reasons.get_mut(service) else { return };
        *reasons -= 1;
        if *reasons == 0 {
            self.reasons.remove(service);
            changes.added.retain(|added| added != service);
            changes.removed.push(service.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        ServiceName::parse(text).unwrap()
    }

    fn names(texts: &[&str]) -> Vec<ServiceName> {
        texts.iter().map(|text| name(text)).collect()
    }

    fn dependents(interest: &StreamInterest, service: &str) -> Vec<ServiceName> {
        interest.dependents_of(&name(service)).cloned().collect()
    }

    #[test]
    fn service_wakes_the_stream_until_its_last_assignment_is_unsubscribed() {
        let (mut interest, mut changes) = (StreamInterest::default(), WakeChanges::default());
        assert!(interest.subscribe(&name("web"), &mut changes));
        assert!(!interest.subscribe(&name("web"), &mut changes));
        assert_eq!(changes, WakeChanges { added: names(&["web"]), removed: vec![] });
        let mut changes = WakeChanges::default();
        interest.unsubscribe(&name("web"), &mut changes);
        assert_eq!(changes, WakeChanges::default());
        interest.unsubscribe(&name("web"), &mut changes);
        interest.unsubscribe(&name("web"), &mut changes);
        assert_eq!(changes, WakeChanges { added: vec![], removed: names(&["web"]) });
    }

    #[test]
    fn fallback_that_is_also_subscribed_stays_while_either_reason_does() {
        let (mut interest, mut changes) = (StreamInterest::default(), WakeChanges::default());
        for service in ["web", "web-dr"] {
            interest.subscribe(&name(service), &mut changes);
        }
        assert!(interest.set_fallbacks(&name("web"), names(&["web-dr", "web-far"]), &mut changes));
        assert!(!interest.set_fallbacks(&name("web"), names(&["web-dr", "web-far"]), &mut changes));
        assert_eq!(changes.added, names(&["web", "web-dr", "web-far"]));
        assert_eq!(dependents(&interest, "web-dr"), names(&["web"]));

        let mut changes = WakeChanges::default();
        interest.unsubscribe(&name("web-dr"), &mut changes);
        assert_eq!(changes, WakeChanges::default(), "it is still a fallback");
        interest.set_fallbacks(&name("web"), names(&["web-far"]), &mut changes);
        assert_eq!(changes.removed, names(&["web-dr"]));
        assert_eq!(dependents(&interest, "web-dr"), names(&[]));

        let mut changes = WakeChanges::default();
        interest.unsubscribe(&name("web"), &mut changes);
        assert_eq!(changes.removed, names(&["web-far", "web"]));
        assert_eq!(dependents(&interest, "web-far"), names(&[]));
    }
}
