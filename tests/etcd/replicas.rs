//! Replicas of one registry, as processes, over a cluster of etcd: what clients see when a replica or etcd fails.

use std::time::Duration;

use bytes::Bytes;
use callboard::{
    etcd::EtcdClient,
    pb::callboard::v1::{Heartbeat, InstanceStatus, KeepAliveRequest, LeaseState, Notice, RegisterRequest},
};
use rustix::process::Signal;
use tokio::time::{interval, sleep, timeout};
use tonic::Code;
use tonic_types::StatusExt;

use crate::harness::{
    EtcdCluster, HeartbeatStream, Reader, ServerProcess, TestClient, Wall, instance, seconds, wall, within,
};

/// TTL of the instances in seconds.
pub(super) const TTL: f64 = 3.0;
/// TTL of an instance without heartbeats, in seconds.
const SILENT_TTL: f64 = 8.0;
/// Maximum time from the death of a replica to the removal of a silent instance that it held: the TTL of its session, the grace of
/// orphans, and 5 s.
const MAX_ORPHAN_TIME: Duration = Duration::from_secs(10 + 15 + 5);

/// Returns the time that has passed since this time.
pub fn since(time: Wall) -> Duration {
    Duration::from_millis(wall() - time)
}

/// Starts a replica.
pub async fn replica(etcd: &EtcdCluster) -> ServerProcess {
    ServerProcess::start(&["--etcd", &etcd.endpoints(), "--dns", "off"]).await
}

pub(super) async fn replicas<const N: usize>(etcd: &EtcdCluster) -> [ServerProcess; N] {
    let mut started = Vec::new();
    for _ in 0..N {
        started.push(replica(etcd).await);
    }
    started.try_into().unwrap()
}

pub(super) fn request(id: &str) -> RegisterRequest {
    RegisterRequest { ttl: seconds(TTL), ..instance("web", id) }
}

pub(super) async fn register(client: &TestClient, id: &str) -> Bytes {
    client.register(request(id)).await.unwrap().lease_id
}

/// Sends heartbeats at a third of the TTL for as long as it is polled.
pub(super) async fn heartbeat(client: &TestClient, lease: &Bytes) {
    let mut stream = HeartbeatStream::open(client).await;
    let mut ticks = interval(Duration::from_secs_f64(TTL / 3.0));
    loop {
        ticks.tick().await;
        assert_eq!(stream.beat(&[lease]).await.unwrap().0, [LeaseState::Held]);
    }
}

