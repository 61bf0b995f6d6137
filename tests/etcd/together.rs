//! Replicas of one registry that do the same at the same time: expirations of one service, and writes while etcd is away.

use std::time::Duration;

use bytes::Bytes;
use callboard::pb::callboard::v1::{LeaseState, RegisterRequest};
use tokio::{
    task::JoinSet,
    time::{interval, sleep, timeout},
};
use tonic::Code;
use tonic_types::StatusExt;

use super::replicas::{TTL, register, replicas, request, since};
use crate::harness::{EtcdCluster, HeartbeatStream, Reader, TestClient, instance, seconds, wall};

/// Instances that each of three replicas holds, and those of them that fall silent: a sixth of all, and half of all together.
const HELD: usize = 10;
const SILENT: usize = 5;

/// Registers the instances of one replica. Returns their leases, those of the silent ones first.
async fn register_all(client: &TestClient, service: &str, replica: usize) -> Vec<Bytes> {
    let mut leases = Vec::new();
    for number in 0..HELD {
        let id = format!("r{replica}-{number}");
        let request = RegisterRequest { ttl: seconds(TTL), ..instance(service, &id) };
        leases.push(client.register(request).await.unwrap().lease_id);
    }
    leases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn replicas_together_expire_no_more_than_self_preservation_permits() {
    let etcd = EtcdCluster::start(1).await;
    let replicas = replicas::<3>(&etcd).await;
    let mut clients = Vec::new();
    for replica in &replicas {
        clients.push(replica.client().await);
    }
    for round in 0..4 {
        let service = format!("web{round}");
        let (mut leases, mut streams) = (Vec::new(), Vec::new());
        for (number, client) in clients.iter().enumerate() {
            leases.push(register_all(client, &service, number).await);
            streams.push(HeartbeatStream::open(client).await);
        }
        let mut reader = Reader::synced(&clients[0], &[&service]).await;
        reader.until("all instances", |view| view.set.len() == 3 * HELD).await;
        // All leases end at the same moment, if no further heartbeat arrives.
        for (stream, leases) in streams.iter_mut().zip(&leases) {
            stream.beat(&leases.iter().collect::<Vec<_>>()).await.unwrap();
        }
        let silent_from = wall();
        let beating = async {
            let mut ticks = interval(Duration::from_secs_f64(TTL / 4.0));
            loop {
                ticks.tick().await;
                for (stream, leases) in streams.iter_mut().zip(&leases) {
                    let (states, _) = stream.beat(&leases[SILENT..].iter().collect::<Vec<_>>()).await.unwrap();
                    assert!(states.iter().all(|state| *state == LeaseState::Held), "{states:?}");
                }
            }
        };
        // A fifth of the service within a TTL, whichever replica removes it.
        let permitted = 3 * HELD / 5;
        let watching = async {
            loop {
                let _ = timeout(Duration::from_millis(50), reader.message()).await;
                let removed = 3 * HELD - reader.view.set.len();
                assert!(removed <= permitted, "{service}: {removed} of {} were removed", 3 * HELD);
            }
        };
        let end = Duration::from_secs_f64(1.9 * TTL);
        tokio::select! {
            () = beating => {}
            () = watching => {}
            () = sleep(end) => {}
        }
        assert!(since(silent_from) >= end);
        assert!(reader.view.set.len() >= 3 * HELD - permitted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn identical_registration_is_accepted_while_many_new_ones_wait_for_etcd() {
    let etcd = EtcdCluster::start(1).await;
    let [one] = replicas(&etcd).await;
    let client = one.client().await;
    let lease = register(&client, "known").await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(one.client().await);
    }
    etcd.pause(0);
    let mut waiting = JoinSet::new();
    for number in 0..1_000 {
        let client = clients[number % clients.len()].clone();
        waiting.spawn(async move {
            let asked = wall();
            let refused = client.register(request(&format!("new{number}"))).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
            assert!(refused.get_details_retry_info().is_some(), "{refused:?}");
            since(asked)
        });
    }
    let known = async {
        // Behind all of them.
        sleep(Duration::from_millis(300)).await;
        let mut longest = Duration::ZERO;
        for _ in 0..5 {
            let asked = wall();
            assert_eq!(client.register(request("known")).await.unwrap().lease_id, lease);
            longest = longest.max(since(asked));
            sleep(Duration::from_millis(200)).await;
        }
        longest
    };
    let (refusals, longest) = tokio::join!(waiting.join_all(), known);
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    let slowest = refusals.iter().max().unwrap();
    // The replica answers within 2 s; a thousand calls of one client also wait for each other, most of all on a busy machine.
    assert!(*slowest < Duration::from_secs(4), "{slowest:?}");
}
