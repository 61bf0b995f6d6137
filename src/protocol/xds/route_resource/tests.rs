use std::time::Duration;

use super::*;
use crate::protocol::xds::{
    cluster_resource::cluster,
    resource::tests::{decode, unpack},
};

const INCARNATION: Incarnation = Incarnation(7);

fn family(agent_name: &str, agent_version: &str) -> ClientFamily {
    ClientFamily::new(agent_name, agent_version)
}

fn selected<'a>(policy: &'a EffectivePolicy, listed: &'a BTreeSet<Arc<str>>) -> SelectedRoutes<'a> {
    SelectedRoutes { policy, listed, incarnation: INCARNATION }
}

fn inline_routes(listener: &Listener) -> RouteConfiguration {
    let api = listener.api_listener.as_ref().unwrap().api_listener.as_ref().unwrap();
    let manager: HttpConnectionManager = unpack(api);
    let Some(ConfigType::TypedConfig(filter)) = &manager.http_filters[0].config_type else { panic!() };
    let _: Router = unpack(filter);
    let Some(RouteSpecifier::RouteConfig(routes)) = manager.route_specifier else { panic!() };
    routes
}

/// Returns the routes of `payments`.
fn routes(policy: &EffectivePolicy, listed: &[&str], family: ClientFamily) -> Vec<Route> {
    let listed = listed.iter().map(|name| Arc::from(*name)).collect();
    let selected = selected(policy, &listed);
    let listener: Listener = decode(&listener("payments", &selected, family));
    let inline = inline_routes(&listener);
    assert_eq!(inline, decode::<RouteConfiguration>(&route("payments", &selected, family)));
    let [host] = &*inline.virtual_hosts else { panic!("one virtual host") };
    assert_eq!((host.name.as_str(), &*host.domains), ("payments", &["*".to_owned()][..]));
    host.routes.clone()
}

fn action(route: &Route) -> &RouteAction {
    let Some(Action::Route(action)) = &route.action else { panic!("{route:?}") };
    action
}

fn route_to(path: Option<MethodMatch>, headers: Vec<(&str, HeaderMatch)>) -> PolicyRoute {
    let headers = headers.into_iter().map(|(name, matches)| HeaderCondition { name: name.into(), matches });
    PolicyRoute { headers: headers.collect(), method: path, split: None, timeout: None, retry: None, hash_header: None }
}

fn retry(attempts: u8) -> RetryPolicy {
    RetryPolicy {
        attempts,
        on: BTreeSet::from([RetryableCode::Unavailable, RetryableCode::Cancelled]),
        backoff: Duration::from_millis(25),
        max_backoff: Duration::from_millis(250),
    }
}

#[test]
fn bytes_without_a_policy_are_those_of_servers_without_policies() {
    let (policy, listed) = (EffectivePolicy::default(), BTreeSet::new());
    for family in [ClientFamily::UNKNOWN, family("gRPC Java", "1.85.1"), family("envoy", "")] {
        let selected = selected(&policy, &listed);
        let hashes = [listener("payments", &selected, family).hash, route("payments", &selected, family).hash];
        assert_eq!(hashes, [0x0a54_8e58_ff10_1756, 0x993b_bfae_0483_f39b]);
    }
}

#[test]
fn listener_has_the_requested_name_and_leads_to_the_cluster_of_the_service() {
    let (policy, listed) = (EffectivePolicy::default(), BTreeSet::new());
    for (name, leads_to) in [
        ("payments", "payments"),
        ("payments:50051", "payments"),
        ("a b", "a b"),
        ("payments:", "payments:"),
        ("payments:99999", "payments:99999"),
        ("xdstp://x/y", "xdstp://x/y"),
        (&*"x".repeat(254), &*"x".repeat(254)),
    ] {
        let listener: Listener = decode(&listener(name, &selected(&policy, &listed), ClientFamily::UNKNOWN));
        assert_eq!(listener.name, name);
        let [host] = &*inline_routes(&listener).virtual_hosts else { panic!("one virtual host") };
        let cluster_name = ClusterSpecifier::Cluster(leads_to.to_owned());
        assert_eq!(action(&host.routes[0]).cluster_specifier, Some(cluster_name));
        assert!(cluster(leads_to, &policy, ClientFamily::UNKNOWN).is_some());
    }
}

