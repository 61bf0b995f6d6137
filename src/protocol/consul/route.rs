//! Routes: endpoints by path. As in Consul, the part of a path after the name of an endpoint is one text, even if it contains slashes.

use self::ConsulEndpoint::{Read, Write};

/// Endpoint that is read with GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadEndpoint {
    AgentSelf,
    AgentMembers,
    AgentVersion,
    AgentServices,
    AgentService,
    AgentChecks,
    AgentHealthByName,
    AgentHealthById,
    CatalogDatacenters,
    CatalogNodes,
    CatalogServices,
    CatalogService,
    CatalogNode,
    CatalogNodeServices,
    HealthService,
    HealthChecks,
    HealthState,
    HealthNode,
    StatusLeader,
    StatusPeers,
    ConnectRoots,
}

/// Endpoint that is written with PUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteEndpoint {
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
    CatalogRegister,
    CatalogDeregister,
}

/// Endpoint of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConsulEndpoint {
    Read(ReadEndpoint),
    Write(WriteEndpoint),
}

/// Result of matching a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RouteMatch {
    /// An endpoint and the rest of the path.
    Endpoint(ConsulEndpoint, String),
    /// A part of Consul's API that is not implemented, by its name.
    NotImplemented(&'static str),
    Nothing,
}

/// Complete paths.
const EXACT: [(&str, ConsulEndpoint); 19] = [
    ("agent/self", Read(ReadEndpoint::AgentSelf)),
    ("agent/members", Read(ReadEndpoint::AgentMembers)),
    ("agent/version", Read(ReadEndpoint::AgentVersion)),
    ("agent/services", Read(ReadEndpoint::AgentServices)),
    ("agent/checks", Read(ReadEndpoint::AgentChecks)),
    ("agent/maintenance", Write(WriteEndpoint::AgentMaintenance)),
    ("agent/service/register", Write(WriteEndpoint::ServiceRegister)),
    ("agent/check/register", Write(WriteEndpoint::CheckRegister)),
    ("agent/connect/ca/roots", Read(ReadEndpoint::ConnectRoots)),
    ("catalog/datacenters", Read(ReadEndpoint::CatalogDatacenters)),
    ("catalog/nodes", Read(ReadEndpoint::CatalogNodes)),
    ("catalog/services", Read(ReadEndpoint::CatalogServices)),
    ("catalog/register", Write(WriteEndpoint::CatalogRegister)),
    ("catalog/deregister", Write(WriteEndpoint::CatalogDeregister)),
    ("status/leader", Read(ReadEndpoint::StatusLeader)),
    ("status/peers", Read(ReadEndpoint::StatusPeers)),
    ("connect/ca/roots", Read(ReadEndpoint::ConnectRoots)),
    // Without a subject, which the endpoint itself rejects.
    ("health/service", Read(ReadEndpoint::HealthService)),
    ("catalog/service", Read(ReadEndpoint::CatalogService)),
];

/// Beginnings of paths that a subject follows, the longer ones first.
const PREFIXES: [(&str, ConsulEndpoint); 17] = [
    ("agent/service/deregister/", Write(WriteEndpoint::ServiceDeregister)),
    ("agent/service/maintenance/", Write(WriteEndpoint::ServiceMaintenance)),
    ("agent/service/", Read(ReadEndpoint::AgentService)),
    ("agent/health/service/name/", Read(ReadEndpoint::AgentHealthByName)),
    ("agent/health/service/id/", Read(ReadEndpoint::AgentHealthById)),
    ("agent/check/deregister/", Write(WriteEndpoint::CheckDeregister)),
    ("agent/check/pass/", Write(WriteEndpoint::CheckPass)),
    ("agent/check/warn/", Write(WriteEndpoint::CheckWarn)),
    ("agent/check/fail/", Write(WriteEndpoint::CheckFail)),
    ("agent/check/update/", Write(WriteEndpoint::CheckUpdate)),
    ("catalog/service/", Read(ReadEndpoint::CatalogService)),
    ("catalog/node-services/", Read(ReadEndpoint::CatalogNodeServices)),
    ("catalog/node/", Read(ReadEndpoint::CatalogNode)),
    ("health/service/", Read(ReadEndpoint::HealthService)),
    ("health/checks/", Read(ReadEndpoint::HealthChecks)),
    ("health/state/", Read(ReadEndpoint::HealthState)),
    ("health/node/", Read(ReadEndpoint::HealthNode)),
];

/// Parts of Consul's API that are not implemented, by the beginnings of their paths.
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

/// Finds the endpoint of a decoded path.
pub(super) fn find(path: &str) -> RouteMatch {
    let Some(path) = path.strip_prefix("/v1/") else { return RouteMatch::Nothing };
    if let Some((_, endpoint)) = EXACT.iter().find(|(exact, _)| *exact == path) {
        return RouteMatch::Endpoint(*endpoint, String::new());
    }
    let with_subject = PREFIXES.iter().find_map(|(prefix, endpoint)| Some((endpoint, path.strip_prefix(prefix)?)));
    if let Some((endpoint, subject)) = with_subject {
        return RouteMatch::Endpoint(*endpoint, subject.to_owned());
    }
    let is_below = |start: &str| match start.strip_suffix('/') {
        Some(_) => path.starts_with(start),
        None => path.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    };
    let part = NOT_IMPLEMENTED.iter().find(|(start, _)| is_below(start));
    part.map_or(RouteMatch::Nothing, |(_, part)| RouteMatch::NotImplemented(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_matched_to_its_endpoint_and_subject() {
        let found = |path: &str| match find(path) {
            RouteMatch::Endpoint(Read(endpoint), subject) => format!("GET {endpoint:?} {subject}"),
            RouteMatch::Endpoint(Write(endpoint), subject) => format!("PUT {endpoint:?} {subject}"),
            RouteMatch::NotImplemented(part) => part.to_owned(),
            RouteMatch::Nothing => "nothing".to_owned(),
        };
        for (path, expected) in [
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
            assert_eq!(found(path), expected, "{path}");
        }
    }
}
