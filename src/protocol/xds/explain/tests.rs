use std::time::Duration;

use prost::Message;

use super::{super::assignment::ServiceAssignment, localities::called_localities, *};
use crate::{
    app::PAGE_BYTES,
    model::{
        Address, Conditions, EmptySubset, HeaderCondition, HeaderMatch, Instance, Locality, MethodMatch, PolicyRoute,
        RetryPolicy, Revision, Split,
    },
    registry::test_support::entry,
};

fn instance(id: &str, weight: u16, host: &str, port: u16) -> Instance {
    let mut instance = entry("web", id, weight).instance.clone();
    instance.addresses = [Address { host: host.into(), port, name: "".into() }].into();
    instance
}

/// Explains these instances in pages of this size.
fn pages(instances: &[Instance], size: usize) -> Vec<pb::ExplainResponse> {
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let mut answer = pb::ExplainResponse::default();
        let assignment = ServiceAssignment::without_policy(instances.iter());
        let localities = called_localities(&assignment, None, 1.0);
        add_page(&localities, &assignment.omitted, (after.as_ref(), size), &mut answer);
        after = PagePosition::parse(&answer.next_page_token);
        pages.push(answer);
        if after.is_none() {
            return pages;
        }
    }
}

fn ids(page: &pb::ExplainResponse) -> Vec<&str> {
    let endpoints = page.localities.iter().flat_map(|locality| &locality.endpoints);
    let endpoints = endpoints.map(|endpoint| &*endpoint.instance_id);
    endpoints.chain(page.omitted.iter().map(|omitted| &*omitted.instance_id)).collect()
}

#[test]
fn target_leads_to_a_listener() {
    for (target, listener) in [
        ("xds:///payments", "payments"),
        ("xds:payments:50051", "payments:50051"),
        ("payments", "payments"),
        ("xds://authority/payments", "//authority/payments"),
    ] {
        assert_eq!(listener_of_target(target), listener);
    }
    let reason = invalid_name("xds://eu/payments", "error");
    assert!(reason.contains("authority \"eu\"") && reason.ends_with("dial xds:///payments"), "{reason}");
    assert_eq!(invalid_name("xds:///a b", "error"), "error");
}

#[test]
fn localities_have_their_weights_and_percentages_of_calls() {
    let mut instances =
        vec![instance("a", 1, "10.0.0.1", 80), instance("b", 3, "10.0.0.2", 80), instance("c", 2, "10.0.0.3", 80)];
    instances[2].locality = Locality::parse("r", "z", "").unwrap();
    instances[2].conditions = Conditions { operator_draining: true, ..Conditions::default() };
    let [page] = &*pages(&instances, 10) else { panic!() };
    let found: Vec<_> = page
        .localities
        .iter()
        .map(|locality| (&*locality.region, &*locality.sub_zone, locality.weight, locality.percent.to_string()))
        .collect();
    let expected = [("", "", 1, "25"), ("", "~w3", 3, "75"), ("r", "~w2", 2, "0")];
    assert_eq!(
        found,
        expected.map(|(region, sub_zone, weight, percent)| (region, sub_zone, weight, percent.to_owned()))
    );
    let draining = &page.localities[2].endpoints[0];
    assert_eq!((&*draining.health_status, draining.status()), ("DRAINING", pb::InstanceStatus::Draining));
}

#[test]
fn left_out_instance_has_its_reason_and_a_remedy() {
    let mut instances = vec![
        instance("host", 1, "web.internal", 80),
        instance("port", 1, "10.0.0.1", 0),
        instance("old", 1, "10.0.0.2", 80),
        instance("new", 1, "10.0.0.2", 80),
        instance("starting", 1, "10.0.0.3", 80),
    ];
    instances[2].registered_revision = Revision(1);
    instances[3].registered_revision = Revision(2);
    instances[4].conditions.starting = true;
    let [page] = &*pages(&instances, 10) else { panic!() };
    let reasons: Vec<_> = page.omitted.iter().map(|omitted| (&*omitted.instance_id, omitted.reason())).collect();
    let expected = [
        ("host", pb::OmissionReason::HostName),
        ("old", pb::OmissionReason::SameAddress),
        ("port", pb::OmissionReason::NoPort),
        ("starting", pb::OmissionReason::Starting),
    ];
    assert_eq!(reasons, expected);
    assert!(page.omitted[0].problem.contains("web.internal"), "{page:?}");
    assert!(page.omitted[1].problem.contains("new") && page.omitted[1].hint.contains("web/old"), "{page:?}");
    assert!(page.omitted.iter().all(|omitted| !omitted.hint.is_empty()), "{page:?}");
}

