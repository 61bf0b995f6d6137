//! Clusters: how the clients of a service, or of one of its subsets, balance and limit calls.
//!
//! Only fields that change seldom are here. Envoy replaces a cluster that changes, and grpc-js reconnects; so weights are in assignments.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::LazyLock};

use prost::{Message, Name};
use prost_types::Any;

use super::{
    client_family::{ClientFamily, ClientFeature, ClientLibrary},
    cluster_name::split_cluster_name,
    resource::{EncodedResource, MAX_NAME_BYTES, ResourceType, pack},
    route_resource::duration,
};
use crate::{
    model::{EffectivePolicy, LoadBalancing, OutlierDetection, WeightSource, ZoneMode},
    pb::envoy::{
        config::{
            cluster::v3::{
                CircuitBreakers, Cluster, LoadBalancingPolicy, OutlierDetection as ClusterOutliers,
                circuit_breakers::Thresholds,
                cluster::{
                    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbPolicy,
                    common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig},
                },
                load_balancing_policy::Policy,
            },
            core::v3::{
                AggregatedConfigSource, ApiVersion, ConfigSource, Http2ProtocolOptions, RoutingPriority,
                SelfConfigSource, TypedExtensionConfig, config_source::ConfigSourceSpecifier,
            },
        },
        extensions::{
            load_balancing_policies::{
                client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin,
                least_request::v3::LeastRequest,
                ring_hash::v3::{RingHash, ring_hash::HashFunction},
                round_robin::v3::RoundRobin,
                wrr_locality::v3::WrrLocality,
            },
            upstreams::http::v3::{
                HttpProtocolOptions,
                http_protocol_options::{
                    ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
                },
            },
        },
        r#type::v3::Percent,
    },
};

/// Time within which a connection to an endpoint is made: the default of Envoy.
const CONNECT_TIMEOUT: prost_types::Duration = prost_types::Duration { seconds: 5, nanos: 0 };
/// Limit that is never reached. Without one, a client has at most 1,024 requests open for each cluster.
const UNLIMITED: u32 = u32::MAX;
/// Maximum length of the name of a subset, in bytes.
const MAX_SUBSET_BYTES: usize = 32;

/// Returns the cluster with this name, which is that of a service or of a subset. `None`: the name is empty or longer than any.
pub(super) fn cluster(name: &str, policy: &EffectivePolicy, family: ClientFamily) -> Option<EncodedResource> {
    let (service, subset) = split_cluster_name(name);
    if service.is_empty() || service.len() > MAX_NAME_BYTES || subset.is_some_and(|name| name.len() > MAX_SUBSET_BYTES)
    {
        return None;
    }
    let named = Cluster { name: name.to_owned(), ..Cluster::default() };
    let settings = ClusterSettings::new(policy, family);
    let encoded;
    let unnamed = if settings == ClusterSettings::default() {
        &**DEFAULT_CLUSTER
    } else {
        encoded = settings.unnamed_cluster().encode_to_vec();
        &encoded
    };
    // Encoded messages that follow each other are one message.
    let value = [&*named.encode_to_vec(), unnamed].concat();
    let any = Any { type_url: ResourceType::Cluster.url().to_owned(), value };
    Some(EncodedResource::new(any.encode_to_vec().into()))
}

/// Encoded fields of a cluster without a policy, without the name. An answer of the state-of-the-world protocol has the clusters of all
/// services.
static DEFAULT_CLUSTER: LazyLock<Vec<u8>> =
    LazyLock::new(|| ClusterSettings::default().unnamed_cluster().encode_to_vec());

/// Part of a policy that clusters have, as a family of clients gets it.
#[derive(Debug, Clone, Default, PartialEq)]
struct ClusterSettings {
    lb_policy: LbPolicy,
    /// Policies that take precedence over `lb_policy`. Other clients than those that have at least one of them reject the list.
    policies: Option<LoadBalancingPolicy>,
    max_requests: Option<u32>,
    outlier: Option<OutlierDetection>,
    /// Sends outlier detection that is off, too.
    states_outlier: bool,
    reports_load: bool,
}

impl ClusterSettings {
    fn new(policy: &EffectivePolicy, family: ClientFamily) -> Self {
        let (lb_policy, policies) = balancing(policy.lb, family);
        Self {
            lb_policy,
            policies: policies.filter(|_| family.has(ClientFeature::PolicyList)),
            max_requests: policy.max_requests,
            // grpc-java 1.85 loses calls that begin when an instance leaves a cluster with outlier detection, even with one that ejects
            // nothing: they never end.
            outlier: policy.outlier.filter(|_| family.library() != ClientLibrary::Java),
            // grpc-js takes a cluster that gains a field as unchanged.
            states_outlier: family.library() == ClientLibrary::Node,
            // grpc-java counts requests only over connections that it made with a destination for load reports.
            reports_load: family.library() == ClientLibrary::Java
                || family.has(ClientFeature::LoadReports) && needs_load_reports(policy),
        }
    }

