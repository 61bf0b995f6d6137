//! Replicas whose etcd is emptied or restored from a backup while they run: they read it again in place.

use std::time::Duration;

use bytes::Bytes;
use callboard::pb::callboard::v1::LeaseState;
use tempfile::{NamedTempFile, TempDir};
use tokio::time::{interval, sleep, timeout};

use super::replicas::{TTL, register, replicas, request, since};
use crate::{
    harness::{EtcdCluster, HeartbeatStream, Reader, ServerProcess, TestClient, metric_becomes, wall},
    xds::ads_client::{AdsClient, Eds, StateOfTheWorld},
};

/// Maximum time from the restart of etcd until instances with heartbeats are back: the replicas find out, and the next heartbeat is
/// answered that the lease is unknown.
const MAX_RETURN: Duration = Duration::from_secs(10);

/// Sends heartbeats for an instance, and registers it again when its lease is lost, as a program does. Runs for as long as it is polled.
async fn keep_registered(client: &TestClient, id: &str, mut lease: Bytes) {
    let mut stream = HeartbeatStream::open(client).await;
    let mut ticks = interval(Duration::from_secs_f64(TTL / 3.0));
    loop {
        ticks.tick().await;
        let Ok((states, _)) = stream.beat(&[&lease]).await else {
            stream = HeartbeatStream::open(client).await;
            continue;
        };
        if states != [LeaseState::Held] {
            match client.register(request(id)).await {
                Ok(registered) => lease = registered.lease_id,
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }
}

/// Waits until both replicas list these instances.
async fn until_listed(clients: &[&TestClient], wanted: &[&str]) {
    loop {
        let mut complete = true;
        for client in clients {
            let mut ids: Vec<_> = client.list("web").await.into_iter().map(|instance| instance.id).collect();
            ids.sort();
            complete &= ids == wanted;
        }
        if complete {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Runs a test body while three instances are kept registered, two at the first replica.
async fn with_instances([one, two]: &[ServerProcess; 2], body: impl AsyncFnOnce([&TestClient; 2])) {
    let (first, second) = (one.client().await, two.client().await);
    let (a, b, c) = (register(&first, "a").await, register(&first, "b").await, register(&second, "c").await);
    let kept = async {
        tokio::join!(keep_registered(&first, "a", a), keep_registered(&first, "b", b), keep_registered(&second, "c", c))
    };
    tokio::select! {
        _ = kept => {}
        () = body([&first, &second]) => {}
    }
}

/// Waits until the replicas have read etcd again, and list these instances.
async fn until_returned(replicas: &[ServerProcess; 2], clients: &[&TestClient], wanted: &[&str]) {
    let from = wall();
    let returned = async {
        for replica in replicas {
            metric_becomes(replica.http, "callboard_etcd_resets_total", |resets| resets >= 1.0).await;
        }
        until_listed(clients, wanted).await;
    };
    timeout(MAX_RETURN, returned).await.unwrap();
    println!("returned after {:?}", since(from));
}

/// Reads until the snapshot after a reset, whose revision is higher. Until the reset nothing may be missing.
async fn assert_reset(reader: &mut Reader, wanted: &[&str]) {
    let (before, known) = (reader.view.revision, reader.view.set.len());
    let settled = async {
        while reader.view.resets == 0 {
            assert_eq!(reader.view.set.len(), known, "nothing changes before the reset");
            reader.message().await.unwrap();
        }
        while reader.view.revision <= before || reader.view.set.len() != wanted.len() {
            reader.message().await.unwrap();
        }
    };
    timeout(Duration::from_secs(40), settled).await.unwrap();
    for id in wanted {
        assert!(reader.view.get("web", id).is_some(), "{id} is missing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn instances_return_and_readers_start_over_after_etcd_was_wiped() {
    let mut etcd = EtcdCluster::start(1).await;
    let replicas = replicas(&etcd).await;
    Box::pin(with_instances(&replicas, async |clients: [&TestClient; 2]| {
        let mut readers = [Reader::synced(clients[0], &["web"]).await, Reader::synced(clients[1], &["web"]).await];
        for reader in &mut readers {
            reader.until("all", |view| view.set.len() == 3).await;
        }
        let mut xds = AdsClient::open(clients[1], StateOfTheWorld).await;
        xds.subscribe(Eds, &["web"]);
        let before = xds.accepted(Eds).await.addresses("web");
        assert!(!before.is_empty());
        etcd.wipe().await;
        until_returned(&replicas, &clients, &["a", "b", "c"]).await;
        for reader in &mut readers {
            assert_reset(reader, &["a", "b", "c"]).await;
        }
        // The client was sent nothing that has fewer endpoints.
        while let Ok(response) = timeout(Duration::from_secs(1), xds.message()).await {
            assert_eq!(response.unwrap().addresses("web"), before);
        }
        // The replicas agree on the incarnation: a token of one resumes on the other.
        let [mut moving, _] = readers;
        moving.move_to(clients[1]);
        moving.reopen().await.unwrap();
        register(clients[1], "d").await;
        moving.until("the next instance", |view| view.get("web", "d").is_some()).await;
        assert_eq!(moving.view.resets, 1);
    }))
    .await;
}

/// Backup of etcd.
enum Backup {
    /// Copy of the data.
    Copy(TempDir),
    /// Snapshot, which is restored with its revisions raised.
    Raised(NamedTempFile),
}

/// Runs replicas over a backup that is older than what they know.
async fn restore_under_replicas(is_raised: bool) {
    let mut etcd = EtcdCluster::start(1).await;
    let replicas = replicas(&etcd).await;
    let first = replicas[0].client().await;
    register(&first, "gone").await;
    let backup = if is_raised {
        let snapshot = NamedTempFile::new().unwrap();
        etcd.save_snapshot(snapshot.path()).await;
        Backup::Raised(snapshot)
    } else {
        let copy = etcd.back_up().await;
        etcd.restart(0).await;
        Backup::Copy(copy)
    };
    let deregistered = async { while first.deregister("web", "gone", &Bytes::new()).await.is_err() {} };
    timeout(MAX_RETURN, deregistered).await.unwrap();
    Box::pin(with_instances(&replicas, async |clients: [&TestClient; 2]| {
        let mut reader = Reader::synced(clients[1], &["web"]).await;
        reader.until("all", |view| view.set.len() == 3).await;
        match &backup {
            Backup::Copy(copy) => etcd.restore(copy).await,
            Backup::Raised(snapshot) => etcd.restore_raised(snapshot.path(), 1_000_000).await,
        }
        // The backup also has an instance that left since: it is back until its lease expires.
        until_returned(&replicas, &clients, &["a", "b", "c", "gone"]).await;
        assert_reset(&mut reader, &["a", "b", "c", "gone"]).await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn replicas_continue_with_an_old_backup() {
    restore_under_replicas(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn replicas_continue_with_an_old_backup_whose_revisions_were_raised() {
    restore_under_replicas(true).await;
}