#[test]
fn pages_have_every_instance_once_and_repeat_the_locality() {
    let mut instances: Vec<_> =
        (0..7).map(|n| instance(&format!("i{n}"), 1 + n % 2, &format!("10.0.0.{n}"), 80)).collect();
    instances[3].addresses[0].port = 0;
    let pages = pages(&instances, 3);
    let found: Vec<_> = pages.iter().map(ids).collect();
    assert_eq!(found, [vec!["i0", "i2", "i1"], vec!["i4", "i5", "i3"], vec!["i6"]]);
    for page in &pages {
        assert!(page.localities.iter().all(|locality| locality.weight == 4), "{page:?}");
    }
}

#[test]
fn page_ends_after_its_bytes() {
    let instances: Vec<_> = (0..2_000_u16)
        .map(|n| instance(&format!("i{n:04}"), 1, &format!("10.0.{}.{}", n / 250, n % 250), 80))
        .collect();
    let pages = pages(&instances, 1_000);
    // The lengths before the endpoints are not counted.
    assert!(pages.iter().all(|page| page.encoded_len() < PAGE_BYTES * 5 / 4));
    assert!(pages.len() > 2, "the size alone would allow two pages");
    assert_eq!(pages.iter().map(|page| ids(page).len()).sum::<usize>(), 2_000);
}

/// Cluster with this percentage of the calls, and a destination with these routable endpoints.
fn cluster(subset: &str, percent: u32, routable: u32) -> pb::ExplainedCluster {
    let destination = pb::ClusterDestination { routable, ..pb::ClusterDestination::default() };
    let destinations = vec![pb::ClusterDestination::default(), destination];
    pb::ExplainedCluster { subset: subset.to_owned(), percent, destinations, ..pb::ExplainedCluster::default() }
}

#[test]
fn outcome_depends_on_the_clusters_that_get_calls() {
    for (registered, clusters, expected, part) in [
        (0, vec![cluster("", 100, 0)], pb::XdsOutcome::NotRegistered, "register one"),
        (0, vec![cluster("", 100, 2)], pb::XdsOutcome::Routable, ""),
        (1, vec![cluster("", 100, 0)], pb::XdsOutcome::NothingRoutable, "left out"),
        (3, vec![cluster("v1", 100, 1), cluster("v2", 0, 0)], pb::XdsOutcome::Routable, ""),
        (
            3,
            vec![cluster("v1", 90, 1), cluster("v2", 10, 0)],
            pb::XdsOutcome::PartlyRoutable,
            "10% of the calls go to v2",
        ),
        (3, vec![cluster("v1", 0, 1), cluster("v2", 100, 0)], pb::XdsOutcome::NothingRoutable, "no instance of v2"),
    ] {
        let (found, reason) = outcome(registered, 0, &clusters);
        assert_eq!(found, expected, "{clusters:?}");
        assert!(reason.contains(part) && reason.is_empty() == part.is_empty(), "{reason}");
    }
    for (shed, clusters, expected, reason) in [
        (20, vec![cluster("", 100, 1)], pb::XdsOutcome::PartlyRoutable, "clients drop 20% of the calls, because"),
        (100, vec![cluster("", 100, 1)], pb::XdsOutcome::NothingRoutable, "clients drop 100% of the calls, because"),
        (20, vec![cluster("", 100, 0)], pb::XdsOutcome::NothingRoutable, "no registered instance can be called"),
        (
            20,
            vec![cluster("v1", 90, 1), cluster("v2", 10, 0)],
            pb::XdsOutcome::PartlyRoutable,
            "clients drop 20% of the calls, because the policy has shed = 20; 10% of the calls go to v2",
        ),
    ] {
        let (found, text) = outcome(1, shed, &clusters);
        assert_eq!(found, expected, "{clusters:?}");
        assert!(text.starts_with(reason), "{text}");
    }
}

/// Returns the explained routes for the call of a request.
fn routes(policy: &EffectivePolicy, request: &pb::ExplainRequest) -> Vec<pb::ExplainedRoute> {
    explained_routes("web", policy, &ExplainedCall::parse(request).unwrap())
}

fn split(shares: &[(&str, u8)]) -> Split {
    let shares = shares.iter().map(|(name, share)| (SubsetName::parse(name).unwrap(), *share));
    Split { shares: shares.collect(), empty: EmptySubset::default() }
}

