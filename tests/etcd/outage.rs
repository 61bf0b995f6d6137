//! A long outage of etcd, in which the heartbeats of many instances go to another replica.

use std::time::Duration;

use bytes::Bytes;
use callboard::pb::callboard::v1::{LeaseState, RegisterRequest};
use tokio::{
    task::JoinSet,
    time::{interval, timeout},
};

use super::replicas::replicas;
use crate::harness::{EtcdCluster, HeartbeatStream, Reader, TestClient, instance, metric_becomes, seconds, within};

const INSTANCES: usize = 2_000;
/// TTL of the instances.
const TTL: Duration = Duration::from_secs(8);
/// Number of leases in a message.
const LEASES: usize = 100;

/// Registers the instances, and returns their leases.
async fn register_all(client: &TestClient) -> Vec<Bytes> {
    let mut registering = JoinSet::new();
    for part in 0..INSTANCES / LEASES {
        let client = client.clone();
        registering.spawn(async move {
            let mut leases = Vec::new();
            for number in 0..LEASES {
                let request = RegisterRequest {
                    ttl: seconds(TTL.as_secs_f64()),
                    ..instance("web", &format!("i{part}-{number}"))
                };
                leases.push(client.register(request).await.unwrap().lease_id);
            }
            leases
        });
    }
    within("the registrations", registering.join_all()).await.concat()
}

/// Sends heartbeats for all leases at a third of the TTL for as long as it is polled, also when the replica ends the stream.
async fn heartbeat(client: &TestClient, leases: &[Bytes]) {
    let mut stream = HeartbeatStream::open(client).await;
    let mut ticks = interval(TTL / 3);
    loop {
        ticks.tick().await;
        for part in leases.chunks(LEASES) {
            let part: Vec<_> = part.iter().collect();
            let states = loop {
                match stream.beat(&part).await {
                    Ok((states, _)) => break states,
                    Err(_) => stream = HeartbeatStream::open(client).await,
                }
            };
            assert!(states.iter().all(|state| *state == LeaseState::Held), "{states:?}");
        }
    }
}

/// Reads a watch, also when the replica ends it, and asserts that no instance is ever missing.
async fn assert_complete(reader: &mut Reader) {
    loop {
        if reader.message().await.is_err() {
            reader.reopen().await.unwrap();
        }
        assert_eq!(reader.view.set.len(), INSTANCES);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn instances_whose_heartbeats_go_to_another_replica_in_an_outage_stay() {
    let etcd = EtcdCluster::start(1).await;
    let [one, two, three] = replicas(&etcd).await;
    let (first, second, third) = (one.client().await, two.client().await, three.client().await);
    let leases = register_all(&first).await;
    let mut reader = Reader::synced(&third, &["web"]).await;
    reader.until("all instances", |view| view.set.len() == INSTANCES).await;
    let watched = async {
        let is_confirmed = |wanted: bool| {
            metric_becomes(two.http, "callboard_etcd_session_confirmed", move |value| (value > 0.5) == wanted)
        };
        let moved = async {
            etcd.pause(0);
            tokio::select! {
                () = heartbeat(&first, &leases) => {}
                () = is_confirmed(false) => {}
            }
            // Longer than the TTL of the sessions.
            let _elapsed = timeout(Duration::from_secs(12), heartbeat(&second, &leases)).await;
            etcd.resume(0);
            let expired = async {
                is_confirmed(true).await;
                let _elapsed = timeout(TTL * 3, std::future::pending::<()>()).await;
            };
            tokio::select! {
                () = heartbeat(&second, &leases) => {}
                () = expired => {}
            }
        };
        tokio::select! {
            () = assert_complete(&mut reader) => {}
            () = moved => {}
        }
    };
    timeout(Duration::from_mins(2), watched).await.unwrap();
    let mut ids: Vec<_> = third.list("web").await.into_iter().map(|instance| instance.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), INSTANCES);
}
