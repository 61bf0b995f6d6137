//! Explanations of services with policies: routes, subsets, zones, fallbacks, and clients that follow less.

use std::time::Duration;

use callboard::pb::callboard::v1::{
    Address, DestinationPart, ExplainRequest, ExplainResponse, ExplainedCluster, Locality, RegisterRequest, XdsOutcome,
    ZonePhase,
};
use serde_json::{Value, json};
use tokio::time::sleep;
use tonic::Code;
use tonic_types::StatusExt;

use super::{XdsClient, explain, run, target};
use crate::{
    harness::{InMemory, ServerProcess, TestClient, TestServer, instance, seconds, within},
    policy::set,
};

/// Instance with a tag in a zone of the region `r1`, with a lease that outlives the test.
fn tagged(service: &str, id: &str, host: &str, (tag, zone): (&str, &str)) -> RegisterRequest {
    let locality = Locality { region: "r1".to_owned(), zone: zone.to_owned(), sub_zone: String::new() };
    RegisterRequest {
        addresses: vec![Address { host: host.to_owned(), port: 80, name: String::new() }],
        tags: vec![tag.to_owned()],
        locality: Some(locality),
        ttl: seconds(600.0),
        ..instance(service, id)
    }
}

fn policy(empty: &str) -> Value {
    json!({
        "timeout": "5s",
        "lb": "least_request",
        "zone": "prefer",
        "subsets": {"v1": "\"v1\" in tags", "v2": "\"v2\" in tags"},
        "default": {"v1": 90, "v2": 10},
        "empty": empty,
        "fallback": ["payments-dr"],
        "route": [{"header": {"x-canary": "true"}, "method": "/pay.v1.Payments/*", "to": {"v2": 100}, "timeout": "30s"}],
    })
}

/// Registers four instances of v1 in two zones, one of v2 and one of a fallback, and sets a policy. Returns its revision.
async fn prepare(client: &TestClient) -> u64 {
    for request in [
        tagged("payments", "a1", "10.0.0.1", ("v1", "z1")),
        tagged("payments", "a2", "10.0.0.2", ("v1", "z1")),
        tagged("payments", "b1", "10.0.0.3", ("v1", "z2")),
        tagged("payments", "b2", "10.0.0.4", ("v1", "z2")),
        tagged("payments", "c1", "10.0.0.5", ("v2", "z2")),
        tagged("payments-dr", "a1", "10.0.1.1", ("v1", "z3")),
    ] {
        client.register(request).await.unwrap();
    }
    set(client, "", &json!({"retry": {"attempts": 2}, "timeout": "9s"})).await;
    set(client, "payments", &policy("spill")).await
}

/// Request of a Go client in the first zone.
fn request() -> ExplainRequest {
    ExplainRequest { agent: "go@1.85.0".to_owned(), zone: "r1/z1".to_owned(), ..target("xds:///payments") }
}

fn canary() -> ExplainRequest {
    ExplainRequest {
        headers: [("X-Canary".to_owned(), "true".to_owned())].into(),
        method: "/pay.v1.Payments/Charge".to_owned(),
        ..request()
    }
}

/// Part that takes calls, the number of its endpoints, and that of its routable ones.
type Destination = (DestinationPart, u32, u32);

/// Returns the clusters with their percentages, and the parts that take the calls with the numbers of their endpoints.
fn clusters(answer: &ExplainResponse) -> Vec<(&str, u32, Vec<Destination>)> {
    let destinations = |cluster: &ExplainedCluster| {
        let destinations = cluster.destinations.iter();
        destinations.map(|found| (found.part(), found.endpoints, found.routable)).collect()
    };
    answer.clusters.iter().map(|cluster| (&*cluster.name, cluster.percent, destinations(cluster))).collect()
}

