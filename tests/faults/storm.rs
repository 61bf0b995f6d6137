//! 20,000 instances lose the registry and register again at the same time.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use callboard::pb::callboard::v1::LeaseState;
use tokio::{sync::watch, task::JoinSet, time::sleep};

use crate::{
    harness::{
        Filter, HeartbeatStream, Reader, Scope, ServerProcess, TestClient, instance, key, steady_port, wall, within,
    },
    invariant::converges::{self, Shown},
};

const CONNECTIONS: usize = 20;
const EACH: usize = 1_000;
/// Maximum number of concurrent registrations on a connection.
const MAX_CONCURRENT: usize = 25;
const BYSTANDERS: usize = 10;
/// A third of the default TTL.
const BEAT: Duration = Duration::from_secs(5);
/// The second storm may leave more in memory than the first fill by this factor, and by as much for what allocators keep.
const MEMORY: (u64, u64) = (2, 64 * 1_024);

/// A client with many instances.
struct LeaseHolder {
    server: SocketAddr,
    service: String,
    leases: Vec<Bytes>,
    registered: Arc<AtomicU64>,
    /// The longest that a heartbeat of all leases took, in milliseconds.
    slowest: u64,
}

impl LeaseHolder {
    /// Until it is over: registers whatever is not known, and sends heartbeats.
    async fn hold(mut self, mut over: watch::Receiver<bool>) -> Self {
        while !*over.borrow_and_update() {
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.server)).unwrap();
            let session = self.session(TestClient::over(endpoint.connect_lazy()));
            tokio::select! {
                () = session => sleep(Duration::from_millis(50)).await,
                Ok(()) = over.changed() => {}
            }
        }
        self
    }

    /// Until the connection is lost.
    async fn session(&mut self, client: TestClient) {
        let Ok(mut heartbeats) = HeartbeatStream::try_open(&client).await else { return };
        loop {
            let leases: Vec<&Bytes> = self.leases.iter().collect();
            let from = wall();
            let Ok((states, _)) = heartbeats.beat(&leases).await else { return };
            self.slowest = self.slowest.max(wall() - from);
            let unknown = states.iter().enumerate().filter(|(_, state)| **state != LeaseState::Held);
            let unknown: Vec<usize> = unknown.map(|(at, _)| at).collect();
            if unknown.is_empty() {
                sleep(BEAT).await;
            } else if !self.register(&client, unknown).await {
                return;
            }
        }
    }

    async fn register(&mut self, client: &TestClient, places: Vec<usize>) -> bool {
        let mut registering = JoinSet::new();
        for some in places.chunks(places.len().div_ceil(MAX_CONCURRENT)) {
            let (client, service, some) = (client.clone(), self.service.clone(), some.to_vec());
            registering.spawn(async move {
                let mut leases = Vec::new();
                for at in some {
                    leases.push((at, client.register(instance(&service, &format!("i{at}"))).await?.lease_id));
                }
                Ok::<_, tonic::Status>(leases)
            });
        }
        while let Some(registered) = registering.join_next().await {
            let Ok(registered) = registered.unwrap() else { return false };
            self.registered.fetch_add(registered.len() as u64, Ordering::Relaxed);
            for (at, lease) in registered {
                self.leases[at] = lease;
            }
        }
        true
    }
}

async fn complete(serve: &ServerProcess, all: usize) -> Reader {
    let mut fresh = Reader::open(&serve.client().await, "fresh", Scope::Everything, Filter::NONE).await;
    fresh.until("all there", |view| view.set.len() == all).await;
    fresh
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute: just faults"]
async fn all_instances_register_again_at_the_same_time_without_loss() {
    let address = format!("127.0.0.1:{}", steady_port());
    let serve = ServerProcess::ready(ServerProcess::begin(&address, &[])).await;
    let (server, (over, is_over)) = (serve.grpc, watch::channel(false));
    let registered = Arc::new(AtomicU64::new(0));
    let mut holders = JoinSet::new();
    for number in 0..=CONNECTIONS {
        // The last connection holds the instances that are registered first.
        let (service, count) =
            if number == CONNECTIONS { ("by".to_owned(), BYSTANDERS) } else { (format!("s{number}"), EACH) };
        let leases = (0..count).map(|_| Bytes::from_static(&[0; 16])).collect();
        let holder = LeaseHolder { server, service, leases, registered: Arc::clone(&registered), slowest: 0 };
        holders.spawn(holder.hold(is_over.clone()));
    }
    let all = CONNECTIONS * EACH + BYSTANDERS;
    let before = complete(&serve, all).await;
    let filled = serve.resident();
    let mut watching = Reader::open(&serve.client().await, "watches on", Scope::Everything, Filter::NONE).await;
    watching.until("all there", |view| view.set.len() == all).await;

    let from = wall();
    serve.child.kill().await;
    let serve = ServerProcess::ready(ServerProcess::begin(&address, &[])).await;
    let began = wall();
    watching.move_to(&serve.client().await);
    watching.reopen().await.unwrap();
    let after = complete(&serve, all).await;
    let took = wall() - began;
    watching.until("a reset, and all instances", |view| view.resets > 0 && view.set.len() == all).await;
    let weathered = serve.resident();
    // One more round of heartbeats.
    sleep(BEAT).await;
    over.send_replace(true);
    let holders = within("all holders", holders.join_all()).await;
    let slowest =
        holders.iter().map(|holder| (holder.leases.len(), holder.slowest)).max_by_key(|(_, slowest)| *slowest);
    println!(
        "{all} instances back {took} ms after the registry was ({} ms after it was gone); {filled} KiB, then {weathered} KiB; \
         slowest heartbeat (leases, ms): {slowest:?}",
        began - from + took
    );
    let shown = [&before, &after, &watching].map(|reader| Shown {
        origin: format!("Watch by \"{}\"", reader.record.reader),
        set: reader.view.set.keys().cloned().collect(),
        should: before.view.set.keys().cloned().collect(),
    });
    converges::check(&shown).unwrap();
    assert!(before.view.set.contains_key(&key("by", "i0")));
    assert_eq!(registered.load(Ordering::Relaxed), 2 * all as u64, "no instance registered a third time");
    assert!(weathered <= MEMORY.0 * filled + MEMORY.1, "{filled} KiB before, {weathered} KiB after");
}
