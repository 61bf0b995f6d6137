//! The tags of each service.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    model::{Revision, ServiceName},
    registry::Registry,
};

/// Tags, in order.
type Tags = Arc<BTreeSet<Box<str>>>;

/// The tags of each service and its revision when they were gathered. The list of all services is asked for again after each
/// change of any of them: that should cost as much as there are services, not instances.
#[derive(Debug, Default)]
pub(in crate::protocol::consul) struct ServiceTagsCache(Mutex<BTreeMap<ServiceName, (Revision, Tags)>>);

impl ServiceTagsCache {
    /// Services and their tags, by name.
    pub(super) fn all(&self, registry: &Registry) -> Vec<(ServiceName, Tags)> {
        let mut known = self.0.lock();
        let mut before = mem::take(&mut *known);
        for summary in registry.each_service() {
            let tags = match before.remove(&summary.name) {
                Some((revision, tags)) if revision == summary.revision => tags,
                _ => gather(registry, &summary.name),
            };
            known.insert(summary.name, (summary.revision, tags));
        }
        known.iter().map(|(name, (_, tags))| (name.clone(), Arc::clone(tags))).collect()
    }
}

fn gather(registry: &Registry, service: &ServiceName) -> Tags {
    let blocks = registry.blocks(service);
    let tags: BTreeSet<&str> =
        blocks.iter().flat_map(|block| block.entries()).flat_map(|entry| entry.instance.tags.iter()).collect();
    Arc::new(tags.into_iter().map(Into::into).collect())
}
