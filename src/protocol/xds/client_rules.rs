//! Rules by which clients reject resources, and by which they drop parts of them, read from the sources of the libraries. All resources
//! that are made from policies are checked against them.

mod policies;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use proptest::{collection, prelude::*};

use super::{
    client_family::ClientFamily,
    cluster_name::{cluster_name, clusters_of},
    cluster_resource::cluster,
    resource::tests::{decode, unpack},
    route_resource::{SelectedRoutes, listener, route},
};
use crate::{
    model::{Incarnation, SubsetName},
    pb::envoy::{
        config::{
            cluster::v3::{
                Cluster, LoadBalancingPolicy,
                cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy},
            },
            core::v3::{ApiVersion, RoutingPriority, config_source::ConfigSourceSpecifier},
            listener::v3::Listener,
            route::v3::{
                HeaderMatcher, Route, RouteAction, RouteConfiguration,
                header_matcher::HeaderMatchSpecifier,
                route::Action,
                route_action::{ClusterSpecifier, hash_policy::PolicySpecifier},
                route_match::PathSpecifier,
            },
        },
        extensions::{
            filters::{
                http::router::v3::Router,
                network::http_connection_manager::v3::{
                    HttpConnectionManager, http_connection_manager::RouteSpecifier, http_filter::ConfigType,
                },
            },
            load_balancing_policies::{
                ring_hash::v3::{RingHash, ring_hash::HashFunction},
                wrr_locality::v3::WrrLocality,
            },
        },
        r#type::matcher::v3::string_matcher::MatchPattern,
    },
};
use policies::policies;

/// Client, and what it accepts.
#[derive(Debug, Clone, Copy)]
struct RejectingClient {
    agent_name: &'static str,
    agent_version: &'static str,
    /// Values of `lb_policy` that it accepts.
    lb_policies: &'static [LbPolicy],
    /// Policies that it knows in `load_balancing_policy`. A list without any of them is rejected. Empty: the field is ignored.
    extensions: &'static [&'static str],
    is_envoy: bool,
}

const ROUND_ROBIN: &[LbPolicy] = &[LbPolicy::RoundRobin];
const WITH_RING_HASH: &[LbPolicy] = &[LbPolicy::RoundRobin, LbPolicy::RingHash];
const OF_CORE: &[&str] = &["WrrLocality", "RoundRobin", "RingHash", "ClientSideWeightedRoundRobin"];
const OF_JAVA_AND_GO: &[&str] =
    &["WrrLocality", "RoundRobin", "RingHash", "ClientSideWeightedRoundRobin", "LeastRequest"];
const OF_NODE: &[&str] = &["WrrLocality", "RoundRobin", "RingHash"];

const CLIENTS: [RejectingClient; 15] = [
    client("gRPC C-core linux", "C-core 15.0.0", ROUND_ROBIN, &[]),
    client("gRPC C-core linux", "C-core 29.0.0", WITH_RING_HASH, &[]),
    client("gRPC C-core linux Python", "C-core 58.0.0 Python 1.85.1", WITH_RING_HASH, OF_CORE),
    client("gRPC C-core linux PHP", "C-core 33.0.0 PHP 1.56.0", WITH_RING_HASH, OF_CORE),
    client("gRPC Java", "1.40.0", ROUND_ROBIN, &[]),
    client("gRPC Java", "1.47.0", WITH_RING_HASH, &["WrrLocality", "RoundRobin", "RingHash"]),
    client("gRPC Java", "1.85.1", WITH_RING_HASH, OF_JAVA_AND_GO),
    client("gRPC Go", "1.40.0", ROUND_ROBIN, &[]),
    client("gRPC Go", "1.44.0", WITH_RING_HASH, &[]),
    client("gRPC Go", "1.60.0", WITH_RING_HASH, OF_CORE),
    client("gRPC Go", "1.85.0", WITH_RING_HASH, OF_JAVA_AND_GO),
    client("gRPC Node Pure JS", "1.9.0", ROUND_ROBIN, &[]),
    client("gRPC Node Pure JS", "1.14.1", WITH_RING_HASH, OF_NODE),
    client("gRPC Rust tonic-xds", "0.1.0-alpha.4", &[LbPolicy::RoundRobin, LbPolicy::LeastRequest], &[]),
    // Accepts nothing that any other client rejects.
    client("my client", "1.0", ROUND_ROBIN, &[]),
];

const ENVOY: RejectingClient = RejectingClient {
    is_envoy: true,
    ..client("envoy", "", &[LbPolicy::RoundRobin, LbPolicy::RingHash, LbPolicy::LeastRequest], &[])
};

const fn client(
    agent_name: &'static str,
    agent_version: &'static str,
    lb_policies: &'static [LbPolicy],
    extensions: &'static [&'static str],
) -> RejectingClient {
    RejectingClient { agent_name, agent_version, lb_policies, extensions, is_envoy: false }
}

