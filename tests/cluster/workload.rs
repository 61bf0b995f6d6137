//! Clients of a cluster: instances, writers and watchers, which run through all faults and keep records of what they saw.

use std::{sync::Arc, time::Duration};

use callboard::pb::callboard::v1::RegisterRequest;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    contender::Contender,
    heartbeat_client::HeartbeatClient,
    library,
    short_lived::ShortLived,
    test_cluster::{ReplicaAddresses, SIZE},
    ticker,
    watcher::{ClusterWatcher, Habit},
    work::{LIVE, Work, WorkPhase},
    writer::Writer,
    xds_watcher::XdsWatcher,
};
use crate::{
    harness::{Reader, Seed, Wall, address, instance, within},
    invariant::{InstanceLifetime, live_present::Disappearance, one_boot::Tenure},
};

/// TTL of instances that live through all faults.
pub const LIVE_TTL: Duration = Duration::from_secs(6);
/// Number of instances on raw heartbeat streams. Self-preservation of their service begins with a fifth of its instances.
const LIVE_INSTANCES: u8 = 9;
/// Number of instances of the Rust client.
const LIBRARY_INSTANCES: u8 = 2;
const WRITERS: u64 = 3;
/// Number of programs that compete for one id.
const BOOTS: u64 = 2;

/// All clients while they run.
#[derive(Debug)]
pub struct Workload {
    phase: watch::Sender<WorkPhase>,
    /// Revision that the watchers have to reach, once all writes are done.
    goal: watch::Sender<Option<u64>>,
    over: watch::Sender<bool>,
    live: Vec<JoinHandle<HeartbeatClient>>,
    library: Vec<JoinHandle<()>>,
    short_lived: JoinHandle<Vec<InstanceLifetime>>,
    ticking: JoinHandle<u64>,
    writers: Vec<JoinHandle<Writer>>,
    contenders: Vec<JoinHandle<Vec<Tenure>>>,
    watchers: Vec<JoinHandle<Reader>>,
    library_watcher: JoinHandle<library::LibraryWatch>,
    xds_watchers: Vec<JoinHandle<XdsWatcher>>,
}

/// Records of all clients.
#[derive(Debug)]
pub struct WorkRecords {
    /// Instances on raw heartbeat streams, which lived through all faults.
    pub live: Vec<InstanceLifetime>,
    /// Number of registrations of each of them.
    pub registrations: Vec<usize>,
    pub short_lived: Vec<InstanceLifetime>,
    /// Number of changes of the ticker.
    pub ticks: u64,
    pub writers: Vec<Writer>,
    pub tenures: Vec<Tenure>,
    pub readers: Vec<Reader>,
    pub library: library::LibraryWatch,
    /// Instances that each watcher lost, by the name of the watcher.
    pub lost: Vec<(String, Vec<Disappearance>)>,
}

impl Workload {
    /// Starts all clients, and waits until all watchers have all live instances.
    pub async fn start(replicas: &ReplicaAddresses, seed: &Seed) -> Self {
        let (phase, phases) = watch::channel(WorkPhase::Working);
        let (goal, goals) = watch::channel(None);
        let (over, is_over) = watch::channel(false);
        let work = || Work(phases.clone());
        let mut live = Vec::new();
        for number in 0..LIVE_INSTANCES {
            let (replica, random) = (number.into(), seed.random(u64::from(number)));
            let mut client = HeartbeatClient::new(replicas, replica, live_request(number), LIVE_TTL, random);
            Box::pin(within("a registration", client.register())).await;
            live.push(tokio::spawn(live_until(client, is_over.clone())));
        }
        let library = (LIVE_INSTANCES..LIVE_INSTANCES + LIBRARY_INSTANCES)
            .map(|number| tokio::spawn(library::register(replicas.servers(), live_request(number), is_over.clone())))
            .collect();
        let ids: Arc<[String]> = (0..LIVE_INSTANCES + LIBRARY_INSTANCES).map(live_id).collect();
        let (ready, mut readiness) = watch::channel(0);
        let ready = Arc::new(ready);
        let habits = [Habit::Stays, Habit::Stays, Habit::Stays, Habit::Moves];
        let watchers: Vec<_> = (0..)
            .zip(habits)
            .map(|(number, habit)| {
                let watcher = ClusterWatcher::new(replicas, number, habit, seed.random(100 + number as u64), &ids);
                tokio::spawn(watcher.run(goals.clone(), Arc::clone(&ready)))
            })
            .collect();
        let xds_watchers: Vec<_> = (0..SIZE)
            .map(|number| {
                tokio::spawn(XdsWatcher::new(replicas, number, &ids).run(is_over.clone(), Arc::clone(&ready)))
            })
            .collect();
        let library_watcher = tokio::spawn(library::watch(replicas.servers(), is_over.clone()));
        let all = watchers.len() + xds_watchers.len();
        within("all instances at all watchers", readiness.wait_for(|ready| *ready == all)).await.unwrap();
        let writers = (0..WRITERS)
            .map(|number| tokio::spawn(Writer::new(replicas, number, seed.random(200 + number)).run(work())))
            .collect();
        let contenders = (0..BOOTS)
            .map(|number| tokio::spawn(Contender::new(replicas, number, seed.random(300 + number)).run(work())))
            .collect();
        Self {
            live,
            library,
            short_lived: tokio::spawn(ShortLived::new(replicas, seed.random(400)).run(work())),
            ticking: tokio::spawn(ticker::run(replicas.clone(), seed.random(500), work())),
            writers,
            contenders,
            watchers,
            library_watcher,
            xds_watchers,
            phase,
            goal,
            over,
        }
    }

