//! Another boot of an instance at a replica that does not hold the lease of the old one.

use std::time::Duration;

use bytes::Bytes;
use callboard::pb::callboard::v1::{LeaseState, RegisterRequest, RegisterResponse};
use tokio::time::{interval, timeout};
use tonic::{Code, Status};

use super::replicas::{replica, since};
use crate::harness::{EtcdCluster, HeartbeatStream, TestClient, instance, seconds, wall, within};

/// TTL of the instances in seconds. A test that waits for an expiry would fail.
const TTL: f64 = 300.0;
/// TTL of the instance of a killed replica.
const SHORT_TTL: f64 = 30.0;
/// Number of tries.
const TRIES: usize = 50;

fn boot(id: &str, boot: &str) -> RegisterRequest {
    RegisterRequest { boot_id: boot.to_owned(), ttl: seconds(TTL), ..instance("web", id) }
}

/// Registers an instance, and sends its first heartbeat.
async fn start(client: &TestClient, id: &str) -> (HeartbeatStream, Bytes) {
    let lease = client.register(boot(id, "old")).await.unwrap().lease_id;
    let mut stream = HeartbeatStream::open(client).await;
    assert_eq!(stream.beat(&[&lease]).await.unwrap().0, [LeaseState::Held]);
    (stream, lease)
}

async fn state(client: &TestClient, lease: &Bytes) -> LeaseState {
    HeartbeatStream::open(client).await.beat(&[lease]).await.unwrap().0[0]
}

fn is_taken(result: &Result<RegisterResponse, Status>) -> bool {
    match result {
        Ok(_) => false,
        Err(status) => {
            assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
            true
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn new_boot_at_another_replica_takes_over_once_the_old_stream_is_broken() {
    let etcd = EtcdCluster::start(1).await;
    let (one, two) = (replica(&etcd).await, replica(&etcd).await);
    let (first, second) = (one.client().await, two.client().await);
    for number in 0..10 {
        let id = format!("i{number}");
        let (stream, lease) = start(&first, &id).await;
        within("the instance", async { while second.get("web", &id).await.is_none() {} }).await;
        let began = wall();
        // The registration may arrive before the end of the stream.
        drop(stream);
        let registered = second.register(boot(&id, "new")).await.unwrap();
        assert!(since(began) < Duration::from_millis(1_500), "{:?}", since(began));
        for client in [&first, &second] {
            within("the end of the old boot", async { while state(client, &lease).await != LeaseState::Superseded {} })
                .await;
            assert_eq!(state(client, &registered.lease_id).await, LeaseState::Held);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn boot_whose_stream_is_open_keeps_its_instance() {
    let etcd = EtcdCluster::start(1).await;
    let (one, two) = (replica(&etcd).await, replica(&etcd).await);
    let (first, second) = (one.client().await, two.client().await);
    let mut streams = Vec::new();
    for number in 0..TRIES {
        streams.push(start(&first, &format!("i{number}")).await);
    }
    within("the instances", async { while second.list("web").await.len() < TRIES {} }).await;
    let attempts = (0..TRIES).map(|number| {
        let second = second.clone();
        tokio::spawn(async move { second.register(boot(&format!("i{number}"), "new")).await })
    });
    let began = wall();
    for attempt in attempts.collect::<Vec<_>>() {
        assert!(is_taken(&attempt.await.unwrap()));
    }
    assert!(since(began) < Duration::from_secs(2), "{:?}", since(began));
    for (stream, lease) in &mut streams {
        assert_eq!(stream.beat(&[lease]).await.unwrap().0, [LeaseState::Held]);
    }
    // A program that does not give up costs etcd at most one request in two seconds.
    let before = etcd.status(0).await.revision;
    let mut attempts = 0;
    let attempting = async {
        loop {
            assert!(is_taken(&second.register(boot("i0", "new")).await));
            attempts += 1;
        }
    };
    assert!(timeout(Duration::from_secs(6), attempting).await.is_err());
    let written = etcd.status(0).await.revision - before;
    assert!(attempts > 20 && written <= 4, "{written} writes for {attempts} registrations");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn of_a_new_boot_and_an_old_one_that_reconnects_elsewhere_one_holds_the_instance() {
    let etcd = EtcdCluster::start(1).await;
    let (one, two, three) = (replica(&etcd).await, replica(&etcd).await, replica(&etcd).await);
    let (first, second, third) = (one.client().await, two.client().await, three.client().await);
    let mut taken_over = 0;
    for number in 0..TRIES {
        let id = format!("i{number}");
        let (stream, lease) = start(&first, &id).await;
        for client in [&second, &third] {
            within("the instance", async { while client.get("web", &id).await.is_none() {} }).await;
        }
        drop(stream);
        let old = async {
            // Two to three heartbeats while the other boot registers.
            let mut ticks = interval(Duration::from_millis(20 * (number as u64 % 3) + 1));
            let mut stream = HeartbeatStream::open(&third).await;
            for _ in 0..3 {
                ticks.tick().await;
                stream.beat(&[&lease]).await.unwrap();
            }
            stream
        };
        let (mut old_stream, new) = tokio::join!(old, second.register(boot(&id, "new")));
        let expected = if is_taken(&new) { LeaseState::Held } else { LeaseState::Superseded };
        taken_over += usize::from(new.is_ok());
        within("one holder", async { while old_stream.beat(&[&lease]).await.unwrap().0 != [expected] {} }).await;
        let others = [&first, &second, &third].map(|client| {
            let new = new.as_ref().ok().map(|registered| registered.lease_id.clone());
            async move {
                if let Some(new) = new {
                    within("the new boot", async { while state(client, &new).await != LeaseState::Held {} }).await;
                }
            }
        });
        for other in others {
            other.await;
        }
    }
    println!("{taken_over} of {TRIES} were taken over");
    assert_eq!(second.list("web").await.len(), TRIES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn new_boot_takes_over_from_a_killed_replica_before_the_lease_expires() {
    let etcd = EtcdCluster::start(1).await;
    let (one, two) = (replica(&etcd).await, replica(&etcd).await);
    let (first, second) = (one.client().await, two.client().await);
    first.register(RegisterRequest { ttl: seconds(SHORT_TTL), ..boot("a", "old") }).await.unwrap();
    within("the instance", async { while second.get("web", "a").await.is_none() {} }).await;
    one.kill().await;
    let killed = wall();
    // Ten seconds until the session ends, and half of the TTL without a heartbeat.
    let limit = Duration::from_secs(10 + 15 + 5);
    let mut ticks = interval(Duration::from_millis(250));
    while is_taken(&second.register(boot("a", "new")).await) {
        assert!(since(killed) < limit, "{:?}", since(killed));
        ticks.tick().await;
    }
    assert!(since(killed) > Duration::from_secs(15), "{:?}", since(killed));
}
