//! Which path is which endpoint. Paths are matched as Consul does: what stands behind the name of an endpoint is one text, also
//! where it has slashes.

use axum::http::Method;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConsulEndpoint {
    AgentSelf,
    AgentMembers,
    AgentVersion,
    AgentServices,
    AgentService,
    AgentChecks,
    AgentHealthByName,
    AgentHealthById,
    AgentMaintenance,
    ServiceRegister,
    ServiceDeregister,
    ServiceMaintenance,
    CheckRegister,
    CheckDeregister,
    CheckPass,
    CheckWarn,
    CheckFail,
    CheckUpdate,
    CatalogDatacenters,
    CatalogNodes,
    CatalogServices,
    CatalogService,
    CatalogNode,
    CatalogNodeServices,
    CatalogRegister,
    CatalogDeregister,
    HealthService,
    HealthChecks,
    HealthState,
    HealthNode,
    StatusLeader,
    StatusPeers,
    ConnectRoots,
}

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RouteMatch {
    /// An endpoint, its method, and what stands behind its path.
    Endpoint(ConsulEndpoint, Method, String),
    /// A part of Consul that this is not.
    NotImplemented(&'static str),
    Nothing,
}

/// Paths that are the whole of it.
const EXACT: [(&str, bool, ConsulEndpoint); 19] = [
    ("agent/self", false, ConsulEndpoint::AgentSelf),
    ("agent/members", false, ConsulEndpoint::AgentMembers),
    ("agent/version", false, ConsulEndpoint::AgentVersion),
    ("agent/services", false, ConsulEndpoint::AgentServices),
    ("agent/checks", false, ConsulEndpoint::AgentChecks),
    ("agent/maintenance", true, ConsulEndpoint::AgentMaintenance),
    ("agent/service/register", true, ConsulEndpoint::ServiceRegister),
    ("agent/check/register", true, ConsulEndpoint::CheckRegister),
    ("agent/connect/ca/roots", false, ConsulEndpoint::ConnectRoots),
    ("catalog/datacenters", false, ConsulEndpoint::CatalogDatacenters),
    ("catalog/nodes", false, ConsulEndpoint::CatalogNodes),
    ("catalog/services", false, ConsulEndpoint::CatalogServices),
    ("catalog/register", true, ConsulEndpoint::CatalogRegister),
    ("catalog/deregister", true, ConsulEndpoint::CatalogDeregister),
    ("status/leader", false, ConsulEndpoint::StatusLeader),
    ("status/peers", false, ConsulEndpoint::StatusPeers),
    ("connect/ca/roots", false, ConsulEndpoint::ConnectRoots),
    // Their subject is missing, which they say themselves.
    ("health/service", false, ConsulEndpoint::HealthService),
    ("catalog/service", false, ConsulEndpoint::CatalogService),
];

/// Paths behind which something stands. The longer ones first.
const PREFIXES: [(&str, bool, ConsulEndpoint); 17] = [
    ("agent/service/deregister/", true, ConsulEndpoint::ServiceDeregister),
    ("agent/service/maintenance/", true, ConsulEndpoint::ServiceMaintenance),
    ("agent/service/", false, ConsulEndpoint::AgentService),
    ("agent/health/service/name/", false, ConsulEndpoint::AgentHealthByName),
    ("agent/health/service/id/", false, ConsulEndpoint::AgentHealthById),
    ("agent/check/deregister/", true, ConsulEndpoint::CheckDeregister),
    ("agent/check/pass/", true, ConsulEndpoint::CheckPass),
    ("agent/check/warn/", true, ConsulEndpoint::CheckWarn),
    ("agent/check/fail/", true, ConsulEndpoint::CheckFail),
    ("agent/check/update/", true, ConsulEndpoint::CheckUpdate),
    ("catalog/service/", false, ConsulEndpoint::CatalogService),
    ("catalog/node-services/", false, ConsulEndpoint::CatalogNodeServices),
    ("catalog/node/", false, ConsulEndpoint::CatalogNode),
    ("health/service/", false, ConsulEndpoint::HealthService),
    ("health/checks/", false, ConsulEndpoint::HealthChecks),
    ("health/state/", false, ConsulEndpoint::HealthState),
    ("health/node/", false, ConsulEndpoint::HealthNode),
];

/// Parts of Consul that this is not, by how their paths begin.
const NOT_IMPLEMENTED: [(&str, &str); 27] = [
    ("kv", "the key/value store"),
    ("session/", "sessions"),
    ("txn", "transactions"),
    ("event/", "events"),
    ("query", "prepared queries"),
    ("acl/", "ACLs"),
    ("connect/", "the service mesh"),
    ("intentions", "the service mesh"),
    ("config", "configuration entries"),
    ("discovery-chain/", "the service mesh"),
    ("exported-services", "the service mesh"),
    ("peering", "cluster peering"),
    ("peerings", "cluster peering"),
    ("namespace", "Consul Enterprise"),
    ("namespaces", "Consul Enterprise"),
    ("partition", "Consul Enterprise"),
    ("partitions", "Consul Enterprise"),
    ("coordinate/", "network coordinates"),
    ("operator/", "cluster operation"),
    ("snapshot", "cluster snapshots"),
    ("internal/", "Consul's UI"),
    ("catalog/connect/", "the service mesh"),
    ("catalog/gateway-services/", "the service mesh"),
    ("health/connect/", "the service mesh"),
    ("health/ingress/", "the service mesh"),
    ("agent/connect/", "the service mesh"),
    ("agent/", "the rest of the agent API"),
];

/// What a path leads to. It is decoded already.
pub(super) fn find(path: &str) -> RouteMatch {
    let Some(path) = path.strip_prefix("/v1/") else { return RouteMatch::Nothing };
    let method = |put: bool| if put { Method::PUT } else { Method::GET };
    if let Some((_, put, endpoint)) = EXACT.iter().find(|(exact, ..)| *exact == path) {
        return RouteMatch::Endpoint(*endpoint, method(*put), String::new());
    }
    let behind = PREFIXES.iter().find_map(|(prefix, put, endpoint)| Some((put, endpoint, path.strip_prefix(prefix)?)));
    if let Some((put, endpoint, subject)) = behind {
        return RouteMatch::Endpoint(*endpoint, method(*put), subject.to_owned());
    }
    let part = |start: &str| match start.strip_suffix('/') {
        Some(_) => path.starts_with(start),
        None => path.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    };
    NOT_IMPLEMENTED
        .iter()
        .find(|(start, _)| part(start))
        .map_or(RouteMatch::Nothing, |(_, what)| RouteMatch::NotImplemented(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_somewhere() {
        let found = |path: &str| match find(path) {
            RouteMatch::Endpoint(endpoint, method, subject) => format!("{method} {endpoint:?} {subject}"),
            RouteMatch::NotImplemented(what) => what.to_owned(),
            RouteMatch::Nothing => "nothing".to_owned(),
        };
        for (path, leads) in [
            ("/v1/agent/service/register", "PUT ServiceRegister "),
            ("/v1/agent/service/register-me", "GET AgentService register-me"),
            ("/v1/agent/service/deregister/a/b", "PUT ServiceDeregister a/b"),
            ("/v1/agent/service/deregister/", "PUT ServiceDeregister "),
            ("/v1/health/service/", "GET HealthService "),
            ("/v1/health/service/web", "GET HealthService web"),
            ("/v1/kv/a", "the key/value store"),
            ("/v1/kvs", "nothing"),
            ("/v1/agent/join/x", "the rest of the agent API"),
            ("/v1/connect/ca/roots", "GET ConnectRoots "),
            ("/v1/connect/ca/configuration", "the service mesh"),
            ("/v1/nope", "nothing"),
            ("/v2/agent/self", "nothing"),
        ] {
            assert_eq!(found(path), leads, "{path}");
        }
    }
}