impl RejectingClient {
    fn family(&self) -> ClientFamily {
        ClientFamily::new(self.agent_name, self.agent_version)
    }

    fn check_routes(&self, routes: &RouteConfiguration) {
        let [host] = &*routes.virtual_hosts else { panic!("{routes:?}") };
        assert_eq!(host.domains, ["*"]);
        assert!(!host.routes.is_empty());
        for route in &host.routes {
            let matched = route.r#match.as_ref().unwrap();
            assert_eq!(matched.case_sensitive, Some(true), "Java ignores case otherwise");
            match matched.path_specifier.as_ref().unwrap() {
                PathSpecifier::Prefix(prefix) if prefix.is_empty() => {}
                PathSpecifier::Prefix(prefix) => {
                    let parts: Vec<_> = prefix.split('/').collect();
                    assert!(matches!(*parts, ["", service, ""] if !service.is_empty()), "C-core drops {prefix}");
                }
                PathSpecifier::Path(path) => {
                    let parts: Vec<_> = path.split('/').collect();
                    let is_method = |part: &str| !part.is_empty();
                    assert!(
                        matches!(*parts, ["", service, method] if is_method(service) && is_method(method)),
                        "{path}"
                    );
                }
            }
            matched.headers.iter().for_each(|header| self.check_header(header));
            let Some(Action::Route(action)) = &route.action else { panic!("{route:?}") };
            self.check_action(action);
        }
    }

    fn check_header(&self, header: &HeaderMatcher) {
        assert!(!header.name.is_empty() && !header.name.starts_with(':') && !header.name.ends_with("-bin"));
        let regex = match header.header_match_specifier.as_ref().unwrap() {
            HeaderMatchSpecifier::PresentMatch(present) => {
                assert!(present, "use invert_match for absent headers");
                None
            }
            HeaderMatchSpecifier::ExactMatch(_) if !self.is_envoy => None,
            HeaderMatchSpecifier::SafeRegexMatch(regex) if !self.is_envoy => Some(&regex.regex),
            HeaderMatchSpecifier::StringMatch(string) if self.is_envoy => {
                match string.match_pattern.as_ref().unwrap() {
                    MatchPattern::Exact(_) => None,
                    MatchPattern::SafeRegex(regex) => Some(&regex.regex),
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("{} rejects or deprecates {other:?}", self.agent_name),
        };
        assert!(regex.is_none_or(|regex| regex::Regex::new(regex).is_ok()), "{regex:?}");
    }

    fn check_action(&self, action: &RouteAction) {
        assert_eq!(
            action.timeout,
            Some(prost_types::Duration::default()),
            "Envoy ends streams after 15 seconds otherwise"
        );
        match action.cluster_specifier.as_ref().unwrap() {
            ClusterSpecifier::Cluster(name) => assert!(!name.is_empty()),
            ClusterSpecifier::WeightedClusters(split) => {
                let weights: Vec<_> = split.clusters.iter().map(|cluster| cluster.weight.unwrap()).collect();
                assert!(weights.iter().all(|weight| *weight >= 1), "{split:?}");
                assert_eq!(weights.iter().sum::<u32>(), 100, "{split:?}");
                let names: BTreeSet<_> = split.clusters.iter().map(|cluster| &cluster.name).collect();
                assert_eq!(names.len(), split.clusters.len());
            }
        }
        if let Some(limit) = &action.max_stream_duration {
            assert!(positive(limit.max_stream_duration.as_ref().unwrap()) > Duration::ZERO);
        }
        if let Some(retry) = &action.retry_policy {
            assert!((1..=4).contains(&retry.num_retries.unwrap()));
            let known = ["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"];
            let is_known = |code| known.contains(&code) || self.is_envoy && code == "reset";
            assert!(retry.retry_on.split(',').all(is_known), "{}", retry.retry_on);
            let backoff = retry.retry_back_off.as_ref().unwrap();
            let (base, max) = (backoff.base_interval.as_ref().unwrap(), backoff.max_interval.as_ref().unwrap());
            assert!(positive(base) > Duration::ZERO && positive(max) >= positive(base));
        }
        for key in &action.hash_policy {
            match key.policy_specifier.as_ref().unwrap() {
                PolicySpecifier::Header(header) => assert!(!header.header_name.is_empty() && key.terminal),
                PolicySpecifier::FilterState(state) => assert_eq!(state.key, "io.grpc.channel_id"),
            }
        }
    }

    fn check_cluster(&self, cluster: &Cluster) {
        assert_eq!(cluster.cluster_discovery_type, Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())));
        let eds = cluster.eds_cluster_config.as_ref().unwrap();
        let source = eds.eds_config.as_ref().unwrap();
        assert!(matches!(source.config_source_specifier, Some(ConfigSourceSpecifier::Ads(_))), "Go 1.44 rejects self");
        assert_eq!((source.resource_api_version(), eds.service_name.as_str()), (ApiVersion::V3, ""));
        let [thresholds] = &*cluster.circuit_breakers.as_ref().unwrap().thresholds else { panic!("{cluster:?}") };
        assert_eq!(thresholds.priority(), RoutingPriority::Default);
        assert!(thresholds.max_requests.is_some(), "the default is 1,024");
        let lb_policy = LbPolicy::try_from(cluster.lb_policy).unwrap();
        assert!(self.lb_policies.contains(&lb_policy), "{} rejects {lb_policy:?}", self.agent_name);
        if let Some(list) = &cluster.load_balancing_policy
            && !self.extensions.is_empty()
        {
            assert!(self.takes(list), "{} {} knows none of {list:?}", self.agent_name, self.agent_version);
        }
        if let Some(server) = &cluster.lrs_server {
            assert!(matches!(server.config_source_specifier, Some(ConfigSourceSpecifier::Self_(_))));
        }
        if let Some(outlier) = &cluster.outlier_detection {
            let percentages = [
                outlier.max_ejection_percent,
                outlier.enforcing_success_rate,
                outlier.enforcing_failure_percentage,
                outlier.failure_percentage_threshold,
            ];
            assert!(percentages.into_iter().all(|percent| percent.is_some_and(|percent| percent <= 100)));
            assert!(positive(outlier.interval.as_ref().unwrap()) > Duration::ZERO);
            assert!(positive(outlier.base_ejection_time.as_ref().unwrap()) > Duration::ZERO);
        }
    }