#[test]
fn name_that_is_empty_or_longer_than_any_service_has_no_routes() {
    let (policy, listed) = (EffectivePolicy::default(), BTreeSet::new());
    for name in ["", ":80", &"x".repeat(260)] {
        let selected = selected(&policy, &listed);
        let listener: Listener = decode(&listener(name, &selected, ClientFamily::UNKNOWN));
        assert_eq!(listener.name, name);
        assert!(inline_routes(&listener).virtual_hosts.is_empty(), "{name}");
        let routes: RouteConfiguration = decode(&route(name, &selected, ClientFamily::UNKNOWN));
        assert!(routes.virtual_hosts.is_empty());
    }
}

#[test]
fn time_limit_of_a_route_replaces_that_of_the_policy() {
    let mut unlimited = route_to(None, vec![("x-batch", HeaderMatch::Present)]);
    unlimited.timeout = Some(Duration::ZERO);
    let mut long = route_to(Some(MethodMatch::Exact("/a.B/C".into())), Vec::new());
    long.timeout = Some(Duration::from_millis(30_500));
    let policy = EffectivePolicy {
        timeout: Duration::from_secs(5),
        routes: vec![unlimited, long],
        ..EffectivePolicy::default()
    };
    let limits: Vec<_> = routes(&policy, &[], family("envoy", "")).iter().map(|route| action(route).clone()).collect();
    let limit = |seconds, nanos| {
        let duration = prost_types::Duration { seconds, nanos };
        Some(MaxStreamDuration { max_stream_duration: Some(duration) })
    };
    let expected = [None, limit(30, 500_000_000), limit(5, 0)];
    assert_eq!(limits.iter().map(|action| action.max_stream_duration).collect::<Vec<_>>(), expected);
    assert!(limits.iter().all(|action| action.timeout == Some(prost_types::Duration::default())));
    let core = routes(&policy, &[], family("gRPC C-core linux", "C-core 58.0.0"));
    let found: Vec<_> = core.iter().map(|route| action(route).max_stream_duration).collect();
    assert_eq!(found, [None, limit(32, 500_000_000), limit(7, 0)], "C-core ends calls up to 2 s too early");
}

#[test]
fn every_route_has_the_retries_that_hold_for_it() {
    let mut never = route_to(None, vec![("x-once", HeaderMatch::Present)]);
    never.retry = Some(retry(0));
    let other = route_to(None, vec![("x-other", HeaderMatch::Present)]);
    let policy = EffectivePolicy { retry: Some(retry(2)), routes: vec![never, other], ..EffectivePolicy::default() };
    let of_java = routes(&policy, &[], family("gRPC Java", "1.85.1"));
    let retries: Vec<_> = of_java.iter().map(|route| action(route).retry_policy.clone()).collect();
    let [None, Some(other), Some(default)] = &*retries else { panic!("{retries:?}") };
    assert_eq!(other, default);
    assert_eq!((other.retry_on.as_str(), other.num_retries), ("cancelled,unavailable", Some(2)));
    let backoff = other.retry_back_off.as_ref().unwrap();
    assert_eq!(backoff.base_interval.as_ref().unwrap().nanos, 25_000_000);
    assert_eq!(backoff.max_interval.as_ref().unwrap().nanos, 250_000_000);

    let of_envoy = routes(&policy, &[], family("envoy", ""));
    assert_eq!(action(&of_envoy[2]).retry_policy.as_ref().unwrap().retry_on, "cancelled,unavailable,reset");
}

