//! Resources of one service among those of a subscription.

use std::{collections::BTreeSet, ops::Bound, sync::Arc};

use super::{ResourceStatus, TypeSubscription};
use crate::protocol::xds::{
    cluster_name::{cluster_prefix, split_cluster_name},
    resource::{ResourceType, cluster_of},
};

/// Returns the service that a resource of a type belongs to.
pub(in crate::protocol::xds) fn service_of(kind: ResourceType, name: &str) -> &str {
    match kind {
        ResourceType::Cluster | ResourceType::Assignment => split_cluster_name(name).0,
        ResourceType::Listener | ResourceType::Route => cluster_of(name).unwrap_or(name),
    }
}

impl TypeSubscription {
    /// Returns the subscribed resources of a service: `web`, `web:50051`, `web|v2`. Services whose names begin with this one cost nothing.
    fn of_service<'a>(&'a self, kind: ResourceType, service: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
        let itself = self.resources.get_key_value(service).map(|(name, _)| name);
        let prefix = match kind {
            ResourceType::Cluster | ResourceType::Assignment => cluster_prefix(service),
            ResourceType::Listener | ResourceType::Route => format!("{service}:"),
        };
        let longer =
            self.resources.range::<str, _>((Bound::Included(&*prefix), Bound::Unbounded)).map(|(name, _)| name);
        let longer = longer.take_while(move |name| name.starts_with(&prefix));
        itself.into_iter().chain(longer).filter(move |name| service_of(kind, name) == service)
    }

    /// Marks the resources of a service as pending.
    pub(in crate::protocol::xds::session) fn mark_service(&mut self, kind: ResourceType, service: &str) {
        let names: Vec<_> = self.of_service(kind, service).cloned().collect();
        self.pending.extend(names);
    }

    /// Returns whether the client subscribes to a resource of a service.
    pub(in crate::protocol::xds) fn includes_service(&self, kind: ResourceType, service: &str) -> bool {
        self.of_service(kind, service).next().is_some()
    }

    /// Adds the services of the subscribed resources to a set.
    pub(in crate::protocol::xds::session) fn add_services<'a>(
        &'a self,
        kind: ResourceType,
        to: &mut BTreeSet<&'a str>,
    ) {
        to.extend(self.resources.keys().map(|name| service_of(kind, name)));
    }

    /// Returns the lowest status of the resources of a service. A resource that may have changed is stale. `None`: there are none.
    pub(in crate::protocol::xds::session) fn status_of_service(
        &self,
        kind: ResourceType,
        service: &str,
    ) -> Option<ResourceStatus> {
        self.of_service(kind, service).filter_map(|name| self.settled_status(name)).min_by_key(|status| rank(*status))
    }

    /// Returns whether the client has accepted some content of a resource.
    pub(in crate::protocol::xds::session) fn has_accepted(&self, name: &str) -> bool {
        let accepted = self.accepted.map_or(0, |response| response.nonce);
        self.resources.get(name).is_some_and(|state| {
            let rejects_first = state.rejected && state.nonce == state.first_nonce;
            state.sent.is_some() && state.first_nonce <= accepted && !rejects_first
        })
    }

    /// Returns whether the client rejects a resource of a service that it was sent after this response.
    pub(in crate::protocol::xds::session) fn rejects_service(
        &self,
        kind: ResourceType,
        service: &str,
        after: u64,
    ) -> bool {
        let rejects =
            |name: &Arc<str>| self.resources.get(name).is_some_and(|state| state.rejected && state.nonce > after);
        self.of_service(kind, service).any(rejects)
    }

    /// Returns the status of a resource; one that may have changed is stale. `None`: the client does not subscribe to it.
    pub(in crate::protocol::xds::session) fn settled_status(&self, name: &str) -> Option<ResourceStatus> {
        let status = self.status_of(name)?;
        let is_pending = self.pending.contains(name) && status != ResourceStatus::Rejected;
        Some(if is_pending { ResourceStatus::Stale } else { status })
    }
}

/// Order of statuses: a rejection counts most, an acceptance least.
fn rank(status: ResourceStatus) -> u8 {
    match status {
        ResourceStatus::Rejected => 0,
        ResourceStatus::NotSent => 1,
        ResourceStatus::Stale => 2,
        ResourceStatus::Synced => 3,
    }
}