    /// Returns the cluster without its name.
    fn unnamed_cluster(&self) -> Cluster {
        let source = |specifier| ConfigSource {
            config_source_specifier: Some(specifier),
            resource_api_version: ApiVersion::V3.into(),
        };
        let ads = source(ConfigSourceSpecifier::Ads(AggregatedConfigSource {}));
        let thresholds = Thresholds {
            priority: RoutingPriority::Default.into(),
            max_connections: Some(UNLIMITED),
            max_pending_requests: Some(UNLIMITED),
            max_requests: Some(self.max_requests.unwrap_or(UNLIMITED)),
            max_retries: Some(UNLIMITED),
        };
        Cluster {
            name: String::new(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
            eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads), service_name: String::new() }),
            connect_timeout: Some(CONNECT_TIMEOUT),
            lb_policy: self.lb_policy.into(),
            circuit_breakers: Some(CircuitBreakers { thresholds: vec![thresholds] }),
            outlier_detection: self
                .outlier
                .map(outlier_detection)
                .or_else(|| self.states_outlier.then(|| disabled(outlier_detection(OutlierDetection::default())))),
            // Envoy balances by the localities' weights as gRPC does, and never calls unhealthy endpoints.
            common_lb_config: Some(CommonLbConfig {
                healthy_panic_threshold: Some(Percent { value: 0.0 }),
                locality_config_specifier: Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(
                    LocalityWeightedLbConfig {},
                )),
            }),
            typed_extension_protocol_options: HashMap::from([http2_options()]),
            load_balancing_policy: self.policies.clone(),
            lrs_server: self.reports_load.then(|| source(ConfigSourceSpecifier::Self_(SelfConfigSource {}))),
        }
    }
}

/// Returns whether the registry uses the load that clients report: their numbers of requests for the shares of zones, and their numbers of
/// errors for weights.
fn needs_load_reports(policy: &EffectivePolicy) -> bool {
    policy.zone == ZoneMode::Prefer || policy.weights == WeightSource::ResponseTime
}

/// Returns the load balancing of a family: what is nearest to that of the policy. Fallbacks are within the list of endpoint policies, not
/// after the policy of localities: grpc-js rejects a policy of localities that has no known policy in it.
fn balancing(lb: LoadBalancing, family: ClientFamily) -> (LbPolicy, Option<LoadBalancingPolicy>) {
    match (lb, family.library()) {
        (LoadBalancing::LeastRequest, ClientLibrary::Envoy) => (LbPolicy::LeastRequest, None),
        (LoadBalancing::LeastRequest, _) if family.has(ClientFeature::LeastRequest) => {
            let two_choices = extension(&LeastRequest { choice_count: Some(2) });
            (LbPolicy::RoundRobin, Some(policies(vec![by_locality(vec![two_choices, extension(&RoundRobin {})])])))
        }
        (LoadBalancing::Weighted, _) if family.has(ClientFeature::ClientSideWeights) => {
            let weighted = extension(&ClientSideWeightedRoundRobin {});
            (LbPolicy::RoundRobin, Some(policies(vec![by_locality(vec![weighted, extension(&RoundRobin {})])])))
        }
        (LoadBalancing::RingHash, _) if family.has(ClientFeature::RingHash) => {
            // grpc-go, grpc-java and grpc-js reject the policy without this function.
            let ring = extension(&RingHash { hash_function: HashFunction::XxHash.into() });
            (LbPolicy::RingHash, Some(policies(vec![ring, by_locality(vec![extension(&RoundRobin {})])])))
        }
        (
            LoadBalancing::RoundRobin | LoadBalancing::LeastRequest | LoadBalancing::Weighted | LoadBalancing::RingHash,
            _,
        ) => (LbPolicy::RoundRobin, None),
    }
}

fn policies(list: Vec<Policy>) -> LoadBalancingPolicy {
    LoadBalancingPolicy { policies: list }
}

/// Returns the policy that balances over localities by their weights, and over the endpoints of each by the first known policy.
fn by_locality(endpoints: Vec<Policy>) -> Policy {
    extension(&WrrLocality { endpoint_picking_policy: Some(policies(endpoints)) })
}

fn extension<M: Message + Name>(config: &M) -> Policy {
    let typed_config = Some(pack(config));
    Policy { typed_extension_config: Some(TypedExtensionConfig { name: M::full_name(), typed_config }) }
}

/// Returns outlier detection by the percentage of failures alone. Clients disagree on the defaults of the other algorithms.
fn outlier_detection(outlier: OutlierDetection) -> ClusterOutliers {
    ClusterOutliers {
        interval: Some(duration(outlier.interval)),
        base_ejection_time: Some(duration(outlier.eject)),
        max_ejection_percent: Some(outlier.max_percent.into()),
        enforcing_consecutive_5xx: Some(0),
        enforcing_success_rate: Some(0),
        failure_percentage_threshold: Some(outlier.failure_percent.into()),
        enforcing_failure_percentage: Some(100),
        failure_percentage_minimum_hosts: Some(outlier.hosts),
        failure_percentage_request_volume: Some(outlier.calls),
    }
}

/// Returns outlier detection that ejects nothing.
fn disabled(outliers: ClusterOutliers) -> ClusterOutliers {
    ClusterOutliers { enforcing_failure_percentage: Some(0), ..outliers }
}

/// Returns the options with which Envoy speaks HTTP/2 to endpoints.
fn http2_options() -> (String, Any) {
    let http2 =
        ExplicitHttpConfig { protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions {})) };
    let options =
        HttpProtocolOptions { upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(http2)) };
    (HttpProtocolOptions::full_name(), pack(&options))
}
