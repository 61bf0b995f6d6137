//! Service mesh settings of a service in answers: those given at registration, and Consul's defaults.

use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::registered_text;
use crate::model::Instance;

/// Kinds of services whose agents show the settings of a proxy.
const PROXIES: [&str; 5] = ["connect-proxy", "mesh-gateway", "terminating-gateway", "ingress-gateway", "api-gateway"];

/// The field `Connect`, which says whether a service speaks the protocol of the mesh itself.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ConnectView {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    native: bool,
}

impl ConnectView {
    pub(super) fn new(instance: &Instance) -> Self {
        Self { native: instance.consul_registration.as_ref().is_some_and(|registration| registration.connect_native) }
    }

    /// Returns the settings as an agent shows them: `None` if there are none.
    pub(super) fn at_agent(instance: &Instance) -> Option<Self> {
        Some(Self::new(instance)).filter(|connect| connect.native)
    }
}

/// Settings of a proxy.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(super) struct ProxyView(Map<String, Json>);

impl ProxyView {
    /// Returns the settings as the catalog shows them, for every service.
    pub(super) fn new(instance: &Instance) -> Self {
        let mut proxy = Self::given(instance);
        proxy.0.entry("Mode").or_insert_with(|| "".into());
        proxy
    }

    /// Returns the settings as an agent shows them, for proxies and gateways only.
    pub(super) fn at_agent(instance: &Instance) -> Option<Self> {
        PROXIES.contains(&registered_text(instance, |registration| &registration.kind)).then(|| Self::given(instance))
    }

    fn given(instance: &Instance) -> Self {
        let given = registered_text(instance, |registration| &registration.proxy);
        // The stored text is always an object, because this API wrote it. Anything else would be shown as no settings.
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
    fn settings_are_shown_as_given_and_absent_ones_as_in_consul() {
        let mut instance = entry("web", "a", 1).instance.clone();
        let none = json!({"Mode": "", "MeshGateway": {}, "Expose": {}});
        assert_eq!(serde_json::to_value(ProxyView::new(&instance)).unwrap(), none);
        assert!(ProxyView::at_agent(&instance).is_none() && ConnectView::at_agent(&instance).is_none());
        let proxy = r#"{"Config":{"a":1},"MeshGateway":{"Mode":"local"}}"#;
        let registration = ConsulRegistration {
            kind: "connect-proxy".into(),
            proxy: proxy.into(),
            connect_native: true,
            ..ConsulRegistration::default()
        };
        instance.consul_registration = Some(Arc::new(registration));
        let given = json!({"Config": {"a": 1}, "MeshGateway": {"Mode": "local"}, "Expose": {}});
        assert_eq!(serde_json::to_value(ProxyView::at_agent(&instance)).unwrap(), given);
        assert_eq!(serde_json::to_value(ConnectView::new(&instance)).unwrap(), json!({"Native": true}));
    }
}
