//! Types of resources, and their encoding.
//!
//! A service has one listener with its routes inline, and the routes by themselves for proxies ([`super::route_resource`]); they lead to
//! one cluster for the service and one for each of its subsets ([`super::cluster_resource`]), and the endpoints of each are an assignment
//! ([`super::assignment`]). Only assignments depend on the instances. Listeners, routes and clusters are made from the policy of the
//! service for a family of clients ([`super::client_family`]), so that no client gets what it would reject.

use std::hash::Hasher;

use bytes::Bytes;
use prost::{Message, Name};
use prost_types::Any;
use siphasher::sip::SipHasher13;

/// Prefix of the URL of a type.
const TYPE_URL_PREFIX: &str = "type.googleapis.com/";

/// Type of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResourceType {
    /// Load balancing configuration of a service (CDS).
    Cluster,
    /// Endpoints of a cluster (EDS).
    Assignment,
    /// Configuration of a client that dials the name of a service (LDS).
    Listener,
    /// Routes of a proxy's listener (RDS).
    Route,
}

impl ResourceType {
    /// All types, in the order in which their changes are sent: Envoy routes to a cluster only once it has its endpoints.
    pub(super) const ALL: [Self; 4] = [Self::Cluster, Self::Assignment, Self::Listener, Self::Route];

    /// Returns the type with this URL.
    pub(super) fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// URL of the type.
    pub(super) fn url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Assignment => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// Name of the discovery service of the type.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Cluster => "CDS",
            Self::Assignment => "EDS",
            Self::Listener => "LDS",
            Self::Route => "RDS",
        }
    }

    /// Returns whether a subscription without names means all resources, and a response of the state-of-the-world protocol has all
    /// subscribed resources: one that is missing is deleted.
    pub(super) fn is_complete(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

/// Resource as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EncodedResource {
    /// Encoded `google.protobuf.Any`. All streams share the buffer.
    pub(super) any: Bytes,
    /// Hash of the bytes. Resources with the same hash are the same, in every process.
    pub(super) hash: u64,
    /// Hash of what the resource has besides weights that change by themselves. Without such weights it is that of the bytes.
    pub(super) shape: u64,
}

impl EncodedResource {
    /// Hashes an encoded `google.protobuf.Any`.
    pub(super) fn new(any: Bytes) -> Self {
        let mut hasher = SipHasher13::new();
        hasher.write(&any);
        let hash = hasher.finish();
        Self { hash, shape: hash, any }
    }

    /// Encodes and hashes a resource.
    pub(super) fn of<M: Message + Name>(message: &M) -> Self {
        Self::new(pack(message).encode_to_vec().into())
    }
}

/// Wraps a message with the URL of its type.
pub(super) fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("{TYPE_URL_PREFIX}{}", M::full_name()), value: message.encode_to_vec() }
}

/// Maximum length of a name that leads to a cluster, in bytes: that of a service with a port.
pub(super) const MAX_NAME_BYTES: usize = 253 + ":65535".len();

/// Returns the cluster that a listener's name leads to: `payments` and `payments:50051` lead to `payments`. A name that no service can have
/// leads to a cluster without endpoints, so that calls fail at once. Without a route grpc-js would wait for one. `None`: the name is empty
/// or longer than any service's.
pub(super) fn cluster_of(name: &str) -> Option<&str> {
    if name.len() > MAX_NAME_BYTES {
        return None;
    }
    let host = name.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(name, |(host, _)| host);
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pb::envoy::config::{
        cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
        route::v3::RouteConfiguration,
    };

    pub(in crate::protocol::xds) fn unpack<M: Message + Name + Default>(any: &Any) -> M {
        assert_eq!(any.type_url, format!("{TYPE_URL_PREFIX}{}", M::full_name()));
        M::decode(&*any.value).unwrap()
    }

    pub(in crate::protocol::xds) fn decode<M: Message + Name + Default>(resource: &EncodedResource) -> M {
        unpack(&Any::decode(&*resource.any).unwrap())
    }

    #[test]
    fn url_of_each_type_is_that_of_its_message() {
        let urls = [
            Cluster::full_name(),
            ClusterLoadAssignment::full_name(),
            Listener::full_name(),
            RouteConfiguration::full_name(),
        ];
        for (kind, name) in ResourceType::ALL.into_iter().zip(urls) {
            assert_eq!(kind.url(), format!("{TYPE_URL_PREFIX}{name}"));
            assert_eq!(ResourceType::of_url(kind.url()), Some(kind));
        }
        assert_eq!(ResourceType::of_url(""), None);
    }

    #[test]
    fn hash_of_equal_bytes_is_equal() {
        let named = |name: &str| EncodedResource::of(&Cluster { name: name.to_owned(), ..Cluster::default() });
        assert_eq!(named("a"), named("a"));
        assert_ne!(named("a").hash, named("b").hash);
    }
}
