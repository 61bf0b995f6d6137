//! Which path is which endpoint. Paths are matched as Consul does: what stands behind the name of an endpoint is one text, also
//! where it has slashes.

use axum::http::Method;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
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
pub(super) enum Found {
    /// An endpoint, its method, and what stands behind its path.
    Endpoint(Endpoint, Method, String),
    /// A part of Consul that this is not.
    Elsewhere(&'static str),
    Nothing,
}

/// Paths that are the whole of it.
const EXACT: [(&str, bool, Endpoint); 19] = [
    ("agent/self", false, Endpoint::AgentSelf),
    ("agent/members", false, Endpoint::AgentMembers),
    ("agent/version", false, Endpoint::AgentVersion),
    ("agent/services", false, Endpoint::AgentServices),
    ("agent/checks", false, Endpoint::AgentChecks),
    ("agent/maintenance", true, Endpoint::AgentMaintenance),
    ("agent/service/register", true, Endpoint::ServiceRegister),
    ("agent/check/register", true, Endpoint::CheckRegister),
    ("agent/connect/ca/roots", false, Endpoint::ConnectRoots),
    ("catalog/datacenters", false, Endpoint::CatalogDatacenters),
    ("catalog/nodes", false, Endpoint::CatalogNodes),
    ("catalog/services", false, Endpoint::CatalogServices),
    ("catalog/register", true, Endpoint::CatalogRegister),
    ("catalog/deregister", true, Endpoint::CatalogDeregister),
    ("status/leader", false, Endpoint::StatusLeader),
    ("status/peers", false, Endpoint::StatusPeers),
    ("connect/ca/roots", false, Endpoint::ConnectRoots),
    // Their subject is missing, which they say themselves.
    ("health/service", false, Endpoint::HealthService),
    ("catalog/service", false, Endpoint::CatalogService),
];

/// Paths behind which something stands. The longer ones first.
const PREFIXES: [(&str, bool, Endpoint); 17] = [
    ("agent/service/deregister/", true, Endpoint::ServiceDeregister),
    ("agent/service/maintenance/", true, Endpoint::ServiceMaintenance),
    ("agent/service/", false, Endpoint::AgentService),
    ("agent/health/service/name/", false, Endpoint::AgentHealthByName),
    ("agent/health/service/id/", false, Endpoint::AgentHealthById),
    ("agent/check/deregister/", true, Endpoint::CheckDeregister),
    ("agent/check/pass/", true, Endpoint::CheckPass),
    ("agent/check/warn/", true, Endpoint::CheckWarn),
    ("agent/check/fail/", true, Endpoint::CheckFail),
    ("agent/check/update/", true, Endpoint::CheckUpdate),
    ("catalog/service/", false, Endpoint::CatalogService),
    ("catalog/node-services/", false, Endpoint::CatalogNodeServices),
    ("catalog/node/", false, Endpoint::CatalogNode),
    ("health/service/", false, Endpoint::HealthService),
    ("health/checks/", false, Endpoint::HealthChecks),
    ("health/state/", false, Endpoint::HealthState),
    ("health/node/", false, Endpoint::HealthNode),
];

/// Parts of Consul that this is not, by how their paths begin.
const ELSEWHERE: [(&str, &str); 27] = [
    ("kv", "a key/value store"),
    ("session/", "a session store"),
    ("txn", "a transactional store"),
    ("event/", "a bus of events"),
    ("query", "an executor of prepared queries"),
    ("acl/", "an administration of ACLs"),
    ("connect/", "a service mesh"),
    ("intentions", "a service mesh"),
    ("config", "a store of configuration entries"),
    ("discovery-chain/", "a service mesh"),
    ("exported-services", "a service mesh"),
    ("peering", "a federation of clusters"),
    ("peerings", "a federation of clusters"),
    ("namespace", "a Consul Enterprise"),
    ("namespaces", "a Consul Enterprise"),
    ("partition", "a Consul Enterprise"),
    ("partitions", "a Consul Enterprise"),
    ("coordinate/", "a map of round trips"),
    ("operator/", "a Raft cluster"),
    ("snapshot", "a Raft cluster"),
    ("internal/", "a backend of Consul's own UI"),
    ("catalog/connect/", "a service mesh"),
    ("catalog/gateway-services/", "a service mesh"),
    ("health/connect/", "a service mesh"),
    ("health/ingress/", "a service mesh"),
    ("agent/connect/", "a service mesh"),
    ("agent/", "a Consul agent beyond services and checks"),
];

/// What a path leads to. It is decoded already.
pub(super) fn find(path: &str) -> Found {
    let Some(path) = path.strip_prefix("/v1/") else { return Found::Nothing };
    let method = |put: bool| if put { Method::PUT } else { Method::GET };
    if let Some((_, put, endpoint)) = EXACT.iter().find(|(exact, ..)| *exact == path) {
        return Found::Endpoint(*endpoint, method(*put), String::new());
    }
    let behind = PREFIXES.iter().find_map(|(prefix, put, endpoint)| Some((put, endpoint, path.strip_prefix(prefix)?)));
    if let Some((put, endpoint, subject)) = behind {
        return Found::Endpoint(*endpoint, method(*put), subject.to_owned());
    }
    let part = |start: &str| match start.strip_suffix('/') {
        Some(_) => path.starts_with(start),
        None => path.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    };
    ELSEWHERE.iter().find(|(start, _)| part(start)).map_or(Found::Nothing, |(_, what)| Found::Elsewhere(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_somewhere() {
        let found = |path: &str| match find(path) {
            Found::Endpoint(endpoint, method, subject) => format!("{method} {endpoint:?} {subject}"),
            Found::Elsewhere(what) => what.to_owned(),
            Found::Nothing => "nothing".to_owned(),
        };
        for (path, leads) in [
            ("/v1/agent/service/register", "PUT ServiceRegister "),
            ("/v1/agent/service/register-me", "GET AgentService register-me"),
            ("/v1/agent/service/deregister/a/b", "PUT ServiceDeregister a/b"),
            ("/v1/agent/service/deregister/", "PUT ServiceDeregister "),
            ("/v1/health/service/", "GET HealthService "),
            ("/v1/health/service/web", "GET HealthService web"),
            ("/v1/kv/a", "a key/value store"),
            ("/v1/kvs", "nothing"),
            ("/v1/agent/join/x", "a Consul agent beyond services and checks"),
            ("/v1/connect/ca/roots", "GET ConnectRoots "),
            ("/v1/connect/ca/configuration", "a service mesh"),
            ("/v1/nope", "nothing"),
            ("/v2/agent/self", "nothing"),
        ] {
            assert_eq!(found(path), leads, "{path}");
        }
    }
}