    /// Returns whether the client takes a policy of a list: the first that it knows has to be valid.
    fn takes(&self, list: &LoadBalancingPolicy) -> bool {
        for policy in &list.policies {
            let config = policy.typed_extension_config.as_ref().unwrap().typed_config.as_ref().unwrap();
            let name = config.type_url.rsplit('.').next().unwrap();
            if !self.extensions.contains(&name) {
                continue;
            }
            return match name {
                "WrrLocality" => self.takes(&unpack::<WrrLocality>(config).endpoint_picking_policy.unwrap()),
                "RingHash" => unpack::<RingHash>(config).hash_function() == HashFunction::XxHash,
                _ => true,
            };
        }
        false
    }
}

/// Checks what all gRPC clients require of a listener, and returns its routes.
fn check_listener(listener: &Listener) -> RouteConfiguration {
    assert!(!listener.name.is_empty());
    let manager: HttpConnectionManager = unpack(listener.api_listener.as_ref().unwrap().api_listener.as_ref().unwrap());
    let [filter] = &*manager.http_filters else { panic!("{manager:?}") };
    let Some(ConfigType::TypedConfig(filter_config)) = &filter.config_type else { panic!("{filter:?}") };
    let _: Router = unpack(filter_config);
    let Some(RouteSpecifier::RouteConfig(routes)) = manager.route_specifier else { panic!("{manager:?}") };
    routes
}

/// Returns a duration, which has to be within the limits of the message.
fn positive(duration: &prost_types::Duration) -> Duration {
    assert!((0..=315_576_000_000).contains(&duration.seconds) && (0..1_000_000_000).contains(&duration.nanos));
    Duration::new(u64::try_from(duration.seconds).unwrap(), u32::try_from(duration.nanos).unwrap())
}

/// Returns the clusters that a route leads to.
fn clusters(route: &Route) -> Vec<String> {
    let Some(Action::Route(action)) = &route.action else { panic!("{route:?}") };
    match action.cluster_specifier.clone().unwrap() {
        ClusterSpecifier::Cluster(name) => vec![name],
        ClusterSpecifier::WeightedClusters(split) => split.clusters.into_iter().map(|cluster| cluster.name).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_client_rejects_the_resources_of_a_policy(policy in policies(), old in collection::btree_set("[a-z]{1,4}", 0..4)) {
        let mut listed = clusters_of("payments", &policy);
        listed.extend(old.iter().map(|name| cluster_name("payments", Some(&SubsetName::parse(name).unwrap()))));
        let selected = SelectedRoutes { policy: &policy, listed: &listed, incarnation: Incarnation(3) };
        for client in CLIENTS.iter().chain([&ENVOY]) {
            let family = client.family();
            let encoded = listener("payments", &selected, family);
            prop_assert_eq!(&encoded, &listener("payments", &selected, family));
            let routes = check_listener(&decode(&encoded));
            prop_assert_eq!(&routes, &decode::<RouteConfiguration>(&route("payments", &selected, family)));
            client.check_routes(&routes);
            let named: BTreeSet<Arc<str>> =
                routes.virtual_hosts[0].routes.iter().flat_map(clusters).map(Arc::from).collect();
            prop_assert!(listed.is_subset(&named), "{listed:?} {named:?}");
            for name in &named {
                let encoded = cluster(name, &policy, family).unwrap();
                prop_assert_eq!(&encoded, &cluster(name, &policy, family).unwrap());
                client.check_cluster(&decode(&encoded));
            }
        }
    }
}
