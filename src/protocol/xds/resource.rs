//! Resources of a service, and their encoding.
//!
//! A service has one resource of each type, all with its name: a listener with its route inline, which leads to a cluster, whose
//! endpoints are an assignment; and the route by itself, for proxies. Only the assignment depends on the instances
//! ([`super::assignment`]). The same bytes are sent to every client: fields that only Envoy reads are ignored by gRPC.

use std::{collections::HashMap, hash::Hasher, sync::LazyLock};

use bytes::Bytes;
use prost::{Message, Name};
use prost_types::{Any, Duration};
use siphasher::sip::SipHasher13;

use crate::pb::envoy::{
    config::{
        cluster::v3::{
            CircuitBreakers, Cluster,
            circuit_breakers::Thresholds,
            cluster::{
                ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig,
                common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig},
            },
        },
        core::v3::{
            AggregatedConfigSource, ApiVersion, ConfigSource, Http2ProtocolOptions, RoutingPriority,
            config_source::ConfigSourceSpecifier,
        },
        listener::v3::{ApiListener, Listener},
        route::v3::{
            Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route::Action,
            route_action::ClusterSpecifier, route_match::PathSpecifier,
        },
    },
    extensions::{
        filters::{
            http::router::v3::Router,
            network::http_connection_manager::v3::{
                HttpConnectionManager, HttpFilter, http_connection_manager::RouteSpecifier, http_filter::ConfigType,
            },
        },
        upstreams::http::v3::{
            HttpProtocolOptions,
            http_protocol_options::{
                ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
            },
        },
    },
    r#type::v3::Percent,
};

/// Prefix of the URL of a type.
const TYPE_URL_PREFIX: &str = "type.googleapis.com/";
/// Time within which a connection to an endpoint is made: the default of Envoy.
const CONNECT_TIMEOUT: Duration = Duration { seconds: 5, nanos: 0 };
/// Limit that is never reached. Without one, a client has at most 1,024 requests open for each cluster.
const UNLIMITED: u32 = u32::MAX;

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
}

impl EncodedResource {
    /// Hashes an encoded `google.protobuf.Any`.
    pub(super) fn new(any: Bytes) -> Self {
        let mut hasher = SipHasher13::new();
        hasher.write(&any);
        Self { hash: hasher.finish(), any }
    }

    fn of<M: Message + Name>(message: &M) -> Self {
        Self::new(pack(message).encode_to_vec().into())
    }
}

fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("{TYPE_URL_PREFIX}{}", M::full_name()), value: message.encode_to_vec() }
}

/// Maximum length of a name that leads to a cluster, in bytes: that of a service with a port.
const MAX_NAME_BYTES: usize = 253 + ":65535".len();

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

/// Returns the listener with this name.
pub(super) fn listener(name: &str) -> EncodedResource {
    let manager = HttpConnectionManager {
        stat_prefix: "callboard".to_owned(),
        route_specifier: Some(RouteSpecifier::RouteConfig(RouteConfiguration {
            name: name.to_owned(),
            virtual_hosts: cluster_of(name).map(virtual_host).into_iter().collect(),
        })),
        // gRPC rejects a listener without a router.
        http_filters: vec![HttpFilter {
            name: "router".to_owned(),
            config_type: Some(ConfigType::TypedConfig(pack(&Router {}))),
        }],
    };
    EncodedResource::of(&Listener {
        name: name.to_owned(),
        api_listener: Some(ApiListener { api_listener: Some(pack(&manager)) }),
    })
}

/// Returns the routes with this name.
pub(super) fn route(name: &str) -> EncodedResource {
    EncodedResource::of(&RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: cluster_of(name).map(virtual_host).into_iter().collect(),
    })
}

/// Returns the routes to a cluster: all requests go there, without a time limit. Envoy's default limit of 15 seconds would also end
/// streams.
fn virtual_host(cluster: &str) -> VirtualHost {
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        timeout: Some(Duration { seconds: 0, nanos: 0 }),
    };
    VirtualHost {
        name: cluster.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![Route {
            // grpc-java takes a match without this field as one that ignores case.
            r#match: Some(RouteMatch {
                path_specifier: Some(PathSpecifier::Prefix(String::new())),
                case_sensitive: Some(true),
            }),
            action: Some(Action::Route(action)),
        }],
    }
}

/// Returns the cluster with this name. `None`: the name is empty or longer than any service's.
pub(super) fn cluster(name: &str) -> Option<EncodedResource> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return None;
    }
    let named = Cluster { name: name.to_owned(), ..Cluster::default() };
    // Encoded messages that follow each other are one message.
    let value = [&*named.encode_to_vec(), &**UNNAMED_CLUSTER].concat();
    let any = Any { type_url: ResourceType::Cluster.url().to_owned(), value };
    Some(EncodedResource::new(any.encode_to_vec().into()))
}

