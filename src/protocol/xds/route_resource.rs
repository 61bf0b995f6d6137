//! Listeners and routes: the way of a call from a name to a cluster.
//!
//! A service has one virtual host. Its routes are those of the policy in their order, then the default, then the *warm* route, which no
//! call takes. The warm route names the clusters that the client is to subscribe to and no other route leads to, so that it has their
//! endpoints and connections before the first call goes there. This is required for correctness: grpc-go fails calls that select a
//! cluster in the same update that first names it, or that names it no longer.

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt::Write as _, hash::Hasher, sync::Arc, time::Duration};

use siphasher::sip::SipHasher13;

use super::{
    client_family::{ClientFamily, ClientFeature, ClientLibrary},
    cluster_name::clusters_of_split,
    resource::{EncodedResource, cluster_of, pack},
};
use crate::{
    model::{
        EffectivePolicy, HeaderCondition, HeaderMatch, Incarnation, LoadBalancing, MethodMatch, PolicyRoute,
        RetryPolicy, RetryableCode, Split,
    },
    pb::envoy::{
        config::{
            listener::v3::{ApiListener, Listener},
            route::v3::{
                HeaderMatcher, RetryPolicy as RouteRetries, Route, RouteAction, RouteConfiguration, RouteMatch,
                VirtualHost, WeightedCluster,
                header_matcher::HeaderMatchSpecifier,
                retry_policy::RetryBackOff,
                route::Action,
                route_action::{
                    ClusterSpecifier, HashPolicy, MaxStreamDuration,
                    hash_policy::{FilterState, Header, PolicySpecifier},
                },
                route_match::PathSpecifier,
                weighted_cluster::ClusterWeight,
            },
        },
        extensions::filters::{
            http::router::v3::Router,
            network::http_connection_manager::v3::{
                HttpConnectionManager, HttpFilter, http_connection_manager::RouteSpecifier, http_filter::ConfigType,
            },
        },
        r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
    },
};

/// Maximum time by which C-core ends calls too early: 1 to 2 s (<https://github.com/grpc/grpc/issues/34547>).
const CORE_TIMER_ERROR: Duration = Duration::from_secs(2);
/// Header that the warm route matches.
const WARM_HEADER: &str = "x-callboard-warm";
/// Key by which gRPC hashes the channel of a call.
const CHANNEL_ID: &str = "io.grpc.channel_id";
/// Sum of the weights of a split. grpc-js before 1.14.1 crashes on another sum.
const SPLIT_SUM: usize = 100;

/// Routes of a client.
#[derive(Debug)]
pub(super) struct SelectedRoutes<'a> {
    /// Policy whose routes the client follows.
    pub(super) policy: &'a EffectivePolicy,
    /// Names of the clusters that the client subscribes to, even if no route of the policy leads there.
    pub(super) listed: &'a BTreeSet<Arc<str>>,
    /// Incarnation of the registry, from which the value of the warm header is made.
    pub(super) incarnation: Incarnation,
}

