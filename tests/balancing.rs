//! Effective weights, policies and subsets over gRPC, with a paused clock.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use callboard::{
    model::{
        InstanceFilter, PolicyScope, PolicySettings, ServerActor, ServiceName, ServicePolicy, Subset, SubsetName,
        WeightSource,
    },
    pb::callboard::v1::{
        Balancing, DeregisterRequest, GetInstanceRequest, Heartbeat, KeepAliveRequest, ListInstancesRequest,
        LoadReport, RegisterRequest, ResetReason, WatchRequest, WatchResponse, change::Change, watch_response::Message,
    },
    registry::PolicyCommand,
};
use tokio::time::sleep;
use tonic::{Code, Status, Streaming};

use crate::harness::{HeartbeatStream, InMemory, TestClient, instance, seconds, within};

fn settings(settings: PolicySettings) -> ServicePolicy {
    ServicePolicy { settings, ..ServicePolicy::default() }
}

fn slow_start(seconds: u64) -> ServicePolicy {
    settings(PolicySettings { slow_start: Some(Duration::from_secs(seconds)), ..PolicySettings::default() })
}

fn subsets(filters: &[(&str, &str)]) -> ServicePolicy {
    let subset = |(name, filter): &(&str, &str)| {
        let filter = InstanceFilter::parse(filter).unwrap().unwrap();
        (SubsetName::parse(name).unwrap(), Subset { filter })
    };
    ServicePolicy { subsets: filters.iter().map(subset).collect(), ..ServicePolicy::default() }
}

/// Sets the policy of `web`, and returns its revision.
async fn set_policy(server: &InMemory, policy: ServicePolicy) -> u64 {
    let scope = PolicyScope::Service(ServiceName::parse("web").unwrap());
    let command = PolicyCommand { scope, policy, expected_revision: None };
    let commands = server.shared().commands.on_behalf_of(ServerActor::InProcess.caller());
    commands.set_policy(command).await.unwrap().newest.unwrap().revision.0
}

/// Registers an instance with a lease that outlives the test.
async fn register(client: &TestClient, service: &str, id: &str, tag: &str) -> Bytes {
    let tags = if tag.is_empty() { vec![] } else { vec![tag.to_owned()] };
    let request = RegisterRequest { ttl: seconds(36_000.0), tags, ..instance(service, id) };
    client.register(request).await.unwrap().lease_id
}

/// Deregisters `web/a`.
async fn deregister(client: &TestClient, lease_id: Bytes) {
    let request = DeregisterRequest { service: "web".into(), id: "a".into(), lease_id, ..DeregisterRequest::default() };
    assert!(client.registry.clone().deregister(request).await.unwrap().into_inner().removed);
}

fn request(service: &str) -> WatchRequest {
    WatchRequest { services: vec![service.to_owned()], balancing: true, ..WatchRequest::default() }
}

/// Watch that a test reads message by message.
#[derive(Debug)]
struct WatchReader {
    stream: Streaming<WatchResponse>,
    token: Bytes,
}

impl WatchReader {
    async fn open(client: &TestClient, request: WatchRequest) -> Self {
        Self::try_open(client, request).await.unwrap()
    }

    async fn try_open(client: &TestClient, request: WatchRequest) -> Result<Self, Status> {
        let stream = within("Watch", client.discovery.clone().watch(request)).await?.into_inner();
        Ok(Self { stream, token: Bytes::new() })
    }

    /// Returns the next message that is no bookmark.
    async fn next(&mut self) -> Message {
        loop {
            let message = self.stream.message().await.unwrap().unwrap().message.unwrap();
            match &message {
                Message::Bookmark(bookmark) => {
                    self.token.clone_from(&bookmark.resume_token);
                    continue;
                }
                Message::Synced(synced) => self.token.clone_from(&synced.resume_token),
                Message::Changes(changes) => self.token.clone_from(&changes.resume_token),
                _ => {}
            }
            return message;
        }
    }

    async fn balancing(&mut self) -> Balancing {
        match self.next().await {
            Message::Balancing(balancing) => balancing,
            other => panic!("{other:?}"),
        }
    }

