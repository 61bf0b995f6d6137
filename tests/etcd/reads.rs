//! Reads at several replicas: tokens of a replica that is ahead, consistent reads, answers without etcd, indexes of Consul's API.

use std::time::Duration;

use bytes::Bytes;
use callboard::pb::callboard::v1::{
    GetInstanceRequest, ListInstancesRequest, ListServicesRequest, RegisterRequest, Staleness, WatchRequest,
    watch_response::Message,
};
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    consul_replay::{client::ask, recording::Answer},
    harness::{
        Child, Direction, EtcdCluster, Flow, HeartbeatStream, Proxy, Reader, ServerProcess, TestClient, Wall, instance,
        seconds, wall, within,
    },
};

/// Maximum time after which a read is rejected that waits for 2 s.
const MAX_REJECTION: Duration = Duration::from_millis(2_800);
/// Number of writes that are read at another replica.
const READ_WRITES: usize = 1_000;
/// Delay of what etcd sends to a replica.
const DELAY: Duration = Duration::from_millis(20);

fn since(time: Wall) -> Duration {
    Duration::from_millis(wall() - time)
}

/// Starts a replica that reaches etcd at these addresses.
async fn replica(etcd: &str, name: &str) -> ServerProcess {
    ServerProcess::start(&["--etcd", etcd, "--dns", "off", "--replica", name]).await
}

/// Starts a replica that reaches etcd through a proxy.
async fn replica_behind_proxy(etcd: &EtcdCluster, name: &str) -> (Proxy, ServerProcess) {
    let proxy = Proxy::before(etcd.address(0)).await;
    let replica = replica(&format!("http://{}", proxy.address()), name).await;
    (proxy, replica)
}

async fn register(client: &TestClient, id: &str) -> Bytes {
    // No test sends heartbeats for so long.
    client.register(RegisterRequest { ttl: seconds(120.0), ..instance("web", id) }).await.unwrap().lease_id
}

fn get(id: &str, consistent: bool) -> GetInstanceRequest {
    GetInstanceRequest { service: "web".to_owned(), id: id.to_owned(), consistent }
}

fn list(consistent: bool) -> ListInstancesRequest {
    ListInstancesRequest { service: "web".to_owned(), consistent, ..ListInstancesRequest::default() }
}