/// Encoded fields of all clusters, without the name. An answer of the state-of-the-world protocol has the clusters of all services.
static UNNAMED_CLUSTER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let ads = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: ApiVersion::V3.into(),
    };
    let thresholds = Thresholds {
        priority: RoutingPriority::Default.into(),
        max_connections: Some(UNLIMITED),
        max_pending_requests: Some(UNLIMITED),
        max_requests: Some(UNLIMITED),
        max_retries: Some(UNLIMITED),
    };
    let unnamed = Cluster {
        name: String::new(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads), service_name: String::new() }),
        connect_timeout: Some(CONNECT_TIMEOUT),
        circuit_breakers: Some(CircuitBreakers { thresholds: vec![thresholds] }),
        // Envoy balances by the localities' weights as gRPC does, and never calls unhealthy endpoints.
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 0.0 }),
            locality_config_specifier: Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(
                LocalityWeightedLbConfig {},
            )),
        }),
        typed_extension_protocol_options: HashMap::from([http2_options()]),
    };
    unnamed.encode_to_vec()
});

/// Returns the options with which Envoy speaks HTTP/2 to endpoints.
fn http2_options() -> (String, Any) {
    let http2 =
        ExplicitHttpConfig { protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions {})) };
    let options =
        HttpProtocolOptions { upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(http2)) };
    (HttpProtocolOptions::full_name(), pack(&options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack<M: Message + Name + Default>(any: &Any) -> M {
        assert_eq!(any.type_url, format!("{TYPE_URL_PREFIX}{}", M::full_name()));
        M::decode(&*any.value).unwrap()
    }

    fn decode<M: Message + Name + Default>(resource: &EncodedResource) -> M {
        unpack(&Any::decode(&*resource.any).unwrap())
    }

    fn routes(listener: &Listener) -> RouteConfiguration {
        let api = listener.api_listener.as_ref().unwrap().api_listener.as_ref().unwrap();
        let manager: HttpConnectionManager = unpack(api);
        let Some(ConfigType::TypedConfig(filter)) = &manager.http_filters[0].config_type else { panic!() };
        let _: Router = unpack(filter);
        let Some(RouteSpecifier::RouteConfig(routes)) = manager.route_specifier else { panic!() };
        routes
    }

    #[test]
    fn url_of_each_type_is_that_of_its_message() {
        let urls = [
            Cluster::full_name(),
            crate::pb::envoy::config::endpoint::v3::ClusterLoadAssignment::full_name(),
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
    fn listener_has_the_requested_name_and_leads_to_the_cluster_of_the_service() {
        for name in ["payments", "payments:50051"] {
            let listener: Listener = decode(&listener(name));
            assert_eq!(listener.name, name);
            let routes = routes(&listener);
            assert_eq!(routes.virtual_hosts, [virtual_host("payments")]);
        }
    }

    #[test]
    fn listener_with_impossible_name_leads_to_a_cluster_of_that_name() {
        for name in ["a b", "a/b", "payments:", "payments:99999", "xdstp://x/y", &"x".repeat(254)] {
            let listener: Listener = decode(&listener(name));
            assert_eq!(routes(&listener).virtual_hosts, [virtual_host(name)]);
            assert!(cluster(name).is_some());
        }
    }

    #[test]
    fn name_that_is_empty_or_longer_than_any_service_has_neither_route_nor_cluster() {
        for name in ["", ":80", &"x".repeat(260)] {
            let listener: Listener = decode(&listener(name));
            assert_eq!(listener.name, name);
            assert!(routes(&listener).virtual_hosts.is_empty(), "{name}");
            assert!(decode::<RouteConfiguration>(&route(name)).virtual_hosts.is_empty());
        }
        assert_eq!((cluster(""), cluster(&"x".repeat(260))), (None, None));
    }

    #[test]
    fn cluster_states_its_limits_and_the_source_of_its_endpoints() {
        let cluster: Cluster = decode(&cluster("payments").unwrap());
        assert_eq!(cluster.circuit_breakers.unwrap().thresholds[0].max_requests, Some(u32::MAX));
        let source = cluster.eds_cluster_config.unwrap().eds_config.unwrap();
        assert!(matches!(source.config_source_specifier, Some(ConfigSourceSpecifier::Ads(_))));
        assert_eq!(source.resource_api_version(), ApiVersion::V3);
    }

    #[test]
    fn resource_is_encoded_and_hashed_in_the_same_way_each_time() {
        assert_eq!(listener("a"), listener("a"));
        assert_eq!(cluster("a"), cluster("a"));
        assert_ne!(cluster("a").unwrap().hash, cluster("b").unwrap().hash);
    }
}