/// Returns the listener with this name, with its routes inline.
pub(super) fn listener(name: &str, selected: &SelectedRoutes<'_>, family: ClientFamily) -> EncodedResource {
    let manager = HttpConnectionManager {
        stat_prefix: "callboard".to_owned(),
        route_specifier: Some(RouteSpecifier::RouteConfig(routes_of(name, selected, family))),
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
pub(super) fn route(name: &str, selected: &SelectedRoutes<'_>, family: ClientFamily) -> EncodedResource {
    EncodedResource::of(&routes_of(name, selected, family))
}

fn routes_of(name: &str, selected: &SelectedRoutes<'_>, family: ClientFamily) -> RouteConfiguration {
    let host = cluster_of(name).map(|service| RouteBuilder { service, policy: selected.policy, family }.host(selected));
    RouteConfiguration { name: name.to_owned(), virtual_hosts: host.into_iter().collect() }
}

/// Makes the routes of a service for a family of clients.
struct RouteBuilder<'a> {
    service: &'a str,
    policy: &'a EffectivePolicy,
    family: ClientFamily,
}

impl RouteBuilder<'_> {
    fn host(&self, selected: &SelectedRoutes<'_>) -> VirtualHost {
        let mut routes: Vec<_> = self.policy.routes.iter().map(|route| self.policy_route(route)).collect();
        routes.push(self.default_route());
        routes.extend(self.warm_routes(selected));
        VirtualHost { name: self.service.to_owned(), domains: vec!["*".to_owned()], routes }
    }

    fn policy_route(&self, route: &PolicyRoute) -> Route {
        let path = match &route.method {
            None => PathSpecifier::Prefix(String::new()),
            Some(MethodMatch::Exact(path)) => PathSpecifier::Path(path.to_string()),
            Some(MethodMatch::Service(prefix)) => PathSpecifier::Prefix(prefix.to_string()),
        };
        let headers = route.headers.iter().map(|condition| self.header_matcher(condition)).collect();
        let timeout = route.timeout.unwrap_or(self.policy.timeout);
        let mut action = self.limited_action(self.destination(route.split.as_ref()), timeout);
        action.retry_policy = self.retries(route.retry.as_ref().or(self.policy.retry.as_ref()));
        action.hash_policy = self.hash_policies(route.hash_header.as_deref());
        matched(path, headers, action)
    }

    fn default_route(&self) -> Route {
        let destination = self.destination(self.policy.default_split.as_ref());
        let mut action = self.limited_action(destination, self.policy.timeout);
        action.retry_policy = self.retries(self.policy.retry.as_ref());
        action.hash_policy = self.hash_policies(None);
        matched(PathSpecifier::Prefix(String::new()), Vec::new(), action)
    }

    /// Returns the routes for the listed clusters that no other route leads to. Each has at most 100, with a weight of at least 1.
    fn warm_routes(&self, selected: &SelectedRoutes<'_>) -> Vec<Route> {
        let reached = self.policy.splits().flat_map(|split| clusters_of_split(self.service, self.policy, split));
        let reached: BTreeSet<_> = reached.map(|(name, _)| name).collect();
        let others: Vec<_> = selected.listed.difference(&reached).collect();
        let token = warm_token(selected.incarnation);
        let routes = others.chunks(SPLIT_SUM).map(|clusters| {
            let (each, rest) = (SPLIT_SUM / clusters.len(), SPLIT_SUM % clusters.len());
            let weight = |at: usize| u32::try_from(if at == 0 { each + rest } else { each }).unwrap_or(1);
            let weighted = clusters.iter().enumerate().map(|(at, name)| (Arc::clone(name), weight(at)));
            let never =
                HeaderCondition { name: WARM_HEADER.into(), matches: HeaderMatch::Exact(token.as_str().into()) };
            let action = limited_action(specifier(weighted.collect()), Duration::ZERO);
            matched(PathSpecifier::Prefix(String::new()), vec![self.header_matcher(&never)], action)
        });
        routes.collect()
    }

    fn destination(&self, split: Option<&Split>) -> ClusterSpecifier {
        specifier(clusters_of_split(self.service, self.policy, split))
    }

    /// Returns an action with a time limit. Zero leaves only the caller's deadline.
    fn limited_action(&self, cluster_specifier: ClusterSpecifier, limit: Duration) -> RouteAction {
        let is_early = match self.family.library() {
            ClientLibrary::Core | ClientLibrary::Php => !limit.is_zero(),
            ClientLibrary::Java
            | ClientLibrary::Go
            | ClientLibrary::Node
            | ClientLibrary::Tonic
            | ClientLibrary::Envoy
            | ClientLibrary::Unknown => false,
        };
        limited_action(cluster_specifier, if is_early { limit + CORE_TIMER_ERROR } else { limit })
    }

    /// Returns the retries of a route. grpc-java ignores those of the virtual host.
    fn retries(&self, policy: Option<&RetryPolicy>) -> Option<RouteRetries> {
        let policy = policy.filter(|policy| policy.attempts > 0)?;
        let on = policy.on.iter().map(|code| match (code, self.family.library()) {
            // Envoy does not take a broken connection as a response with the code.
            (RetryableCode::Unavailable, ClientLibrary::Envoy) => "unavailable,reset",
            (code, _) => code.as_str(),
        });
        Some(RouteRetries {
            // C-core and grpc-js do not skip spaces.
            retry_on: on.collect::<Vec<_>>().join(","),
            num_retries: Some(policy.attempts.into()),
            retry_back_off: Some(RetryBackOff {
                base_interval: Some(duration(policy.backoff)),
                max_interval: Some(duration(policy.max_backoff)),
            }),
        })
    }

    /// Returns the keys of a call for ring hash: the header, or the channel if the call does not have it.
    fn hash_policies(&self, header: Option<&str>) -> Vec<HashPolicy> {
        if self.policy.lb != LoadBalancing::RingHash || !self.family.has(ClientFeature::RingHash) {
            return Vec::new();
        }
        let header = header.map(|name| HashPolicy {
            policy_specifier: Some(PolicySpecifier::Header(Header { header_name: name.to_owned() })),
            // Otherwise the hash of the channel is added, and each channel takes another endpoint for the same key.
            terminal: true,
        });
        let channel = (self.family.library() != ClientLibrary::Envoy).then(|| HashPolicy {
            policy_specifier: Some(PolicySpecifier::FilterState(FilterState { key: CHANNEL_ID.to_owned() })),
            terminal: false,
        });
        header.into_iter().chain(channel).collect()
    }

    /// Returns a condition on a header. gRPC reads the fields that Envoy calls deprecated in all versions, and rejected others at first.
    fn header_matcher(&self, condition: &HeaderCondition) -> HeaderMatcher {
        let is_envoy = self.family.library() == ClientLibrary::Envoy;
        let string = |pattern| {
            HeaderMatchSpecifier::StringMatch(StringMatcher {
                match_pattern: Some(pattern),
                ..StringMatcher::default()
            })
        };
        let specifier = match &condition.matches {
            HeaderMatch::Exact(value) if is_envoy => string(MatchPattern::Exact(value.to_string())),
            HeaderMatch::Exact(value) => HeaderMatchSpecifier::ExactMatch(value.to_string()),
            HeaderMatch::Regex(regex) if is_envoy => {
                string(MatchPattern::SafeRegex(RegexMatcher { regex: regex.to_string() }))
            }
            HeaderMatch::Regex(regex) => {
                HeaderMatchSpecifier::SafeRegexMatch(RegexMatcher { regex: regex.to_string() })
            }
            HeaderMatch::Present | HeaderMatch::Absent => HeaderMatchSpecifier::PresentMatch(true),
        };
        HeaderMatcher {
            name: condition.name.to_string(),
            header_match_specifier: Some(specifier),
            invert_match: condition.matches == HeaderMatch::Absent,
        }
    }
}