    /// Pauses the writes of all clients, or continues them.
    pub fn pause(&self, paused: bool) {
        self.phase.send_replace(if paused { WorkPhase::Paused } else { WorkPhase::Working });
    }

    /// Ends all writes. Silent instances may still be registered.
    pub fn end_writes(&self) {
        self.phase.send_replace(WorkPhase::Over);
    }

    /// Ids of the instances that are there all the time.
    pub fn live_ids() -> impl Iterator<Item = String> {
        (0..LIVE_INSTANCES + LIBRARY_INSTANCES).map(live_id)
    }

    /// Panics if a client has failed.
    pub fn assert_running(&self) {
        let mut names =
            vec![("short-lived instances", self.short_lived.is_finished()), ("ticker", self.ticking.is_finished())];
        names.extend(self.live.iter().map(|task| ("live instance", task.is_finished())));
        names.extend(self.writers.iter().map(|task| ("writer", task.is_finished())));
        names.extend(self.contenders.iter().map(|task| ("contender", task.is_finished())));
        names.extend(self.watchers.iter().map(|task| ("watcher", task.is_finished())));
        names.extend(self.xds_watchers.iter().map(|task| ("xDS watcher", task.is_finished())));
        let failed: Vec<_> = names.iter().filter(|(_, is_finished)| *is_finished).map(|(name, _)| name).collect();
        assert!(failed.is_empty(), "failed clients, see above: {failed:?}");
    }

    /// Returns the records, once all watchers have reached this revision. All writes have ended before.
    pub async fn finish(self, newest: u64) -> WorkRecords {
        self.goal.send_replace(Some(newest));
        let readers = join(self.watchers).await;
        self.over.send_replace(true);
        let (live, xds) = (join(self.live).await, join(self.xds_watchers).await);
        let library = within("the watch of the Rust client", self.library_watcher).await.unwrap();
        join(self.library).await;
        let mut lost: Vec<_> = readers.iter().map(|reader| (reader.record.reader.clone(), lost_by(reader))).collect();
        lost.push(("the Rust client".to_owned(), library.lost.clone()));
        lost.extend(xds.into_iter().map(|watcher| (watcher.name, watcher.lost)));
        WorkRecords {
            registrations: live.iter().map(|client| client.registrations).collect(),
            live: live.into_iter().map(|client| client.lifetime).collect(),
            short_lived: within("short-lived instances", self.short_lived).await.unwrap(),
            ticks: within("the ticker", self.ticking).await.unwrap(),
            writers: join(self.writers).await,
            tenures: join(self.contenders).await.concat(),
            readers,
            library,
            lost,
        }
    }
}

async fn join<T>(tasks: Vec<JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::new();
    for task in tasks {
        results.push(within("the end of a client", task).await.unwrap());
    }
    results
}

/// Sends heartbeats until the end of the test.
async fn live_until(mut client: HeartbeatClient, mut over: watch::Receiver<bool>) -> HeartbeatClient {
    let end = tokio::select! {
        biased;
        _ = over.wait_for(|over| *over) => None,
        end = client.keep() => Some(end),
    };
    let id = &client.lifetime.id;
    assert!(end.is_none(), "{id} lost its lease although no other boot and no operator was there: {end:?}");
    client
}

fn live_id(number: u8) -> String {
    format!("i{number}")
}

/// Request of an instance that xDS clients recognize by its address.
fn live_request(number: u8) -> RegisterRequest {
    RegisterRequest { addresses: vec![address(&format!("10.1.0.{number}"), 80)], ..instance(LIVE, &live_id(number)) }
}

/// Instances that a watch lost from one complete state to the next.
fn lost_by(reader: &Reader) -> Vec<Disappearance> {
    use crate::harness::{View, What};
    let (mut view, mut known, mut lost) = (View::default(), std::collections::BTreeSet::new(), Vec::new());
    for observation in &reader.record.observations {
        match &observation.what {
            What::Opened { .. } => view.open(),
            What::Message(message) if view.receive(message) => {
                let set: std::collections::BTreeSet<_> = view.set.keys().cloned().collect();
                let at = observation.at;
                lost.extend(known.difference(&set).cloned().map(|instance| Disappearance { at, instance }));
                known = set;
            }
            What::Message(_) | What::Ended(_) => {}
        }
    }
    lost
}

/// Time of the first disappearance of each instance.
pub fn first_lost(lost: &[(String, Vec<Disappearance>)]) -> std::collections::HashMap<crate::harness::Key, Wall> {
    let mut first = std::collections::HashMap::new();
    for Disappearance { at, instance } in lost.iter().flat_map(|(_, lost)| lost) {
        let earliest = first.entry(instance.clone()).or_insert(*at);
        *earliest = (*earliest).min(*at);
    }
    first
}