/// Returns a reader that has read everything at one replica and resumes at another one, whose proxy holds back what etcd sends.
async fn reader_ahead_of(proxy: &Proxy, first: &TestClient, second: &TestClient) -> Reader {
    let mut reader = Reader::synced(first, &["web"]).await;
    proxy.flow(Direction::Down, Flow::Held);
    register(first, "b").await;
    reader.until("the instance", |view| view.get("web", "b").is_some()).await;
    reader.move_to(second);
    reader.reopen().await.unwrap();
    reader
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn watch_whose_token_is_ahead_of_a_replica_waits_for_the_replica() {
    let etcd = EtcdCluster::start(1).await;
    let one = replica(&etcd.endpoints(), "one").await;
    let (proxy, two) = replica_behind_proxy(&etcd, "two").await;
    let (first, second) = (one.client().await, two.client().await);
    register(&first, "a").await;
    let mut reader = reader_ahead_of(&proxy, &first, &second).await;
    let message = timeout(Duration::from_secs(1), reader.message()).await;
    assert!(message.is_err(), "the replica has sent {message:?}");
    proxy.calm();
    register(&first, "c").await;
    reader.until("the next instance", |view| view.get("web", "c").is_some()).await;
    assert_eq!((reader.view.resets, reader.view.set.len()), (0, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn watch_whose_token_a_replica_does_not_reach_is_rejected_after_three_seconds() {
    let etcd = EtcdCluster::start(1).await;
    let one = replica(&etcd.endpoints(), "one").await;
    let (proxy, two) = replica_behind_proxy(&etcd, "two").await;
    let (first, second) = (one.client().await, two.client().await);
    let mut reader = reader_ahead_of(&proxy, &first, &second).await;
    let opened = wall();
    let end = reader.read_to_the_end().await;
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    assert!(end.get_details_retry_info().is_some());
    let took = since(opened);
    assert!((2_900..3_800).contains(&took.as_millis()), "{took:?}");
    reader.move_to(&first);
    reader.reopen().await.unwrap();
    register(&first, "c").await;
    reader.until("the next instance", |view| view.get("web", "c").is_some()).await;
    assert_eq!(reader.view.resets, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn consistent_read_at_any_replica_includes_every_acknowledged_write() {
    let etcd = EtcdCluster::start(1).await;
    let one = replica(&etcd.endpoints(), "one").await;
    let (proxy, two) = replica_behind_proxy(&etcd, "two").await;
    let (first, mut second) = (one.client().await, two.client().await);
    proxy.flow(Direction::Down, Flow::Late(DELAY));
    let mut missed = 0;
    for number in 0..READ_WRITES {
        let id = format!("i{number}");
        register(&first, &id).await;
        let plain = second.discovery.get_instance(get(&id, false)).await;
        missed += usize::from(plain.is_err());
        let consistent = second.discovery.get_instance(get(&id, true)).await;
        assert!(consistent.is_ok(), "{id}: {consistent:?}");
    }
    assert!(missed > READ_WRITES / 2, "the test proves nothing: only {missed} plain reads missed the write");
    // Another program writes to etcd: no change tells the replica that it has everything.
    super::put(&etcd.client(), "/other/key", "value").await;
    for path in ["/v1/health/service/web?consistent", "/v1/catalog/services?consistent"] {
        let answer = ask(two.http, "GET", path, "", |text| text).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("X-Consul-Effective-Consistency"), Some("consistent"));
    }
    let request = WatchRequest { services: vec!["web".to_owned()], consistent: true, ..WatchRequest::default() };
    register(&first, "last").await;
    let mut watch = second.discovery.watch(request).await.unwrap().into_inner();
    let mut seen = false;
    within("the snapshot", async {
        while let Some(Message::Snapshot(snapshot)) = watch.message().await.unwrap().unwrap().message {
            seen |= snapshot.instances.iter().any(|instance| instance.id == "last");
        }
    })
    .await;
    assert!(seen, "the snapshot lacks the last write");
}

/// Asserts that a call is rejected in time, because the state of the replica is not confirmed.
async fn assert_rejected<T: std::fmt::Debug>(call: impl Future<Output = Result<T, Status>>) {
    let asked = wall();
    let status = within("a rejection", call).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.get_details_retry_info().is_some());
    assert!(since(asked) < MAX_REJECTION, "{:?}", since(asked));
}

async fn staleness(client: &mut TestClient) -> Option<Staleness> {
    let listed = client.discovery.list_instances(list(false)).await.unwrap().into_inner();
    assert_eq!(listed.instances.len(), 1);
    let got = client.discovery.get_instance(get("a", false)).await.unwrap().into_inner();
    let services = client.discovery.list_services(ListServicesRequest::default()).await.unwrap().into_inner();
    assert_eq!(
        (got.staleness.is_some(), services.staleness.is_some()),
        (listed.staleness.is_some(), listed.staleness.is_some())
    );
    listed.staleness
}

/// Returns what an answer of Consul's API says of the leader: whether there is one, and the milliseconds since the last contact.
async fn leader(replica: &ServerProcess) -> (bool, u64) {
    let answer = ask(replica.http, "GET", "/v1/health/service/web", "", |text| text).await;
    assert_eq!(answer.status, 200);
    let header = |name: &str| answer.header(name).unwrap().to_owned();
    (header("X-Consul-Knownleader") == "true", header("X-Consul-Lastcontact").parse().unwrap())
}

/// Reads bookmarks until one says that the registry does not reach its store.
async fn stale_bookmark(reader: &mut Reader) -> Staleness {
    within("a bookmark", async {
        loop {
            if let Some(Message::Bookmark(bookmark)) = reader.message().await.unwrap().message
                && let Some(staleness) = bookmark.staleness
            {
                return staleness;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn while_etcd_is_away_answers_say_so_and_consistent_reads_are_rejected_in_time() {
    let etcd = EtcdCluster::start(1).await;
    let one = replica(&etcd.endpoints(), "one").await;
    let mut client = one.client().await;
    register(&client, "a").await;
    let mut reader = Reader::synced(&client, &["web"]).await;
    assert_eq!(staleness(&mut client).await, None);
    let (known, age) = leader(&one).await;
    assert!(known && age < 4_000, "{age}");
    etcd.pause(0);
    let paused = wall();
    assert_rejected(client.discovery.clone().get_instance(get("a", true))).await;
    assert_rejected(client.discovery.clone().list_instances(list(true))).await;
    let services = ListServicesRequest { consistent: true, ..ListServicesRequest::default() };
    assert_rejected(client.discovery.clone().list_services(services)).await;
    let watch = WatchRequest { everything: true, consistent: true, ..WatchRequest::default() };
    assert_rejected(client.discovery.clone().watch(watch)).await;
    let asked = wall();
    let Answer { status, body, .. } = ask(one.http, "GET", "/v1/health/service/web?consistent", "", |text| text).await;
    assert_eq!((status, body.as_str()), (500, Some("No cluster leader")));
    assert!(since(asked) < MAX_REJECTION);
    let told = stale_bookmark(&mut reader).await;
    assert!(told.revision >= reader.view.revision, "{told:?}");
    let stale = staleness(&mut client).await.unwrap();
    let age = Duration::try_from(stale.age.unwrap()).unwrap();
    assert!(age > Duration::from_secs(4) && age < since(paused) + Duration::from_secs(2), "{age:?}");
    let (known, contact) = leader(&one).await;
    assert!(!known && contact > 4_000, "{contact}");
    for (age, status) in [("4s", 500), ("1h", 200), ("soon", 400)] {
        let path = format!("/v1/health/service/web?max_stale={age}");
        let answer = ask(one.http, "GET", &path, "", |text| text).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    let shown = Child::run(&["instances", "web", "--server", &one.address()]).await;
    assert!(shown.stderr.contains("has not reached its store for"), "{}", shown.stderr);
    assert!(shown.status.success() && shown.stdout.contains('a'));
    etcd.resume(0);
    within("a consistent read", async { while client.discovery.get_instance(get("a", true)).await.is_err() {} }).await;
    within("the end of the outage", async {
        while client.discovery.list_instances(list(false)).await.unwrap().into_inner().staleness.is_some() {}
    })
    .await;
    assert_eq!(staleness(&mut client).await, None);
    assert!(leader(&one).await.0);
}

/// Paths whose answers have an index.
const INDEXED: &[&str] = &[
    "/v1/health/service/web",
    "/v1/health/service/none",
    "/v1/health/service/emptied",
    "/v1/health/service/consul",
    "/v1/catalog/service/web",
    "/v1/catalog/services",
    "/v1/catalog/nodes",
    "/v1/catalog/node/ghost",
    "/v1/health/state/any",
    "/v1/health/checks/web",
];

/// Returns the indexes of all answers. The queries are consistent, so that all replicas answer as of the same state.
async fn indexes(replica: &ServerProcess) -> Vec<(&'static str, u64)> {
    let mut indexes = Vec::new();
    for path in INDEXED {
        let answer = ask(replica.http, "GET", &format!("{path}?consistent"), "", |text| text).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        indexes.push((*path, answer.header("X-Consul-Index").unwrap().parse().unwrap()));
    }
    indexes
}

async fn assert_same_indexes(replicas: &[&ServerProcess]) -> Vec<(&'static str, u64)> {
    let first = indexes(replicas[0]).await;
    for other in &replicas[1..] {
        assert_eq!(indexes(other).await, first);
    }
    first
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn indexes_of_all_replicas_are_the_same_after_changes_and_restarts() {
    let etcd = EtcdCluster::start(1).await;
    let one = replica(&etcd.endpoints(), "one").await;
    let client = one.client().await;
    let lease = register(&client, "a").await;
    // Before the others know the registry.
    let emptied = client.register(instance("emptied", "e")).await.unwrap().lease_id;
    client.deregister("emptied", "e", &emptied).await.unwrap();
    let (two, three) = (replica(&etcd.endpoints(), "two").await, replica(&etcd.endpoints(), "three").await);
    assert_same_indexes(&[&one, &two, &three]).await;
    register(&client, "b").await;
    client.deregister("web", "a", &lease).await.unwrap();
    let put = r#"{"Node": "edge", "Address": "10.0.0.9", "Service": {"ID": "c1", "Service": "cache", "Port": 1}}"#;
    assert_eq!(ask(two.http, "PUT", "/v1/catalog/register", put, |text| text).await.status, 200);
    let before = assert_same_indexes(&[&one, &two, &three]).await;
    drop(two);
    // The next replica reads the registry as it is, and not the changes.
    let etcd_client = etcd.client();
    etcd_client.compact(etcd_client.status().await.unwrap().revision).await.unwrap();
    let two = replica(&etcd.endpoints(), "two").await;
    let after = assert_same_indexes(&[&three, &two, &one]).await;
    for ((path, before), (_, after)) in before.iter().zip(&after) {
        assert!(after >= before, "{path}: {before}, then {after}");
    }
    let known = after[0].1;
    // Not before the next change of the service: a change of another one does not end the wait.
    let path = format!("/v1/health/service/web?index={known}&wait=2s");
    let (unchanged, ()) = tokio::join!(ask(two.http, "GET", &path, "", |text| text), async {
        client.register(instance("db", "d")).await.unwrap();
    });
    assert_eq!(unchanged.header("X-Consul-Index").unwrap(), known.to_string());
    assert!(unchanged.seconds.unwrap() >= 2.0, "{unchanged:?}");
    // At the next change.
    let path = format!("/v1/health/service/web?index={known}&wait=60s");
    let (changed, revision) = tokio::join!(ask(three.http, "GET", &path, "", |text| text), async {
        register(&client, "f").await;
        client.get("web", "f").await.unwrap().revision
    });
    assert_eq!(changed.header("X-Consul-Index").unwrap(), revision.to_string());
    assert_eq!(changed.body.as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn holder_of_an_instance_is_shown_at_every_replica() {
    let etcd = EtcdCluster::start(1).await;
    let (one, two) = (replica(&etcd.endpoints(), "one").await, replica(&etcd.endpoints(), "two").await);
    let (first, second) = (one.client().await, two.client().await);
    let lease = first.register(RegisterRequest { ttl: seconds(3.0), ..instance("web", "a") }).await.unwrap().lease_id;
    let address = two.address();
    let shown = async |verb: &[&str]| -> serde_json::Value {
        let arguments = [verb, &["-o", "json", "--server", &address]].concat();
        let output = Child::run(&arguments).await;
        assert!(output.status.success(), "{output:?}");
        serde_json::from_str(&output.stdout).unwrap()
    };
    let listed = shown(&["instances", "web", "--consistent"]).await;
    assert_eq!(listed[0]["holder"], "one");
    assert_eq!(shown(&["events"]).await[0]["holder"], "one");
    one.kill().await;
    let mut beats = HeartbeatStream::open(&second).await;
    within("the take-over", async {
        loop {
            let _state = beats.beat(&[&lease]).await.unwrap();
            let got = second.discovery.clone().get_instance(get("a", false)).await.unwrap().into_inner();
            if got.holder == "two" {
                break;
            }
        }
    })
    .await;
    assert_eq!(shown(&["instances", "web"]).await[0]["holder"], "two");
}
