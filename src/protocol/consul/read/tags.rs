//! Tags of each service.

use std::{collections::BTreeSet, convert::Infallible, mem, sync::Arc};

use crate::{
    app::{View, ViewKey, ViewValue, Views},
    model::ServiceName,
    registry::Registry,
};

/// Tags of the instances of one service, in order.
#[derive(Debug)]
pub(super) struct ServiceTags(pub(super) BTreeSet<Box<str>>);

impl ViewValue for ServiceTags {
    fn bytes(&self) -> usize {
        // The nodes of a tree are at least half full.
        self.0.iter().map(|tag| tag.len() + 2 * mem::size_of::<Box<str>>()).sum()
    }
}

/// Returns all services with their tags, by name. The tags of a service are collected once for each of its revisions: clients ask for
/// the list of all services again after each change of any of them, and its cost should grow with the number of services, not of
/// instances.
pub(super) fn of_services(registry: &Registry, views: &Views) -> Vec<(ServiceName, Arc<ServiceTags>)> {
    let tags = registry.each_service().map(|summary| {
        let key = ViewKey::new(View::ServiceTags, summary.name.as_str(), "");
        let collect = || Ok::<_, Infallible>(collect(registry, &summary.name));
        let Ok(tags) = views.at_revision(key, summary.revision, collect);
        (summary.name, tags)
    });
    tags.collect()
}

fn collect(registry: &Registry, service: &ServiceName) -> ServiceTags {
    let chunks = registry.chunks(service);
    let tags: BTreeSet<&str> =
        chunks.iter().flat_map(|chunk| chunk.entries()).flat_map(|entry| entry.instance.tags.iter()).collect();
    ServiceTags(tags.into_iter().map(Into::into).collect())
}
