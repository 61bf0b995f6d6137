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
    client: TestClient,
    reader: Reader,
    heartbeat_stream: HeartbeatStream,
    lease: Bytes,
    weight: u32,
}

impl Bystander {
    async fn connect(server: &TestServer) -> Self {
        let client = server.client().await;
        let reader = Reader::synced(&client, &["good"]).await;
        let lease = client.register(instance("good", "a")).await.unwrap().lease_id;
        let heartbeat_stream = HeartbeatStream::open(&client).await;
        Self { client, reader, heartbeat_stream, lease, weight: 1 }
    }

    /// Asserts that the lease and the watch continue.
    async fn assert_unaffected(&mut self) {
        let (states, _) = self.heartbeat_stream.beat(&[&self.lease]).await.unwrap();
        assert_eq!(states, [LeaseState::Held]);
        self.weight += 1;
        let weight = self.weight;
        let request = RegisterRequest { weight: Some(weight), ..instance("good", "a") };
        let again = self.client.register(request).await.unwrap();
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
    let (reason, remedy) = status.message().rsplit_once(": ").unwrap_or_default();
    assert!(!reason.is_empty() && !remedy.is_empty(), "\"{}\" has no remedy", status.message());
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
async fn invalid_registration_is_rejected_with_its_field() {
    let server = TestServer::open();
    let (client, mut bystander) = (server.client().await, Bystander::connect(&server).await);
    for (field, request) in bad_registrations() {
        assert_refused(&client.register(request).await.unwrap_err(), field);
    }
    assert!(client.list("web").await.is_empty(), "no instance is registered");
    bystander.assert_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_call_is_rejected_with_its_field() {
    let server = TestServer::open();
    let (client, mut bystander) = (server.client().await, Bystander::connect(&server).await);
    let update = |lease: &'static [u8], weight, tags: Vec<String>| UpdateInstanceRequest {
        service: "good".to_owned(),
        id: "a".to_owned(),
        lease_id: Bytes::from_static(lease),
        weight,
        tags,
        ..UpdateInstanceRequest::default()
    };
    assert_refused(&client.update(&[], update(b"", 1, vec![])).await.unwrap_err(), "update_mask");
    assert_refused(&client.update(&["addresses"], update(b"", 1, vec![])).await.unwrap_err(), "update_mask");
    assert_refused(&client.update(&["weight"], update(b"", 0, vec![])).await.unwrap_err(), "weight");
    assert_refused(&client.update(&["tags"], update(b"", 1, vec![String::new()])).await.unwrap_err(), "tags[0]");
    assert_refused(&client.update(&["weight"], update(b"short", 1, vec![])).await.unwrap_err(), "lease_id");
    assert_refused(&client.deregister("good", "a", &Bytes::from_static(b"short")).await.unwrap_err(), "lease_id");
    let deregister = DeregisterRequest {
        service: "good".to_owned(),
        boot_id: "b".repeat(99),
        id: "a".to_owned(),
        ..Default::default()
    };
    assert_refused(&client.registry.clone().deregister(deregister).await.unwrap_err(), "boot_id");
    let list = |service: &str, filter: &str| ListInstancesRequest {
        service: service.to_owned(),
        filter: filter.to_owned(),
        ..ListInstancesRequest::default()
    };
    assert_refused(&client.discovery.clone().list_instances(list("", "")).await.unwrap_err(), "service");
    let filter = client.discovery.clone().list_instances(list("good", "colour == red")).await.unwrap_err();
    assert_eq!(filter.get_details_bad_request().unwrap().field_violations[0].field, "filter");
    let get = GetInstanceRequest { service: "good".to_owned(), id: "no id".to_owned(), ..Default::default() };
    assert_refused(&client.discovery.clone().get_instance(get).await.unwrap_err(), "id");
    bystander.assert_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_instance_is_named_in_the_error() {
    let server = TestServer::open();
    let client = server.client().await;
    let get = GetInstanceRequest { service: "web".to_owned(), id: "a".to_owned(), ..Default::default() };
    let update =
        UpdateInstanceRequest { service: "web".to_owned(), id: "a".to_owned(), weight: 3, ..Default::default() };
    for status in [
        client.discovery.clone().get_instance(get).await.unwrap_err(),
        client.update(&["weight"], update.clone()).await.unwrap_err(),
        client.deregister("web", "a", &Bytes::new()).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::NotFound, "{status}");
        assert_eq!(status.get_details_resource_info().unwrap().resource_name, "web/a");
    }
    client.register(instance("web", "a")).await.unwrap();
    let unknown = Bytes::from_static(&[7; 16]);
    let lost =
        client.update(&["weight"], UpdateInstanceRequest { lease_id: unknown.clone(), ..update }).await.unwrap_err();
    assert_eq!(lost.code(), Code::Aborted, "{lost}");
    assert_eq!(client.deregister("web", "a", &unknown).await.unwrap(), None, "not its registration");
    assert!(client.get("web", "a").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn register_of_a_second_live_boot_is_rejected() {
    let server = TestServer::open();
    let (client, mut bystander) = (server.client().await, Bystander::connect(&server).await);
    let intruder = RegisterRequest { boot_id: "intruder".to_owned(), ..instance("good", "a") };
    let status = client.register(intruder).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    assert!(status.message().contains("replace"), "{status}");
    bystander.assert_unaffected().await;
}

/// Opens a watch and waits for its first message, or for the error status.
async fn watch(client: &TestClient, request: WatchRequest) -> Result<(), Status> {
    let mut stream = within("Watch", client.discovery.clone().watch(request)).await?.into_inner();
    within("a message", stream.message()).await.map(|message| assert!(message.is_some()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_watch_is_rejected_with_its_field() {
    let server = TestServer::open();
    let (client, mut bystander) = (server.client().await, Bystander::connect(&server).await);
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
        let status = watch(&client, request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, field, "{status}");
    }
    bystander.assert_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_on_more_than_ten_thousand_names_is_rejected() {
    let server = TestServer::open();
    let (client, mut bystander) = (server.client().await, Bystander::connect(&server).await);
    let names = |count: usize| (0..count).map(|n| format!("service-{n}")).collect::<Vec<_>>();
    let status = watch(&client, WatchRequest { services: names(10_001), ..WatchRequest::default() }).await.unwrap_err();
    assert_refused(&status, "services");
    let all = names(10_000);
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    let mut reader = Reader::synced(&client, &all).await;
    client.register(instance("service-9999", "a")).await.unwrap();
    reader.until("the last of them", |view| view.get("service-9999", "a").is_some()).await;
    bystander.assert_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeat_with_invalid_lease_is_answered_as_unknown() {
    let server = TestServer::open();
    let (client, mut bystander) = (server.client().await, Bystander::connect(&server).await);
    let lease = client.register(instance("web", "a")).await.unwrap().lease_id;
    let mut heartbeat_stream = HeartbeatStream::open(&client).await;
    let garbage = [Bytes::new(), Bytes::from_static(b"x"), vec![9; 16].into(), vec![1; 4_000].into(), lease];
    let (states, _) = heartbeat_stream.beat(&garbage.iter().collect::<Vec<_>>()).await.unwrap();
    let unknown = LeaseState::Unknown;
    assert_eq!(states, [unknown, unknown, unknown, unknown, LeaseState::Held], "the valid lease is renewed");
    bystander.assert_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeat_with_invalid_load_is_rejected_after_valid_leases_are_renewed() {
    let server = TestServer::open();
    let (client, mut bystander) = (server.client().await, Bystander::connect(&server).await);
    for utilization in [f64::NAN, f64::INFINITY, -0.5] {
        let lease_id = client.register(instance("web", "a")).await.unwrap().lease_id;
        let load = LoadReport { utilization, ..LoadReport::default() };
        let good = Heartbeat { lease_id: lease_id.clone(), load: None };
        let heartbeats = vec![good, Heartbeat { lease_id, load: Some(load) }];
        let mut heartbeat_stream = HeartbeatStream::open(&client).await;
        let answer = heartbeat_stream.ask(KeepAliveRequest { heartbeats }).await.unwrap();
        assert!(answer.leases.iter().all(|report| report.state() == LeaseState::Held));
        let status = within("the status", heartbeat_stream.answers.message()).await.unwrap_err();
        assert_refused(&status, "heartbeats[1].load.utilization");
    }
    bystander.assert_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_over_its_limit_is_rejected_with_the_limit() {
    let server = TestServer::open();
    let (client, mut bystander) = (server.client().await, Bystander::connect(&server).await);
    let large = RegisterRequest { tags: vec!["x".repeat(300 * 1024)], ..instance("web", "a") };
    let status = client.register(large).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
    assert!(status.message().contains("262144"), "it says what the limit is: {status}");
    let mut heartbeat_stream = HeartbeatStream::open(&client).await;
    let heartbeats = vec![Heartbeat::default(); 10_001];
    assert_refused(&heartbeat_stream.ask(KeepAliveRequest { heartbeats }).await.unwrap_err(), "heartbeats");
    client.register(instance("web", "a")).await.unwrap();
    bystander.assert_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_requests_leave_nothing_behind() {
    let server = TestServer::open();
    let (client, mut bystander) = (server.client().await, Bystander::connect(&server).await);
    for round in 0..200 {
        let bad = Address { port: 0, ..address("10.0.0.1", 80) };
        let request = RegisterRequest { addresses: vec![bad], ..instance(&format!("web-{round}"), "a") };
        client.register(request).await.unwrap_err();
        let request = WatchRequest { services: vec!["-".to_owned()], ..WatchRequest::default() };
        watch(&client, request).await.unwrap_err();
        let short = RegisterRequest { ttl: seconds(0.0), ..instance("short", "a") };
        let lease = client.register(short).await.unwrap().lease_id;
        client.deregister("short", "a", &lease).await.unwrap();
    }
    let (_, page) = crate::harness::get(server.http(), "/metrics").await;
    for (gauge, number) in [("services", 1), ("instances", 1), ("leases", 1), ("watches", 1)] {
        let line = format!("callboard_{gauge} {number}");
        assert!(page.lines().any(|shown| shown == line), "{line} is not in {page}");
    }
    bystander.assert_unaffected().await;
}