/// Reads a watch until its end, and panics if the instance is ever missing.
async fn assert_present(reader: &mut Reader, id: &str) {
    loop {
        reader.message().await.unwrap();
        assert!(reader.view.get("web", id).is_some(), "{id} is missing: {:?}", reader.view.set.keys());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn change_at_one_replica_is_seen_at_all() {
    let etcd = EtcdCluster::start(1).await;
    let [one, two, three] = replicas(&etcd).await;
    let clients = [one.client().await, two.client().await, three.client().await];
    let mut readers = Vec::new();
    for client in &clients {
        readers.push(Reader::synced(client, &["web"]).await);
    }
    register(&clients[0], "a").await;
    for reader in &mut readers {
        reader.until("the instance", |view| view.get("web", "a").is_some()).await;
    }
    let revisions: Vec<_> = readers.iter().map(|reader| reader.view.revision).collect();
    assert!(revisions.windows(2).all(|pair| pair[0] == pair[1]), "{revisions:?}");
    assert!(clients[2].deregister("web", "a", &Bytes::new()).await.unwrap().is_some());
    for reader in &mut readers {
        reader.until("its removal", |view| view.get("web", "a").is_none()).await;
    }
    for client in &clients {
        let events = client.events().await;
        assert_eq!(events.len(), 2, "{events:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn heartbeats_at_another_replica_keep_instance_of_killed_replica() {
    let etcd = EtcdCluster::start(1).await;
    let [one, two, three] = replicas(&etcd).await;
    let (first, second, third) = (one.client().await, two.client().await, three.client().await);
    let lease = register(&first, "a").await;
    let mut reader = Reader::synced(&third, &["web"]).await;
    one.kill().await;
    // The watch ends if a heartbeat is rejected or the instance is missing.
    let watched = async {
        tokio::select! {
            () = heartbeat(&second, &lease) => {}
            () = assert_present(&mut reader, "a") => {}
        }
    };
    assert!(timeout(MAX_ORPHAN_TIME, watched).await.is_err());
    let before = third.get("web", "a").await.unwrap();
    assert_eq!(before.status(), InstanceStatus::Serving);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn silent_instance_of_killed_replica_is_removed_in_time() {
    let etcd = EtcdCluster::start(1).await;
    let [one, two] = replicas(&etcd).await;
    let (first, second) = (one.client().await, two.client().await);
    for id in ["a", "b", "c", "d", "e"] {
        register(&first, id).await;
    }
    let mut reader = Reader::synced(&second, &["web"]).await;
    // The others send heartbeats, so that one silent instance is not too many.
    let kept = heartbeats_for(&second, &["b", "c", "d", "e"]);
    one.kill().await;
    let killed = wall();
    let removed = timeout(MAX_ORPHAN_TIME, async {
        while reader.view.get("web", "a").is_some() {
            reader.message().await.unwrap();
        }
    });
    tokio::select! {
        removed = removed => removed.unwrap(),
        () = kept => {}
    }
    let took = since(killed);
    assert!(took > Duration::from_secs(15), "removed after {took:?}, before a program could reach another replica");
    assert_eq!(reader.view.set.len(), 4);
}

/// Registers instances again at this replica, as their programs would, and sends heartbeats for as long as it is polled.
async fn heartbeats_for(client: &TestClient, ids: &[&str]) {
    let mut leases = Vec::new();
    for id in ids {
        leases.push(register(client, id).await);
    }
    let mut stream = HeartbeatStream::open(client).await;
    let mut ticks = interval(Duration::from_secs_f64(TTL / 3.0));
    loop {
        ticks.tick().await;
        stream.beat(&leases.iter().collect::<Vec<_>>()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn stopping_replica_hands_over_at_once() {
    let etcd = EtcdCluster::start(1).await;
    let [one, two] = replicas(&etcd).await;
    let (first, second) = (one.client().await, two.client().await);
    let lease = register(&first, "a").await;
    one.child.signal(Signal::TERM);
    assert_eq!(one.child.ended().await.code(), Some(0));
    let watched = timeout(Duration::from_secs(10), heartbeat(&second, &lease)).await;
    assert!(watched.is_err());
    assert!(second.get("web", "a").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn token_of_one_replica_resumes_on_another() {
    let etcd = EtcdCluster::start(1).await;
    let [one, two] = replicas(&etcd).await;
    let (first, second) = (one.client().await, two.client().await);
    register(&first, "a").await;
    let mut reader = Reader::synced(&first, &["web"]).await;
    reader.move_to(&second);
    for id in ["b", "c"] {
        register(&second, id).await;
    }
    reader.reopen().await.unwrap();
    reader.until("both others", |view| view.set.len() == 3).await;
    assert_eq!(reader.view.resets, 0);
    register(&second, "d").await;
    reader.until("the last", |view| view.set.len() == 4).await;
    reader.move_to(&first);
    reader.reopen().await.unwrap();
    register(&first, "e").await;
    reader.until("one more", |view| view.set.len() == 5).await;
    assert_eq!(reader.view.resets, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn of_two_boots_that_register_one_id_at_the_same_time_one_gets_it() {
    let etcd = EtcdCluster::start(1).await;
    let [one, two] = replicas(&etcd).await;
    let clients = [one.client().await, two.client().await];
    for number in 0..50 {
        let id = format!("i{number}");
        let boot = |name: &str| RegisterRequest { boot_id: name.into(), ..request(&id) };
        let (left, right) = tokio::join!(clients[0].register(boot("left")), clients[1].register(boot("right")));
        let codes: Vec<_> =
            [&left, &right].map(|result| result.as_ref().map_or_else(tonic::Status::code, |_| Code::Ok)).into();
        assert!(codes.contains(&Code::Ok) && codes.contains(&Code::AlreadyExists), "{id}: {codes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn while_etcd_is_away_reads_and_heartbeats_go_on_and_writes_fail_in_time() {
    let etcd = EtcdCluster::start(1).await;
    let [one, two] = replicas(&etcd).await;
    let (first, second) = (one.client().await, two.client().await);
    let lease = register(&first, "a").await;
    // It expires only if no lease expires after the first seconds.
    first.register(RegisterRequest { ttl: seconds(SILENT_TTL), ..request("silent") }).await.unwrap();
    let mut reader = Reader::synced(&second, &["web"]).await;
    let mut beats = HeartbeatStream::open(&first).await;
    etcd.pause(0);
    let began = wall();
    let mut degraded = false;
    while since(began) < Duration::from_secs(12) {
        let heartbeats = vec![Heartbeat { lease_id: lease.clone(), load: None }];
        let answer = match beats.ask(KeepAliveRequest { heartbeats }).await {
            Ok(answer) => answer,
            Err(ended) => {
                assert_eq!(ended.get_details_error_info().unwrap().reason, "REPLICA_DEGRADED");
                beats = HeartbeatStream::open(&first).await;
                continue;
            }
        };
        assert_eq!(answer.leases[0].state(), LeaseState::Held);
        degraded |= answer.notice() == Notice::Degraded;
        assert_eq!(first.list("web").await.len(), 2);
        sleep(Duration::from_millis(500)).await;
    }
    assert!(degraded, "heartbeats tell that the store is away");
    for client in [&first, &second] {
        let asked = wall();
        let refused = client.register(request("new")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        assert!(refused.get_details_retry_info().is_some());
        assert!(since(asked) < Duration::from_millis(2_800), "{:?}", since(asked));
    }
    let known = first.register(request("a")).await.unwrap();
    assert_eq!(known.lease_id, lease, "an identical registration is accepted");
    reader.reopen().await.unwrap();
    etcd.resume(0);
    // Both have a full TTL from the recovery on; then the silent one goes.
    let recovered = wall();
    let mut stream = beats;
    let removed = async {
        while reader.view.get("web", "silent").is_some() {
            reader.message().await.unwrap();
        }
    };
    let beating = async {
        loop {
            assert_eq!(stream.beat(&[&lease]).await.unwrap().0, [LeaseState::Held]);
            sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        removed = timeout(Duration::from_mins(1), removed) => removed.unwrap(),
        () = beating => {}
    }
    assert!(since(recovered) > Duration::from_secs_f64(SILENT_TTL), "{:?}", since(recovered));
    assert!(reader.view.get("web", "a").is_some());
    within("a registration", async { while first.register(request("new")).await.is_err() {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn replica_that_was_stopped_over_a_compaction_catches_up_without_a_reset() {
    let etcd = EtcdCluster::start(1).await;
    let [one, two] = replicas(&etcd).await;
    let (first, second) = (one.client().await, two.client().await);
    for id in ["a", "b", "c"] {
        register(&first, id).await;
    }
    let mut reader = Reader::synced(&second, &["web"]).await;
    two.child.signal(Signal::STOP);
    let changing = async {
        first.deregister("web", "a", &Bytes::new()).await.unwrap();
        for number in 0..20 {
            register(&first, &format!("n{number}")).await;
        }
        let client: EtcdClient = etcd.client();
        let newest = client.status().await.unwrap().revision;
        client.compact(newest).await.unwrap();
    };
    let mut kept = Box::pin(heartbeats_for(&first, &["b", "c"]));
    tokio::select! {
        () = changing => {}
        () = &mut kept => {}
    }
    // Longer than a watch waits for progress, so that the connection to etcd is new.
    let _ = timeout(Duration::from_secs(4), &mut kept).await;
    two.child.signal(Signal::CONT);
    let caught_up = reader.until("the changes", |view| view.get("web", "a").is_none() && view.set.len() == 22);
    tokio::select! {
        () = caught_up => {}
        () = &mut kept => {}
    }
    assert_eq!(reader.view.resets, 0);
    assert!(reader.view.get("web", "b").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn registry_survives_the_restart_of_all_replicas() {
    let etcd = EtcdCluster::start(1).await;
    let one = replica(&etcd).await;
    let client = one.client().await;
    let lease = register(&client, "a").await;
    let mut reader = Reader::synced(&client, &["web"]).await;
    one.kill().await;
    let again = replica(&etcd).await;
    let client = again.client().await;
    reader.move_to(&client);
    reader.reopen().await.unwrap();
    let watched = async {
        tokio::select! {
            () = heartbeat(&client, &lease) => {}
            () = assert_present(&mut reader, "a") => {}
        }
    };
    assert!(timeout(Duration::from_secs(8), watched).await.is_err());
    assert_eq!(reader.view.resets, 0);
}
