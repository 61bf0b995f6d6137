//! The parts of a service that are about Consul's service mesh, as they are shown: what was given, and what Consul shows where
//! nothing was.

use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::listed;
use crate::model::Instance;

/// Kinds of services whose agents show the settings of a proxy.
const PROXIES: [&str; 5] = ["connect-proxy", "mesh-gateway", "terminating-gateway", "ingress-gateway", "api-gateway"];

/// Whether a service speaks the protocol of the mesh itself.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ConnectView {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    native: bool,
}

impl ConnectView {
    pub(super) fn new(instance: &Instance) -> Self {
        Self { native: instance.consul_registration.as_ref().is_some_and(|listing| listing.connect_native) }
    }

    /// The same, as an agent shows it: nothing where there is nothing.
    pub(super) fn at_agent(instance: &Instance) -> Option<Self> {
        Some(Self::new(instance)).filter(|connect| connect.native)
    }
}

/// Settings of a proxy.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(super) struct ProxyView(Map<String, Json>);

impl ProxyView {
    /// As the catalog shows them, also of services that are no proxies.
    pub(super) fn new(instance: &Instance) -> Self {
        let mut proxy = Self::given(instance);
        proxy.0.entry("Mode").or_insert_with(|| "".into());
        proxy
    }

    /// As an agent shows them: of proxies and gateways.
    pub(super) fn at_agent(instance: &Instance) -> Option<Self> {
        PROXIES.contains(&listed(instance, |listing| &listing.kind)).then(|| Self::given(instance))
    }

    fn given(instance: &Instance) -> Self {
        let given = listed(instance, |listing| &listing.proxy);
        // What was kept was written here; were it no object, there would be nothing to show.
        let mut proxy: Map<String, Json> =
            if given.is_empty() { Map::new() } else { serde_json::from_str(given).unwrap_or_default() };
        for part in ["MeshGateway", "Expose"] {
            proxy.entry(part).or_insert_with(|| Json::Object(Map::new()));
        }
        Self(proxy)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::{model::ConsulRegistration, registry::test_support::entry};

    #[test]
    fn settings_are_shown_as_given_and_where_there_are_none_as_consul_shows_none() {
        let mut instance = entry("web", "a", 1).instance.clone();
        let none = json!({"Mode": "", "MeshGateway": {}, "Expose": {}});
        assert_eq!(serde_json::to_value(ProxyView::new(&instance)).unwrap(), none);
        assert!(ProxyView::at_agent(&instance).is_none() && ConnectView::at_agent(&instance).is_none());
        let proxy = r#"{"Config":{"a":1},"MeshGateway":{"Mode":"local"}}"#;
        let listing = ConsulRegistration {
            kind: "connect-proxy".into(),
            proxy: proxy.into(),
            connect_native: true,
            ..ConsulRegistration::default()
        };
        instance.consul_registration = Some(Arc::new(listing));
        let given = json!({"Config": {"a": 1}, "MeshGateway": {"Mode": "local"}, "Expose": {}});
        assert_eq!(serde_json::to_value(ProxyView::at_agent(&instance)).unwrap(), given);
        assert_eq!(serde_json::to_value(ConnectView::new(&instance)).unwrap(), json!({"Native": true}));
    }
}
