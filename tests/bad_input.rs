//! Invalid requests: the sender gets a clear error, other clients notice nothing, and nothing is left behind.

mod wire;

use bytes::Bytes;
use callboard::pb::callboard::v1::{
    Address, DeregisterRequest, GetInstanceRequest, Heartbeat, KeepAliveRequest, LeaseState, ListInstancesRequest,
    LoadReport, RegisterRequest, UpdateInstanceRequest, WatchRequest,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{HeartbeatStream, Reader, TestClient, TestServer, address, instance, seconds, within};

/// Well-behaved client on a connection of its own.
struct Bystander {
    peer: TestClient,
    reader: Reader,
    beats: HeartbeatStream,
    lease: Bytes,
    turn: u32,
}

impl Bystander {
    async fn arrive(house: &TestServer) -> Self {
        let peer = house.peer().await;
        let reader = Reader::synced(&peer, &["good"]).await;
        let lease = peer.register(instance("good", "a")).await.unwrap().lease_id;
        let beats = HeartbeatStream::open(&peer).await;
        Self { peer, reader, beats, lease, turn: 1 }
    }

    /// Its lease and its watch go on as if nothing had happened.
    async fn is_well(&mut self) {
        let (states, _) = self.beats.beat(&[&self.lease]).await.unwrap();
        assert_eq!(states, [LeaseState::Held]);
        self.turn += 1;
        let weight = self.turn;
        let request = RegisterRequest { weight: Some(weight), ..instance("good", "a") };
        let again = self.peer.register(request).await.unwrap();
        assert_eq!(again.lease_id, self.lease);
        self.reader.until("its change", |view| view.get("good", "a").is_some_and(|a| a.weight == weight)).await;
    }
}

/// Asserts `INVALID_ARGUMENT`, with the field in the details and a message that says what to do.
fn assert_refused(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let details = status.get_error_details();
    let violations = &details.bad_request().unwrap_or_else(|| panic!("{status} names no field")).field_violations;
    assert_eq!(violations.len(), 1, "{status}");
    assert_eq!(violations[0].field, field, "{status}");
    assert_eq!(details.error_info().unwrap().domain, "callboard.dev");
    let (problem, remedy) = status.message().rsplit_once(": ").unwrap_or_default();
    assert!(!problem.is_empty() && !remedy.is_empty(), "\"{}\" has no remedy", status.message());
    assert!(status.message().len() < 600, "an answer does not repeat a whole request");
}

fn bad_registrations() -> Vec<(&'static str, RegisterRequest)> {
    let good = || instance("web", "a");
    let port = |port| vec![address("10.0.0.1", port)];
    let many = |count: usize| (0..count).map(|n| format!("tag-{n}")).collect();
    let pairs = |count: usize| (0..count).map(|n| (format!("key-{n}"), "value".to_owned())).collect();
    let span = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    vec![
        ("service", RegisterRequest::default()),
        ("service", RegisterRequest { service: "we b".to_owned(), ..good() }),
        ("service", RegisterRequest { service: "x".repeat(254), ..good() }),
        ("service", RegisterRequest { service: "x".repeat(100_000), ..good() }),
        ("id", RegisterRequest { id: String::new(), ..good() }),
        ("id", RegisterRequest { id: "a\nb".to_owned(), ..good() }),
        ("boot_id", RegisterRequest { boot_id: String::new(), ..good() }),
        ("boot_id", RegisterRequest { boot_id: "b".repeat(65), ..good() }),
        ("addresses", RegisterRequest { addresses: vec![], ..good() }),
        ("addresses", RegisterRequest { addresses: vec![address("10.0.0.1", 80); 17], ..good() }),
        ("addresses[0].port", RegisterRequest { addresses: port(0), ..good() }),
        ("addresses[0].port", RegisterRequest { addresses: port(65_536), ..good() }),
        ("addresses[0].host", RegisterRequest { addresses: vec![address("", 80)], ..good() }),
        ("addresses[0].host", RegisterRequest { addresses: vec![address("no host", 80)], ..good() }),
        ("tags", RegisterRequest { tags: many(65), ..good() }),
        ("tags[0]", RegisterRequest { tags: vec![String::new()], ..good() }),
        ("metadata", RegisterRequest { metadata: pairs(65), ..good() }),
        ("metadata", RegisterRequest { metadata: [("k".to_owned(), "v".repeat(9_000))].into(), ..good() }),
        ("weight", RegisterRequest { weight: Some(0), ..good() }),
        ("weight", RegisterRequest { weight: Some(65_536), ..good() }),
        ("ttl", RegisterRequest { ttl: span(-1, 0), ..good() }),
        ("disconnect_grace", RegisterRequest { disconnect_grace: span(0, -5), ..good() }),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_registration_names_its_field() {
    let house = TestServer::open();
    let (peer, mut bystander) = (house.peer().await, Bystander::arrive(&house).await);
    for (field, request) in bad_registrations() {
        assert_refused(&peer.register(request).await.unwrap_err(), field);
    }
    assert!(peer.list("web").await.is_empty(), "nothing of it stays");
    bystander.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_calls_name_what_they_refuse() {
    let house = TestServer::open();
    let (peer, mut bystander) = (house.peer().await, Bystander::arrive(&house).await);
    let update = |lease: &'static [u8], weight, tags: Vec<String>| UpdateInstanceRequest {
        service: "good".to_owned(),
        id: "a".to_owned(),
        lease_id: Bytes::from_static(lease),
        weight,
        tags,
        ..UpdateInstanceRequest::default()
    };
    assert_refused(&peer.update(&[], update(b"", 1, vec![])).await.unwrap_err(), "update_mask");
    assert_refused(&peer.update(&["addresses"], update(b"", 1, vec![])).await.unwrap_err(), "update_mask");
    assert_refused(&peer.update(&["weight"], update(b"", 0, vec![])).await.unwrap_err(), "weight");
    assert_refused(&peer.update(&["tags"], update(b"", 1, vec![String::new()])).await.unwrap_err(), "tags[0]");
    assert_refused(&peer.update(&["weight"], update(b"short", 1, vec![])).await.unwrap_err(), "lease_id");
    assert_refused(&peer.deregister("good", "a", &Bytes::from_static(b"short")).await.unwrap_err(), "lease_id");
    let goodbye = DeregisterRequest {
        service: "good".to_owned(),
        boot_id: "b".repeat(99),
        id: "a".to_owned(),
        ..Default::default()
    };
    assert_refused(&peer.registry.clone().deregister(goodbye).await.unwrap_err(), "boot_id");
    let list = |service: &str, filter: &str| ListInstancesRequest {
        service: service.to_owned(),
        filter: filter.to_owned(),
        ..ListInstancesRequest::default()
    };
    assert_refused(&peer.discovery.clone().list_instances(list("", "")).await.unwrap_err(), "service");
    let filter = peer.discovery.clone().list_instances(list("good", "colour == red")).await.unwrap_err();
    assert_eq!(filter.get_details_bad_request().unwrap().field_violations[0].field, "filter");
    let get = GetInstanceRequest { service: "good".to_owned(), id: "no id".to_owned() };
    assert_refused(&peer.discovery.clone().get_instance(get).await.unwrap_err(), "id");
    bystander.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_there_is_named() {
    let house = TestServer::open();
    let peer = house.peer().await;
    let get = GetInstanceRequest { service: "web".to_owned(), id: "a".to_owned() };
    let update =
        UpdateInstanceRequest { service: "web".to_owned(), id: "a".to_owned(), weight: 3, ..Default::default() };
    for status in [
        peer.discovery.clone().get_instance(get).await.unwrap_err(),
        peer.update(&["weight"], update.clone()).await.unwrap_err(),
        peer.deregister("web", "a", &Bytes::new()).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::NotFound, "{status}");
        assert_eq!(status.get_details_resource_info().unwrap().resource_name, "web/a");
    }
    peer.register(instance("web", "a")).await.unwrap();
    let stranger = Bytes::from_static(&[7; 16]);
    let lost =
        peer.update(&["weight"], UpdateInstanceRequest { lease_id: stranger.clone(), ..update }).await.unwrap_err();
    assert_eq!(lost.code(), Code::Aborted, "{lost}");
    assert_eq!(peer.deregister("web", "a", &stranger).await.unwrap(), None, "not its registration");
    assert!(peer.get("web", "a").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_live_boots_with_one_id() {
    let house = TestServer::open();
    let (peer, mut bystander) = (house.peer().await, Bystander::arrive(&house).await);
    let intruder = RegisterRequest { boot_id: "intruder".to_owned(), ..instance("good", "a") };
    let status = peer.register(intruder).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    assert!(status.message().contains("replace"), "{status}");
    bystander.is_well().await;
}

/// The first message that comes, or the status that comes instead.
async fn watch(peer: &TestClient, request: WatchRequest) -> Result<(), Status> {
    let mut stream = within("Watch", peer.discovery.clone().watch(request)).await?.into_inner();
    within("a message", stream.message()).await.map(|message| assert!(message.is_some()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_watch_names_its_field() {
    let house = TestServer::open();
    let (peer, mut bystander) = (house.peer().await, Bystander::arrive(&house).await);
    let names = |names: &[&str]| WatchRequest {
        services: names.iter().map(ToString::to_string).collect(),
        ..WatchRequest::default()
    };
    let cases = [
        ("services", WatchRequest::default()),
        ("services", WatchRequest { everything: true, ..names(&["web"]) }),
        ("services", WatchRequest { prefix: "w".to_owned(), everything: true, ..WatchRequest::default() }),
        ("services[1]", names(&["web", "-bad"])),
        ("prefix", WatchRequest { prefix: "-w".to_owned(), ..WatchRequest::default() }),
        ("filter", WatchRequest { filter: "weight".to_owned(), ..names(&["web"]) }),
        ("filter", WatchRequest { filter: "(".repeat(5_000), ..names(&["web"]) }),
        ("resume_token", WatchRequest { resume_token: Bytes::from_static(b"wrong"), ..names(&["web"]) }),
        ("resume_token", WatchRequest { resume_token: vec![0xff; 25].into(), ..names(&["web"]) }),
    ];
    for (field, request) in cases {
        let status = watch(&peer, request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, field, "{status}");
    }
    bystander.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_on_ten_thousand_names_and_no_more() {
    let house = TestServer::open();
    let (peer, mut bystander) = (house.peer().await, Bystander::arrive(&house).await);
    let names = |count: usize| (0..count).map(|n| format!("service-{n}")).collect::<Vec<_>>();
    let status = watch(&peer, WatchRequest { services: names(10_001), ..WatchRequest::default() }).await.unwrap_err();
    assert_refused(&status, "services");
    let all = names(10_000);
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    let mut reader = Reader::synced(&peer, &all).await;
    peer.register(instance("service-9999", "a")).await.unwrap();
    reader.until("the last of them", |view| view.get("service-9999", "a").is_some()).await;
    bystander.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_never_were_are_unknown() {
    let house = TestServer::open();
    let (peer, mut bystander) = (house.peer().await, Bystander::arrive(&house).await);
    let lease = peer.register(instance("web", "a")).await.unwrap().lease_id;
    let mut beats = HeartbeatStream::open(&peer).await;
    let garbage = [Bytes::new(), Bytes::from_static(b"x"), vec![9; 16].into(), vec![1; 4_000].into(), lease];
    let (states, _) = beats.beat(&garbage.iter().collect::<Vec<_>>()).await.unwrap();
    let unknown = LeaseState::Unknown;
    assert_eq!(states, [unknown, unknown, unknown, unknown, LeaseState::Held], "the good one among them counts");
    bystander.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_is_no_number_is_refused_and_the_lease_is_renewed() {
    let house = TestServer::open();
    let (peer, mut bystander) = (house.peer().await, Bystander::arrive(&house).await);
    for utilization in [f64::NAN, f64::INFINITY, -0.5] {
        let lease_id = peer.register(instance("web", "a")).await.unwrap().lease_id;
        let load = LoadReport { utilization, ..LoadReport::default() };
        let good = Heartbeat { lease_id: lease_id.clone(), load: None };
        let heartbeats = vec![good, Heartbeat { lease_id, load: Some(load) }];
        let mut beats = HeartbeatStream::open(&peer).await;
        let answer = beats.ask(KeepAliveRequest { heartbeats }).await.unwrap();
        assert!(answer.leases.iter().all(|report| report.state() == LeaseState::Held));
        let status = within("the status", beats.answers.message()).await.unwrap_err();
        assert_refused(&status, "heartbeats[1].load.utilization");
    }
    bystander.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_a_message_may_hold() {
    let house = TestServer::open();
    let (peer, mut bystander) = (house.peer().await, Bystander::arrive(&house).await);
    let large = RegisterRequest { tags: vec!["x".repeat(300 * 1024)], ..instance("web", "a") };
    let status = peer.register(large).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
    assert!(status.message().contains("262144"), "it says what the limit is: {status}");
    let mut beats = HeartbeatStream::open(&peer).await;
    let heartbeats = vec![Heartbeat::default(); 10_001];
    assert_refused(&beats.ask(KeepAliveRequest { heartbeats }).await.unwrap_err(), "heartbeats");
    peer.register(instance("web", "a")).await.unwrap();
    bystander.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_grows_by_what_is_refused() {
    let house = TestServer::open();
    let (peer, mut bystander) = (house.peer().await, Bystander::arrive(&house).await);
    for round in 0..200 {
        let bad = Address { port: 0, ..address("10.0.0.1", 80) };
        let request = RegisterRequest { addresses: vec![bad], ..instance(&format!("web-{round}"), "a") };
        peer.register(request).await.unwrap_err();
        let request = WatchRequest { services: vec!["-".to_owned()], ..WatchRequest::default() };
        watch(&peer, request).await.unwrap_err();
        let short = RegisterRequest { ttl: seconds(0.0), ..instance("short", "a") };
        let lease = peer.register(short).await.unwrap().lease_id;
        peer.deregister("short", "a", &lease).await.unwrap();
    }
    let (_, page) = crate::harness::get(house.http(), "/metrics").await;
    for (gauge, number) in [("services", 1), ("instances", 1), ("leases", 1), ("watches", 1)] {
        let line = format!("callboard_{gauge} {number}");
        assert!(page.lines().any(|shown| shown == line), "{line} is not in {page}");
    }
    bystander.is_well().await;
}