/// Returns an action with a time limit. Zero leaves only the caller's deadline. gRPC ignores `timeout`, whose default in Envoy is 15 seconds
/// and also ends streams.
fn limited_action(cluster_specifier: ClusterSpecifier, limit: Duration) -> RouteAction {
    let max_stream_duration =
        (!limit.is_zero()).then(|| MaxStreamDuration { max_stream_duration: Some(duration(limit)) });
    RouteAction {
        cluster_specifier: Some(cluster_specifier),
        timeout: Some(prost_types::Duration::default()),
        max_stream_duration,
        ..RouteAction::default()
    }
}

/// Returns a route. grpc-java takes a match without `case_sensitive` as one that ignores case.
fn matched(path: PathSpecifier, headers: Vec<HeaderMatcher>, action: RouteAction) -> Route {
    Route {
        r#match: Some(RouteMatch { path_specifier: Some(path), case_sensitive: Some(true), headers }),
        action: Some(Action::Route(action)),
    }
}

/// Returns the destination that the clusters are, with their percentages.
fn specifier(mut clusters: Vec<(Arc<str>, u32)>) -> ClusterSpecifier {
    if let [(name, _)] = &mut *clusters {
        return ClusterSpecifier::Cluster(name.to_string());
    }
    let clusters = clusters.into_iter();
    let clusters = clusters.map(|(name, weight)| ClusterWeight { name: name.to_string(), weight: Some(weight) });
    ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: clusters.collect() })
}

/// Returns the value of the warm header: callers cannot guess it, and it is the same as long as the incarnation is.
fn warm_token(Incarnation(incarnation): Incarnation) -> String {
    let mut token = String::with_capacity(32);
    for half in 0..2 {
        let mut hasher = SipHasher13::new_with_keys(incarnation, half);
        hasher.write(WARM_HEADER.as_bytes());
        let _ = write!(token, "{:016x}", hasher.finish());
    }
    token
}

/// Converts a duration.
pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}
