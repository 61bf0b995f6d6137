//! Resources of this registry.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc};

use super::{
    assignment::ServiceAssignment,
    client_family::ClientFamily,
    cluster_resource,
    resource::{EncodedResource, ResourceType},
    route_resource::{self, SelectedRoutes},
    session::ResourceSource,
};
use crate::{
    app::{ServerContext, View, ViewKey, ViewValue},
    model::{EffectivePolicy, ServiceName},
};

/// Resources of this registry. An assignment is encoded once for each revision of its service, for all streams.
#[derive(Debug)]
pub(super) struct RegistrySource<'a>(pub(super) &'a ServerContext);

impl ViewValue for EncodedResource {
    fn bytes(&self) -> usize {
        self.any.len()
    }
}

impl RegistrySource<'_> {
    fn assignment(&self, name: &str) -> EncodedResource {
        let registry = self.0.engine.registry();
        let empty = || ServiceAssignment::without_policy(std::iter::empty()).into_parts().encode(name, None);
        let Ok(service) = ServiceName::parse(name) else { return empty() };
        // Read before the instances, which may be newer. Then they are encoded once more.
        let Some(revision) = registry.view_revision(&service) else { return empty() };
        let encode = || {
            let chunks = registry.chunks(&service);
            let instances = chunks.iter().flat_map(|chunk| chunk.entries()).map(|entry| &entry.instance);
            Ok::<_, Infallible>(ServiceAssignment::without_policy(instances).into_parts().encode(name, None))
        };
        let Ok(encoded) = self.0.views.at_revision(ViewKey::new(View::XdsAssignment, name, ""), revision, encode);
        EncodedResource::clone(&encoded)
    }
}

impl ResourceSource for RegistrySource<'_> {
    fn resource(&self, kind: ResourceType, name: &str) -> Option<EncodedResource> {
        let (policy, listed) = (EffectivePolicy::default(), BTreeSet::new());
        let incarnation = self.0.engine.registry().incarnation();
        let selected = SelectedRoutes { policy: &policy, listed: &listed, incarnation };
        let family = ClientFamily::UNKNOWN;
        match kind {
            ResourceType::Cluster => cluster_resource::cluster(name, &policy, family),
            ResourceType::Assignment => Some(self.assignment(name)),
            ResourceType::Listener => Some(route_resource::listener(name, &selected, family)),
            ResourceType::Route => Some(route_resource::route(name, &selected, family)),
        }
    }

    fn clusters(&self) -> Vec<Arc<str>> {
        self.0.engine.registry().each_service().map(|service| Arc::from(service.name.as_str())).collect()
    }

    fn has_cluster(&self, name: &str) -> bool {
        ServiceName::parse(name).is_ok_and(|service| self.0.engine.registry().view_revision(&service).is_some())
    }

    fn revision(&self) -> u64 {
        self.0.engine.registry().applied().0
    }
}
