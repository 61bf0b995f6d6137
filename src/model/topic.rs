//! Names under which readers wait for changes that are none of the instances of a service. No service can have such a name.

use super::ServiceName;

/// Topic of the nodes that the instances of a service are on. The case of its name does not count.
#[must_use]
pub fn topic_of_nodes(service: &ServiceName) -> ServiceName {
    ServiceName::reserved(&format!("_nodes of {}", service.as_str().to_ascii_lowercase()))
}

/// Topic of a node and of all that is on it. `node`: as it is known by in the catalog; empty for the local node.
#[must_use]
pub fn topic_of_node(node: &str) -> ServiceName {
    ServiceName::reserved(&format!("_node {node}"))
}