#[test]
fn header_conditions_use_the_fields_that_the_family_reads() {
    let conditions = vec![
        ("a", HeaderMatch::Exact("1".into())),
        ("b", HeaderMatch::Present),
        ("c", HeaderMatch::Absent),
        ("d", HeaderMatch::Regex("x+".into())),
    ];
    let policy = EffectivePolicy { routes: vec![route_to(None, conditions)], ..EffectivePolicy::default() };
    let headers = |family| routes(&policy, &[], family)[0].r#match.clone().unwrap().headers;
    let fields = |headers: &[HeaderMatcher]| -> Vec<_> {
        headers.iter().map(|header| (header.header_match_specifier.clone().unwrap(), header.invert_match)).collect()
    };
    let regex = || RegexMatcher { regex: "x+".to_owned() };
    let string =
        |pattern| HeaderMatchSpecifier::StringMatch(StringMatcher { match_pattern: Some(pattern), ignore_case: false });
    let grpc = [
        (HeaderMatchSpecifier::ExactMatch("1".to_owned()), false),
        (HeaderMatchSpecifier::PresentMatch(true), false),
        (HeaderMatchSpecifier::PresentMatch(true), true),
        (HeaderMatchSpecifier::SafeRegexMatch(regex()), false),
    ];
    assert_eq!(fields(&headers(family("gRPC Go", "1.44.0"))), grpc);
    assert_eq!(fields(&headers(ClientFamily::UNKNOWN)), grpc);
    let envoy = [
        (string(MatchPattern::Exact("1".to_owned())), false),
        (HeaderMatchSpecifier::PresentMatch(true), false),
        (HeaderMatchSpecifier::PresentMatch(true), true),
        (string(MatchPattern::SafeRegex(regex())), false),
    ];
    assert_eq!(fields(&headers(family("envoy", ""))), envoy);
}

#[test]
fn key_of_ring_hash_is_the_header_and_otherwise_the_channel() {
    let mut keyed = route_to(Some(MethodMatch::Service("/a.B/".into())), Vec::new());
    keyed.hash_header = Some("x-user".into());
    let policy = EffectivePolicy { lb: LoadBalancing::RingHash, routes: vec![keyed], ..EffectivePolicy::default() };
    let keys = |family| -> Vec<Vec<_>> {
        let keys = |route: &Route| action(route).hash_policy.iter().map(|key| key.terminal).collect();
        routes(&policy, &[], family).iter().map(keys).collect()
    };
    assert_eq!(keys(family("gRPC Go", "1.85.0")), [vec![true, false], vec![false]]);
    assert_eq!(keys(family("envoy", "")), [vec![true], vec![]]);
    let none = [const { Vec::<bool>::new() }; 2];
    assert_eq!(keys(family("gRPC Node Pure JS", "1.9.0")), none);
    assert_eq!(keys(family("gRPC Rust tonic-xds", "0.1.0-alpha.4")), none);
}

#[test]
fn warm_route_is_last_and_lists_only_clusters_that_no_route_leads_to() {
    let policy = EffectivePolicy::default();
    let go = family("gRPC Go", "1.85.0");
    assert_eq!(routes(&policy, &["payments"], go).len(), 1);

    let [_, warm] = &*routes(&policy, &["payments", "payments|v2"], go) else { panic!("two routes") };
    let cluster = ClusterSpecifier::Cluster("payments|v2".to_owned());
    assert_eq!(action(warm).cluster_specifier, Some(cluster));
    let [header] = &*warm.r#match.as_ref().unwrap().headers else { panic!("one header") };
    assert_eq!(header.name, WARM_HEADER);
    let Some(HeaderMatchSpecifier::ExactMatch(token)) = &header.header_match_specifier else { panic!() };
    assert_eq!((token.len(), token), (32, &warm_token(INCARNATION)));
    assert_ne!(token, &warm_token(Incarnation(8)));

    let names: Vec<_> = (0..250).map(|number| format!("payments|{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    for count in [2, 3, 16, 99, 100, 101, 250] {
        let routes = routes(&policy, &names[..count], go);
        let mut listed = Vec::new();
        for warm in &routes[1..] {
            match action(warm).cluster_specifier.clone().unwrap() {
                ClusterSpecifier::Cluster(name) => listed.push(name),
                ClusterSpecifier::WeightedClusters(split) => {
                    let weights: Vec<_> = split.clusters.iter().map(|cluster| cluster.weight.unwrap()).collect();
                    assert_eq!(weights.iter().sum::<u32>(), 100);
                    assert!(weights.iter().all(|weight| *weight > 0));
                    listed.extend(split.clusters.into_iter().map(|cluster| cluster.name));
                }
            }
        }
        listed.sort();
        let mut expected = names[..count].to_vec();
        expected.sort_unstable();
        assert_eq!(listed, expected);
    }
}
