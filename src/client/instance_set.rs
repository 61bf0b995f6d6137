//! Instances of a service, as the events of a watch describe them.

use std::{collections::HashMap, sync::Arc};

use super::WatchEvent;
use crate::pb::callboard::v1::{ClientPolicy, Instance, change::Change};

/// Last complete set of instances, with the weights and the policy of their service. It is kept while the registry cannot be
/// reached, and while a new snapshot is incomplete.
#[derive(Debug, Default)]
pub(super) struct InstanceSet {
    instances: HashMap<String, Arc<Instance>>,
    /// Snapshot that the next `Synced` completes.
    snapshot: Option<HashMap<String, Arc<Instance>>>,
    /// Effective weights where they differ from the configured ones.
    weights: HashMap<String, f64>,
    policy: Option<ClientPolicy>,
    revision: Option<u64>,
}

impl InstanceSet {
    /// Applies an event. Returns whether the instances, their weights or the policy may have changed.
    pub(super) fn apply(&mut self, event: WatchEvent) -> bool {
        match event {
            WatchEvent::Reset(_) => {
                self.snapshot = Some(HashMap::new());
                false
            }
            WatchEvent::Snapshot(instances) => {
                let entries = instances.into_iter().map(|instance| (instance.id.clone(), Arc::new(instance)));
                self.snapshot.get_or_insert_default().extend(entries);
                false
            }
            WatchEvent::Synced { revision } => {
                let snapshot = self.snapshot.take();
                let changed = snapshot.is_some() || self.revision.is_none();
                self.instances = snapshot.unwrap_or_else(|| std::mem::take(&mut self.instances));
                self.revision = Some(revision);
                changed
            }
            WatchEvent::Changes { changes, revision } => {
                for change in changes {
                    self.change(change);
                }
                self.revision = Some(revision);
                true
            }
            WatchEvent::Balancing(balancing) => {
                self.weights = balancing.weights.into_iter().map(|weight| (weight.id, weight.weight)).collect();
                self.policy = balancing.policy;
                true
            }
            WatchEvent::Bookmark { revision } | WatchEvent::Degraded { revision, .. } => {
                self.revision = Some(revision);
                false
            }
            WatchEvent::Settling | WatchEvent::Disconnected { .. } | WatchEvent::Reconnected { .. } => false,
        }
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Updated(instance) => drop(self.instances.insert(instance.id.clone(), Arc::new(instance))),
            Change::Removed(removal) => drop(self.instances.remove(&removal.id)),
        }
    }

    /// Returns the instances, in no particular order.
    pub(super) fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances.values()
    }

    /// Returns the effective weight of an instance, in the unit of the configured weights.
    pub(super) fn weight(&self, instance: &Instance) -> f64 {
        self.weights.get(&instance.id).copied().unwrap_or_else(|| f64::from(instance.weight))
    }

    /// Returns the policy of the service, once the registry has sent it.
    pub(super) fn policy(&self) -> Option<&ClientPolicy> {
        self.policy.as_ref()
    }

    /// Returns the revision of the instances. `None`: there was no complete snapshot yet.
    pub(super) fn revision(&self) -> Option<u64> {
        self.revision
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::ResetCause,
        pb::callboard::v1::{Balancing, EffectiveWeight, Removal},
    };

    fn instance(id: &str) -> Instance {
        Instance { service: "web".to_owned(), id: id.to_owned(), weight: 2, ..Instance::default() }
    }

    fn ids(set: &InstanceSet) -> Vec<&str> {
        let mut ids: Vec<_> = set.instances().map(|instance| instance.id.as_str()).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn snapshot_replaces_the_instances_once_it_is_complete() {
        let mut set = InstanceSet::default();
        assert!(!set.apply(WatchEvent::Snapshot(vec![instance("a")])));
        assert_eq!((set.revision(), ids(&set).len()), (None, 0));
        assert!(set.apply(WatchEvent::Synced { revision: 7 }));
        assert_eq!((set.revision(), ids(&set)), (Some(7), vec!["a"]));
        set.apply(WatchEvent::Reset(ResetCause::Compacted));
        set.apply(WatchEvent::Snapshot(vec![instance("b")]));
        assert_eq!(ids(&set), ["a"], "the old set is used until the new one is complete");
        set.apply(WatchEvent::Reset(ResetCause::Interrupted));
        set.apply(WatchEvent::Snapshot(vec![instance("c")]));
        assert!(set.apply(WatchEvent::Synced { revision: 9 }));
        assert_eq!(ids(&set), ["c"]);
    }

    #[test]
    fn resumed_watch_keeps_the_instances() {
        let mut set = InstanceSet::default();
        set.apply(WatchEvent::Snapshot(vec![instance("a")]));
        set.apply(WatchEvent::Synced { revision: 7 });
        assert!(!set.apply(WatchEvent::Synced { revision: 8 }));
        let removal = Removal { id: "a".to_owned(), ..Removal::default() };
        let changes = vec![Change::Updated(instance("b")), Change::Removed(removal)];
        assert!(set.apply(WatchEvent::Changes { changes, revision: 9 }));
        assert_eq!((set.revision(), ids(&set)), (Some(9), vec!["b"]));
    }

    #[test]
    fn empty_service_is_complete_without_a_snapshot() {
        let mut set = InstanceSet::default();
        assert!(set.apply(WatchEvent::Synced { revision: 7 }));
        assert!(ids(&set).is_empty());
    }

    #[test]
    fn effective_weights_replace_the_configured_ones_as_a_whole() {
        let mut set = InstanceSet::default();
        let weigh = |id: &str, weight| {
            let weights = vec![EffectiveWeight { id: id.to_owned(), weight }];
            WatchEvent::Balancing(Balancing { weights, ..Balancing::default() })
        };
        set.apply(weigh("a", 0.5));
        set.apply(weigh("b", 1.5));
        assert_eq!((set.weight(&instance("a")), set.weight(&instance("b"))), (2.0, 1.5));
    }
}
