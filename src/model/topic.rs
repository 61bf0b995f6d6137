//! Topics: reserved names under which readers wait for changes of nodes and policies. No service can have such a name.

use super::ServiceName;

/// Topic of the nodes of the instances of a service, regardless of the case of its name.
#[must_use]
pub fn topic_of_nodes(service: &ServiceName) -> ServiceName {
    ServiceName::reserved(&format!("_nodes of {}", service.as_str().to_ascii_lowercase()))
}

/// Topic of a node and of all instances on it. `node` is the id of the node in the service of nodes; empty for the local node.
#[must_use]
pub fn topic_of_node(node: &str) -> ServiceName {
    ServiceName::reserved(&format!("_node {node}"))
}

/// Topic of all policies: those of services, and the defaults.
#[must_use]
pub fn topic_of_policies() -> ServiceName {
    ServiceName::reserved("_policies")
}