    /// Returns the ids of the snapshot.
    async fn snapshot(&mut self) -> Vec<String> {
        let mut ids = Vec::new();
        loop {
            match self.next().await {
                Message::Snapshot(part) => ids.extend(part.instances.into_iter().map(|instance| instance.id)),
                Message::Synced(_) => return ids,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Returns the ids of the changed instances, with a minus for those that left.
    async fn changes(&mut self) -> Vec<String> {
        let Message::Changes(changes) = self.next().await else { panic!("no changes") };
        let ids = changes.changes.into_iter().map(|change| match change.change.unwrap() {
            Change::Updated(instance) => instance.id,
            Change::Removed(removal) => format!("-{}", removal.id),
        });
        let mut ids: Vec<_> = ids.collect();
        ids.sort_unstable();
        ids
    }
}

fn weights(balancing: &Balancing) -> Vec<(&str, f64)> {
    balancing.weights.iter().map(|weight| (weight.id.as_str(), weight.weight)).collect()
}

#[tokio::test(start_paused = true)]
async fn watch_with_balancing_gets_each_step_of_a_slow_start() {
    let server = InMemory::open();
    let client = server.client().await;
    register(&client, "web", "a", "").await;
    let policy = set_policy(&server, slow_start(60)).await;
    sleep(Duration::from_secs(3)).await;
    let mut reader = WatchReader::open(&client, request("web")).await;
    let mut plain = WatchReader::open(&client, WatchRequest { balancing: false, ..request("web") }).await;
    assert_eq!(reader.snapshot().await, ["a"]);
    let balancing = reader.balancing().await;
    assert_eq!((weights(&balancing), balancing.service.as_str()), (vec![], "web"));
    assert_eq!(balancing.policy.unwrap().revision, policy);

    register(&client, "web", "b", "").await;
    let start = server.now();
    assert_eq!(reader.changes().await, ["b"]);
    assert_eq!(weights(&reader.balancing().await), [("b", 0.1)]);
    assert!(server.now() - start < 10, "with the instance, not with the next update");
    for (at, weight) in [(15_000, 0.25), (30_000, 0.5), (45_000, 0.75)] {
        assert_eq!(weights(&reader.balancing().await), [("b", weight)]);
        let late = (server.now() - start).checked_sub(at).unwrap();
        assert!(late <= 1_100, "the step at {at} ms is {late} ms late");
    }
    assert_eq!(weights(&reader.balancing().await), []);
    let mut resumed = WatchReader::open(&client, WatchRequest { resume_token: reader.token, ..request("web") }).await;
    assert!(matches!(resumed.next().await, Message::Synced(_)), "the token fits");
    assert_eq!(resumed.balancing().await.policy.unwrap().revision, policy);

    assert_eq!(plain.snapshot().await, ["a"]);
    assert_eq!(plain.changes().await, ["b"]);
    register(&client, "web", "c", "").await;
    assert_eq!(plain.changes().await, ["c"], "a watch that did not ask for them gets no weights");
}

#[tokio::test(start_paused = true)]
async fn load_reports_become_weights_with_few_publications() {
    let server = InMemory::open();
    let client = server.client().await;
    let response_time = PolicySettings { weights: Some(WeightSource::ResponseTime), ..PolicySettings::default() };
    set_policy(&server, settings(response_time)).await;
    let mut leases = BTreeMap::new();
    for (id, millis) in [("a", 10), ("b", 10), ("c", 10), ("d", 40)] {
        leases.insert(id, (register(&client, "web", id, "").await, millis));
    }
    let mut reader = WatchReader::open(&client, request("web")).await;
    reader.snapshot().await;
    assert_eq!(weights(&reader.balancing().await), []);
    let mut beats = HeartbeatStream::open(&client).await;
    let mut publications = Vec::new();
    for _ in 0..24 {
        let heartbeats = leases.values().map(|(lease, millis)| Heartbeat {
            lease_id: lease.clone(),
            load: Some(LoadReport {
                response_time: seconds(f64::from(*millis) / 1_000.0),
                requests: 100,
                ..LoadReport::default()
            }),
        });
        beats.ask(KeepAliveRequest { heartbeats: heartbeats.collect() }).await.unwrap();
        let pause = sleep(Duration::from_secs(5));
        tokio::pin!(pause);
        loop {
            tokio::select! {
                message = reader.next() => match message {
                    Message::Balancing(balancing) => publications.push((server.now(), balancing)),
                    other => panic!("{other:?}"),
                },
                () = &mut pause => break,
            }
        }
    }
    assert!((2..=4).contains(&publications.len()), "{publications:?}");
    assert!(publications.windows(2).all(|two| two[1].0 - two[0].0 >= 10_000), "{publications:?}");
    let Some((_, last)) = publications.last() else { panic!("no publication") };
    let [("d", weight)] = weights(last)[..] else { panic!("{last:?}") };
    assert!((0.5..0.63).contains(&weight), "half of the configured weight, within a fifth: {weight}");

    let effective = |id: &str| {
        let request = GetInstanceRequest { service: "web".to_owned(), id: id.to_owned(), ..Default::default() };
        let mut discovery = client.discovery.clone();
        async move { discovery.get_instance(request).await.unwrap().into_inner() }
    };
    let slow = effective("d").await;
    assert_eq!(slow.effective_weight, Some(weight));
    assert_eq!(slow.instance.unwrap().weight, 1, "the configured weight stays");
    assert_eq!(effective("a").await.effective_weight, None);
    set_policy(
        &server,
        settings(PolicySettings { timeout: Some(Duration::from_secs(2)), ..PolicySettings::default() }),
    )
    .await;
    let balancing = reader.balancing().await;
    assert_eq!(balancing.policy.unwrap().timeout, seconds(2.0));
    if !balancing.weights.is_empty() {
        assert_eq!(weights(&reader.balancing().await), [], "weights follow with the next update");
    }
}

#[tokio::test(start_paused = true)]
async fn watch_of_everything_gets_balancing_for_services_with_a_policy() {
    let server = InMemory::open();
    let client = server.client().await;
    for service in ["db", "web"] {
        register(&client, service, "a", "").await;
    }
    let everything = WatchRequest { everything: true, balancing: true, ..WatchRequest::default() };
    let mut reader = WatchReader::open(&client, everything.clone()).await;
    reader.snapshot().await;
    let policy = set_policy(&server, slow_start(60)).await;
    let balancing = reader.balancing().await;
    assert_eq!((balancing.service.as_str(), balancing.policy.unwrap().revision), ("web", policy));
    let mut later = WatchReader::open(&client, everything).await;
    later.snapshot().await;
    assert_eq!(later.balancing().await.service, "web");
    register(&client, "db", "b", "").await;
    assert_eq!(reader.changes().await, ["b"]);
    assert_eq!(later.changes().await, ["b"]);
}

#[tokio::test(start_paused = true)]
async fn watch_of_everything_forgets_the_policy_of_a_service_that_lost_its_instances() {
    let server = InMemory::open();
    let client = server.client().await;
    let lease = register(&client, "web", "a", "").await;
    let everything = WatchRequest { everything: true, balancing: true, ..WatchRequest::default() };
    let mut reader = WatchReader::open(&client, everything).await;
    reader.snapshot().await;
    let timeout =
        |millis| settings(PolicySettings { timeout: Some(Duration::from_millis(millis)), ..PolicySettings::default() });
    set_policy(&server, timeout(500)).await;
    assert_eq!(reader.balancing().await.policy.unwrap().timeout, seconds(0.5));

    deregister(&client, lease).await;
    assert_eq!(reader.changes().await, ["-a"]);
    let forgotten = reader.balancing().await;
    assert_eq!((forgotten.service.as_str(), forgotten.policy, forgotten.weights.len()), ("web", None, 0));

    // The service returns with its present policy.
    set_policy(&server, timeout(700)).await;
    let lease = register(&client, "web", "a", "").await;
    assert_eq!(reader.changes().await, ["a"]);
    assert_eq!(reader.balancing().await.policy.unwrap().timeout, seconds(0.7));
    deregister(&client, lease).await;
    assert_eq!(reader.changes().await, ["-a"]);
    assert_eq!(reader.balancing().await.policy, None);
    set_policy(&server, ServicePolicy::default()).await;
    register(&client, "web", "a", "").await;
    assert_eq!(reader.changes().await, ["a"]);
    assert_eq!(reader.balancing().await.policy.unwrap().timeout, None);
}

#[tokio::test(start_paused = true)]
async fn watch_of_a_subset_follows_its_filter() {
    let server = InMemory::open();
    let client = server.client().await;
    for (id, tag) in [("a", "v1"), ("b", "v2"), ("c", "v2")] {
        register(&client, "web", id, tag).await;
    }
    let first = [("stable", "v1 in tags"), ("canary", "v2 in tags")];
    set_policy(&server, subsets(&first)).await;
    let watch = WatchRequest { subset: "canary".to_owned(), balancing: false, ..request("web") };
    let mut reader = WatchReader::open(&client, watch.clone()).await;
    assert_eq!(reader.snapshot().await, ["b", "c"]);
    let before = reader.token.clone();
    set_policy(&server, subsets(&[("canary", "v1 in tags or id == c")])).await;
    assert_eq!(reader.changes().await, ["-b", "a"]);
    register(&client, "web", "d", "v1").await;
    assert_eq!(reader.changes().await, ["d"]);

    let resume = |token: &Bytes| WatchRequest { resume_token: token.clone(), ..watch.clone() };
    let mut resumed = WatchReader::open(&client, resume(&reader.token)).await;
    assert!(matches!(resumed.next().await, Message::Synced(_)), "the token is that of the present filter");
    let mut resumed = WatchReader::open(&client, resume(&before)).await;
    match resumed.next().await {
        Message::Reset(reset) => assert_eq!(reset.reason(), ResetReason::OtherSelector),
        other => panic!("{other:?}"),
    }
    assert_eq!(resumed.snapshot().await, ["a", "c", "d"]);

    set_policy(&server, ServicePolicy::default()).await;
    register(&client, "web", "e", "v1").await;
    assert_eq!(reader.changes().await, ["e"], "an open watch of a removed subset keeps its last filter");
    set_policy(&server, subsets(&[("canary", "id == e")])).await;
    assert_eq!(reader.changes().await, ["-a", "-c", "-d"], "and follows the subset when it is there again");
}

#[tokio::test(start_paused = true)]
async fn unknown_subset_is_rejected_with_the_names_of_the_known_ones() {
    let server = InMemory::open();
    let client = server.client().await;
    register(&client, "web", "a", "v1").await;
    let list = |subset: &str| ListInstancesRequest {
        service: "web".to_owned(),
        subset: subset.to_owned(),
        ..ListInstancesRequest::default()
    };
    let unknown = client.discovery.clone().list_instances(list("canary")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().contains("has no subsets"), "{}", unknown.message());
    set_policy(&server, subsets(&[("stable", "v1 in tags"), ("canary", "v2 in tags")])).await;
    let listed = async |subset: &str| {
        let page = client.discovery.clone().list_instances(list(subset)).await.unwrap().into_inner();
        page.instances.into_iter().map(|instance| instance.id).collect::<Vec<_>>()
    };
    assert_eq!(listed("stable").await, ["a"]);
    assert_eq!(listed("canary").await, [""; 0]);

    let watch = |subset: &str| WatchRequest { subset: subset.to_owned(), ..request("web") };
    let unknown = WatchReader::try_open(&client, watch("blue")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().contains("use one of canary, stable"), "{}", unknown.message());
    let several = WatchRequest { services: vec!["db".to_owned(), "web".to_owned()], ..watch("stable") };
    for invalid in [watch("BLUE"), several, WatchRequest { everything: true, services: vec![], ..watch("stable") }] {
        assert_eq!(WatchReader::try_open(&client, invalid).await.unwrap_err().code(), Code::InvalidArgument);
    }
}