/// Returns the localities: service, zone, priority, rounded percentage of the calls, number of endpoints.
fn localities(answer: &ExplainResponse) -> Vec<(&str, &str, u32, f64, usize)> {
    let localities = answer.localities.iter();
    let found = localities
        .map(|found| (&*found.service, &*found.zone, found.priority, found.percent.round(), found.endpoints.len()));
    found.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explanation_has_the_policy_the_clusters_and_the_zones_of_a_client() {
    let server = TestServer::open();
    let revision = prepare(&server.client().await).await;
    let answer = explain(&server, request()).await.unwrap();
    assert_eq!((answer.outcome(), answer.instances, answer.routable), (XdsOutcome::Routable, 5, 3));
    let policy = answer.policy.as_ref().unwrap();
    assert_eq!((policy.revision, &*policy.inherited), (revision, &["retry".to_owned()][..]));
    assert!(policy.own.iter().any(|field| field == "timeout") && !policy.own.iter().any(|field| field == "retry"));
    assert!(policy.effective.as_ref().unwrap().fields.contains_key("max_requests"));
    let client = answer.client.as_ref().unwrap();
    assert_eq!((&*client.agent, &*client.zone, &*client.limitations), ("gRPC Go 1.85.0", "r1/z1", &[][..]));

    let taken: Vec<_> = answer.routes.iter().map(|route| (&*route.field, route.taken, &*route.reason)).collect();
    assert_eq!(taken, [("route[0]", false, "the method of the call is not given"), ("default", true, "")]);
    let limits: Vec<_> = answer
        .routes
        .iter()
        .map(|route| (route.timeout.unwrap().seconds, route.retries.as_ref().unwrap().attempts))
        .collect();
    assert_eq!(limits, [(30, 2), (5, 2)]);
    let (subset, rest, fallback) = (DestinationPart::Subset, DestinationPart::Rest, DestinationPart::Fallback);
    let expected = [
        ("payments|v1", 90, vec![(subset, 4, 4), (rest, 1, 1), (fallback, 1, 1)]),
        ("payments|v2", 10, vec![(subset, 1, 1), (rest, 4, 4), (fallback, 1, 1)]),
    ];
    assert_eq!(clusters(&answer), expected);

    assert_eq!(answer.cluster, "payments|v1");
    let expected = [
        ("payments", "z1", 0, 100.0, 2),
        ("payments", "z2", 1, 0.0, 2),
        ("payments", "z2", 2, 0.0, 1),
        ("payments-dr", "z3", 3, 0.0, 1),
    ];
    assert_eq!(localities(&answer), expected);
    let zones = answer.zones.as_ref().unwrap();
    assert_eq!((zones.phase(), &*zones.reason), (ZonePhase::Local, ""));
    assert_eq!((zones.local_share, zones.capacity_per_demand, zones.overprovisioned), (Some(1.0), None, Some(1.4)));
    let shares: Vec<_> = zones.zones.iter().map(|zone| (&*zone.zone, zone.routable_weight, zone.percent)).collect();
    assert_eq!(shares, [("z1", 2, 100.0), ("z2", 2, 0.0)]);

    let resources: Vec<_> = answer.resources.iter().map(|resource| (&*resource.r#type, &*resource.name)).collect();
    let expected = [
        ("LDS", "payments"),
        ("RDS", "payments"),
        ("CDS", "payments|v1"),
        ("EDS", "payments|v1"),
        ("CDS", "payments|v2"),
        ("EDS", "payments|v2"),
    ];
    assert_eq!(resources, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_of_a_canary_takes_its_route_and_shows_its_cluster() {
    let server = TestServer::open();
    prepare(&server.client().await).await;
    let answer = explain(&server, canary()).await.unwrap();
    let taken: Vec<_> = answer.routes.iter().map(|route| (route.taken, &*route.reason)).collect();
    assert_eq!(taken, [(true, ""), (false, "route[0] matches first")]);
    assert_eq!((&*answer.cluster, answer.routable), ("payments|v2", 1));
    assert_eq!(answer.zones.as_ref().unwrap().reason, "fewer than two zones have instances");
    assert_eq!(localities(&answer)[0], ("payments", "z2", 0, 100.0, 1));

    let other = explain(&server, ExplainRequest { subset: "v1".to_owned(), ..canary() }).await.unwrap();
    assert_eq!((&*other.cluster, localities(&other)[0].4), ("payments|v1", 2));
    let flat = explain(&server, ExplainRequest { agent: "tonic@0.1.0-alpha.4".to_owned(), ..request() }).await.unwrap();
    assert_eq!(localities(&flat), [("payments", "z1", 0, 100.0, 2)], "the client knows no priorities");
    let fields: Vec<_> = flat.client.as_ref().unwrap().limitations.iter().map(|found| &*found.field).collect();
    assert!(fields.contains(&"zone") && fields.contains(&"timeout"), "{fields:?}");

    for (request, field) in [
        (ExplainRequest { subset: "v3".to_owned(), ..request() }, "subset"),
        (ExplainRequest { agent: "swift@1.0".to_owned(), ..request() }, "agent"),
        (ExplainRequest { zone: "z1".to_owned(), ..request() }, "zone"),
        (ExplainRequest { method: "Charge".to_owned(), ..request() }, "method"),
    ] {
        let status = explain(&server, request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations[0].field, field);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_to_an_empty_subset_spill_or_fail() {
    let server = TestServer::open();
    let client = server.client().await;
    prepare(&client).await;
    let strict = json!({"subsets": {"v1": "\"v1\" in tags", "v3": "\"v3\" in tags"}, "default": {"v1": 90, "v3": 10}});
    set(&client, "payments", &strict).await;
    let spills = explain(&server, request()).await.unwrap();
    let (subset, rest) = (DestinationPart::Subset, DestinationPart::Rest);
    assert_eq!(clusters(&spills)[1], ("payments|v3", 10, vec![(subset, 0, 0), (rest, 5, 5)]));
    assert_eq!((spills.outcome(), spills.routable), (XdsOutcome::Routable, 5));
    let mut strict = strict;
    strict["empty"] = "fail".into();
    set(&client, "payments", &strict).await;
    let fails = explain(&server, request()).await.unwrap();
    assert_eq!(clusters(&fails)[1], ("payments|v3", 10, vec![(subset, 0, 0)]));
    assert_eq!((fails.outcome(), fails.routable), (XdsOutcome::PartlyRoutable, 4));
    assert!(fails.reason.starts_with("10% of the calls go to v3"), "{}", fails.reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_has_the_present_version_of_what_it_gets_and_the_revision_of_its_policy() {
    let server = TestServer::open();
    let client = server.client().await;
    for request in [tagged("web", "a", "10.0.0.1", ("v1", "z1")), tagged("web", "b", "10.0.0.2", ("v1", "z1"))] {
        client.register(request).await.unwrap();
    }
    let revision = set(&client, "web", &json!({"timeout": "5s", "lb": "least_request"})).await;
    let agent = ("gRPC Go", "1.85.0");
    let (stream, first) = XdsClient::subscribe_with(&server.grpc().to_string(), "n1", agent, "web").await;
    for response in &first {
        stream.answer(response, "web", None).await;
    }
    // The explanation is for another library, whose resources differ.
    let asked = || ExplainRequest { agent: "java@1.40.0".to_owned(), ..target("web") };
    let answer = explain(&server, asked()).await.unwrap();
    let [found] = &*answer.streams else { panic!("{answer:?}") };
    assert_eq!((&*found.agent, found.policy_revision), ("gRPC Go 1.85.0", revision));
    let states: Vec<_> =
        found.subscriptions.iter().map(|found| (&*found.r#type, &*found.name, found.current)).collect();
    assert_eq!(states, [("LDS", "web", true), ("CDS", "web", true), ("EDS", "web", true)]);
    let cluster = answer.resources.iter().find(|resource| resource.r#type == "CDS").unwrap();
    assert_ne!(cluster.version, found.subscriptions[1].sent_version);
    drop(stream);
    within("the end of the stream", async { while explain(&server, asked()).await.unwrap().stream_count > 0 {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_calls_go_to_no_instance() {
    let server = TestServer::open();
    let client = server.client().await;
    prepare(&client).await;
    let mut policy = policy("spill");
    policy["shed"] = 20.into();
    set(&client, "payments", &policy).await;
    let answer = explain(&server, request()).await.unwrap();
    assert_eq!((answer.outcome(), answer.shed_percent, answer.routable), (XdsOutcome::PartlyRoutable, 20, 3));
    assert_eq!(answer.reason, "clients drop 20% of the calls, because the policy has shed = 20");
    assert_eq!(localities(&answer)[..2], [("payments", "z1", 0, 80.0, 2), ("payments", "z2", 1, 0.0, 2)]);
    let zones = &answer.zones.as_ref().unwrap().zones;
    let shares: Vec<_> = zones.iter().map(|zone| (&*zone.zone, zone.percent, zone.target_percent)).collect();
    assert_eq!(shares, [("z1", 80.0, 80.0), ("z2", 0.0, 0.0)]);
    let percentages: Vec<_> = answer.clusters.iter().map(|cluster| cluster.percent).collect();
    assert_eq!(percentages, [90, 10], "the split is one of all calls");

    let all = explain(&server, ExplainRequest { agent: "tonic@0.1.0-alpha.4".to_owned(), ..request() }).await.unwrap();
    assert_eq!((all.outcome(), all.shed_percent, localities(&all)[0].3), (XdsOutcome::Routable, 0, 100.0));
    let fields: Vec<_> = all.client.as_ref().unwrap().limitations.iter().map(|found| &*found.field).collect();
    assert!(fields.contains(&"shed"), "{fields:?}");

    policy["shed"] = 100.into();
    set(&client, "payments", &policy).await;
    let none = explain(&server, request()).await.unwrap();
    assert_eq!((none.outcome(), localities(&none)[0].3), (XdsOutcome::NothingRoutable, 0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ring_has_one_locality_and_other_clients_one_for_each_weight() {
    let server = TestServer::open();
    let client = server.client().await;
    for (id, host, weight) in [("a", "10.0.0.1", 1), ("b", "10.0.0.2", 1), ("c", "10.0.0.3", 6)] {
        let request = RegisterRequest { weight: Some(weight), ..tagged("web", id, host, ("v1", "z1")) };
        client.register(request).await.unwrap();
    }
    let route = json!({"method": "/a.B/*", "hash_header": "x-user"});
    set(&client, "web", &json!({"lb": "ring_hash", "route": [route]})).await;
    let asked =
        |agent: &str| ExplainRequest { agent: agent.to_owned(), method: "/a.B/C".to_owned(), ..target("xds:///web") };
    let localities = |answer: &ExplainResponse| -> Vec<_> {
        let found = answer.localities.iter();
        found.map(|found| (found.sub_zone.clone(), found.weight, found.percent, found.endpoints.len())).collect()
    };
    let ring = explain(&server, asked("go@1.85.0")).await.unwrap();
    assert_eq!((ring.outcome(), ring.routable), (XdsOutcome::Routable, 3));
    assert_eq!((ring.routes[0].taken, &*ring.routes[0].hash_header), (true, "x-user"));
    assert_eq!(localities(&ring), [(String::new(), 8, 100.0, 3)], "clients would multiply the weights of both");
    assert_eq!(ring.client.as_ref().unwrap().limitations, []);

    // This version would crash with a ring.
    let none = explain(&server, asked("python@1.51.0")).await.unwrap();
    assert_eq!(localities(&none), [(String::new(), 2, 25.0, 2), ("~w6".to_owned(), 6, 75.0, 1)]);
    let limitations: Vec<_> = none.client.as_ref().unwrap().limitations.iter().map(|found| &*found.field).collect();
    assert!(limitations.contains(&"lb"), "{limitations:?}");
}

#[tokio::test(start_paused = true)]
async fn young_instance_has_a_small_share_of_the_calls() {
    let server = InMemory::open();
    let client = server.client().await;
    client.register(tagged("web", "old", "10.0.0.1", ("v1", "z1"))).await.unwrap();
    set(&client, "web", &json!({"slow_start": "60s"})).await;
    sleep(Duration::from_secs(3)).await;
    client.register(tagged("web", "young", "10.0.0.2", ("v1", "z1"))).await.unwrap();
    let shares = async || -> Vec<_> {
        let answer = client.explain.clone().explain(target("xds:///web")).await.unwrap().into_inner();
        let found = answer.localities.iter();
        let mut shares: Vec<_> = found
            .map(|found| {
                (found.endpoints[0].instance_id.clone(), found.endpoints.len(), found.weight, found.percent.round())
            })
            .collect();
        shares.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        shares
    };
    let of = |weight, old, young| vec![("old".to_owned(), 1, 100, old), ("young".to_owned(), 1, weight, young)];
    assert_eq!(shares().await, of(10, 91.0, 9.0));
    for (seconds, expected) in [(32, of(50, 67.0, 33.0)), (30, of(100, 50.0, 50.0))] {
        sleep(Duration::from_secs(seconds)).await;
        assert_eq!(shares().await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn command_explains_a_call_under_a_policy() {
    let serve = ServerProcess::start(&["--settle", "0"]).await;
    prepare(&serve.client().await).await;
    let call = ["--as", "tonic@0.1.0", "--zone", "r1/z1", "--header", "x-canary=true"];
    let method = ["--method", "/pay.v1.Payments/Charge"];
    let explain = ["xds", "explain", "payments"];
    let explained = run(&serve, &[&explain[..], &call, &method].concat()).await;
    assert_eq!(explained.code(), Some(0), "{}", explained.stderr);
    for part in [
        "Client    tonic-xds 0.1.0 in zone r1/z1",
        "Route     route[0] to payments|v2",
        "Zones     all zones share the calls by capacity: fewer than two zones have instances",
        "limits calls by the caller's deadline only",
        "method begins with /pay.v1.Payments/ and header x-canary is \"true\"",
        "no: route[0] matches first",
        "subset v2 (1 of 1), then the rest of payments (4 of 4), then payments-dr (1 of 1), then none: calls fail",
        "the defaults",
    ] {
        assert!(explained.stdout.contains(part), "{part}: {}", explained.stdout);
    }
    let json = run(&serve, &[&explain[..], &["-o", "json", "--zone", "r1/z1", "--subset", "v1"]].concat()).await;
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["policy"]["effective"]["timeout"], "5s");
    assert_eq!(json["policy"]["inherited"], json!(["retry"]));
    assert_eq!(
        json["routes"][1]["shares"],
        json!([{"cluster": "payments|v1", "percent": 90}, {"cluster": "payments|v2", "percent": 10}])
    );
    assert_eq!((&json["routes"][0]["timeout"], &json["routes"][0]["retries"]["attempts"]), (&"30s".into(), &2.into()));
    assert_eq!(
        (&json["zones"]["phase"], &json["zones"]["zones"][0]["registered_weight"]),
        (&"LOCAL".into(), &2.into())
    );
    assert_eq!(
        (&json["cluster"], &json["clusters"][0]["destinations"][1]["part"]),
        (&"payments|v1".into(), &"REST".into())
    );
    let yaml = run(&serve, &[&explain[..], &["-o", "yaml"]].concat()).await.stdout;
    assert!(yaml.contains("filter: '\"v2\" in tags'"), "{yaml}");
    let unknown = run(&serve, &[&explain[..], &["--as", "swift@1.0"]].concat()).await;
    assert!(unknown.code() != Some(0) && unknown.stderr.contains("use one of cpp, go, java"), "{}", unknown.stderr);
}
