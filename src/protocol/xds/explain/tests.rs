use super::*;
use crate::{
    model::{Address, Conditions, Locality, Revision},
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
        explain_assignment(&ServiceAssignment::without_policy(instances.iter()), (after.as_ref(), size), &mut answer);
        after = InstanceId::parse(&answer.next_page_token).ok();
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
    assert_eq!((page.instances, page.routable, page.outcome()), (3, 2, pb::XdsOutcome::Routable));
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
    assert_eq!((page.instances, page.routable), (5, 1));
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
        assert_eq!((page.instances, page.routable), (7, 6), "the numbers are those of all instances");
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

#[test]
fn outcome_depends_on_the_routable_instances() {
    assert_eq!(pages(&[], 1)[0].outcome(), pb::XdsOutcome::NotRegistered);
    let unusable = pages(&[instance("a", 1, "web.internal", 80)], 1);
    assert_eq!(unusable[0].outcome(), pb::XdsOutcome::NothingRoutable);
    assert!(unusable[0].reason.contains("left out"), "{unusable:?}");
}