/// Policy with a route of a method and two headers, and one of a header.
fn canary_policy() -> EffectivePolicy {
    let header = |name: &str, matches| HeaderCondition { name: name.into(), matches };
    let canary = PolicyRoute {
        headers: vec![header("x-canary", HeaderMatch::Exact("true".into())), header("x-test", HeaderMatch::Absent)],
        method: Some(MethodMatch::Service("/pay.v1.Payments/".into())),
        split: Some(split(&[("v2", 100)])),
        timeout: Some(Duration::from_secs(30)),
        retry: None,
        hash_header: None,
    };
    let other = PolicyRoute {
        headers: vec![header("x-canary", HeaderMatch::Regex("t.*".into()))],
        method: None,
        split: None,
        timeout: None,
        retry: Some(RetryPolicy::new(0)),
        hash_header: None,
    };
    EffectivePolicy {
        timeout: Duration::from_secs(5),
        retry: Some(RetryPolicy::new(2)),
        default_split: Some(split(&[("v1", 90), ("v2", 10)])),
        routes: vec![canary, other],
        ..EffectivePolicy::default()
    }
}

#[test]
fn first_route_whose_conditions_hold_is_taken() {
    let policy = canary_policy();
    let call = |headers: &[(&str, &str)], method: &str| pb::ExplainRequest {
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        method: method.to_owned(),
        ..pb::ExplainRequest::default()
    };
    let method = "/pay.v1.Payments/Charge";
    for (request, reasons) in [
        (call(&[("X-Canary", "true")], method), ["", "route[0] matches first", "route[0] matches first"]),
        (call(&[("x-canary", "true")], ""), ["the method of the call is not given", "", "route[1] matches first"]),
        (call(&[("x-canary", "true")], "/a/b"), ["the method is /a/b", "", "route[1] matches first"]),
        (
            call(&[("x-canary", "true"), ("x-test", "1")], method),
            ["the header x-test is \"1\"", "", "route[1] matches first"],
        ),
        (call(&[], method), ["the call has no header x-canary", "the call has no header x-canary", ""]),
    ] {
        let routes = routes(&policy, &request);
        let found: Vec<_> = routes.iter().map(|route| &*route.reason).collect();
        assert_eq!(found, reasons, "{request:?}");
        let taken: Vec<_> = routes.iter().map(|route| route.taken).collect();
        assert_eq!(taken, reasons.map(str::is_empty), "{request:?}");
    }
    let routes = routes(&policy, &call(&[], ""));
    let conditions = ["method begins with /pay.v1.Payments/", "header x-canary is \"true\"", "header x-test is absent"];
    assert_eq!(routes[0].conditions, conditions);
    assert_eq!(routes[1].conditions, ["header x-canary matches \"t.*\""]);
    let limits: Vec<_> = routes
        .iter()
        .map(|route| (route.timeout.unwrap().seconds, route.retries.as_ref().map(|retries| retries.attempts)))
        .collect();
    assert_eq!(limits, [(30, Some(2)), (5, None), (5, Some(2))]);
    let shares = |route: &pb::ExplainedRoute| -> Vec<_> {
        route.shares.iter().map(|share| format!("{} {}", share.cluster, share.percent)).collect()
    };
    assert_eq!(
        routes.iter().map(shares).collect::<Vec<_>>(),
        [vec!["web|v2 100"], vec!["web 100"], vec!["web|v1 90", "web|v2 10"]]
    );
}

#[test]
fn invalid_field_of_a_request_is_named() {
    for (request, field) in [
        (pb::ExplainRequest { agent: "swift".to_owned(), ..Default::default() }, "agent"),
        (pb::ExplainRequest { zone: "eu".to_owned(), ..Default::default() }, "zone"),
        (pb::ExplainRequest { zone: "/".to_owned(), ..Default::default() }, "zone"),
        (pb::ExplainRequest { zone: "eu/a/b".to_owned(), ..Default::default() }, "zone"),
        (pb::ExplainRequest { method: "Charge".to_owned(), ..Default::default() }, "method"),
        (pb::ExplainRequest { method: "/a/b/c".to_owned(), ..Default::default() }, "method"),
        (pb::ExplainRequest { subset: "V2".to_owned(), ..Default::default() }, "subset"),
    ] {
        assert_eq!(ExplainedCall::parse(&request).unwrap_err().field, field, "{request:?}");
    }
    let request = pb::ExplainRequest { subset: "v3".to_owned(), ..pb::ExplainRequest::default() };
    let call = ExplainedCall::parse(&request).unwrap();
    let error = asked_subset(&ServiceName::parse("web").unwrap(), &EffectivePolicy::default(), &call).unwrap_err();
    assert_eq!(error.to_string(), "subset \"v3\" is not a subset of web: its policy has none: leave it out");
}
