//! Many clients of one registry: instances that stay all the time, and programs that watch them, as the Rust client does
//! both. Each event of a client is checked when it arrives.

use std::{collections::BTreeSet, ops::Range, sync::Arc, time::Duration};

use callboard::{
    client::{Endpoint, Registration, RegistrationEvent, Watch, WatchEvent},
    pb::callboard::v1::{RegisterRequest, WatchRequest},
};
use tokio::{
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::JoinSet,
    time::timeout,
};
use tonic::transport::Channel;

use crate::{
    harness::{Key, Wall, instance, key, wall},
    invariant::{
        fail_static::{ClientOutput, Program},
        live_stays::Kept,
    },
};

/// Number of instances and connections, and the TTL of an instance.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub services: usize,
    pub instances: usize,
    pub watches: usize,
    pub connections: usize,
    pub ttl: Duration,
}

/// Registrations and watches of one registry, with the reports of both.
#[derive(Debug)]
pub struct ClientFleet {
    size: Size,
    registrations: Vec<Registration>,
    registered: UnboundedReceiver<(usize, Wall)>,
    watches: JoinSet<()>,
    synced: UnboundedReceiver<(usize, Wall)>,
}

impl ClientFleet {
    /// Registers all instances, then opens all watches and waits until each has all instances of its service.
    pub async fn start(registry: &str, size: Size) -> Self {
        let endpoint: Endpoint = registry.parse().unwrap();
        let channels = |count: usize| (0..count).map(|_| endpoint.channel()).collect::<Vec<_>>();
        let (reports, registered) = mpsc::unbounded_channel();
        let register = |(number, channel): (usize, &Channel)| {
            let reports = reports.clone();
            Registration::start_on(channel, registration(number, size), move |event| {
                if let RegistrationEvent::Registered { .. } = event {
                    // The receiver is gone once the fleet shuts down.
                    let _ = reports.send((number, wall()));
                }
            })
        };
        let connections = channels(size.connections);
        let registrations = (0..size.instances).zip(connections.iter().cycle()).map(register);
        let registrations = registrations.collect::<Result<_, _>>().unwrap();
        let (reports, synced) = mpsc::unbounded_channel();
        let mut fleet = Self { size, registrations, registered, watches: JoinSet::new(), synced };
        range_of_reports(0, size.instances, &mut fleet.registered).await;
        let members: Vec<_> = (0..size.services).map(|service| Arc::new(members_of(service, size))).collect();
        let connections = channels(size.connections);
        for (number, channel) in (0..size.watches).zip(connections.iter().cycle()) {
            let members = &members[number % size.services];
            fleet.watches.spawn(watch(number, channel.clone(), Arc::clone(members), reports.clone()));
        }
        range_of_reports(0, size.watches, &mut fleet.synced).await;
        fleet
    }

    /// Waits until every instance has been registered since then, and every watch has been in sync since then. Returns the
    /// times of the first and last registration, and of the first and last watch in sync.
    pub async fn all_in_sync(&mut self, since: Wall) -> (Range<Wall>, Range<Wall>) {
        let back = range_of_reports(since, self.size.instances, &mut self.registered);
        let synced = range_of_reports(since, self.size.watches, &mut self.synced);
        tokio::select! {
            times = async { tokio::join!(back, synced) } => times,
            Some(ended) = self.watches.join_next() => panic!("a watch ended: {ended:?}"),
        }
    }

    /// Asserts that no client failed, and ends all of them.
    pub async fn shut_down(mut self) {
        assert_eq!(self.registrations.len(), self.size.instances);
        while let Some(ended) = self.watches.try_join_next() {
            ended.unwrap();
        }
        self.watches.shutdown().await;
    }
}

/// Waits until each of `count` clients has sent a report since then. Returns the times of the first and the last report.
async fn range_of_reports(since: Wall, count: usize, reports: &mut UnboundedReceiver<(usize, Wall)>) -> Range<Wall> {
    /// Ten thousand clients take longer than one.
    const PATIENCE: Duration = Duration::from_mins(3);
    let mut missing: BTreeSet<usize> = (0..count).collect();
    let (mut first, mut last) = (Wall::MAX, 0);
    while !missing.is_empty() {
        let came = timeout(PATIENCE, reports.recv()).await;
        let (number, at) =
            came.unwrap_or_else(|_| panic!("{} of {count} clients send no report", missing.len())).unwrap();
        if at >= since && missing.remove(&number) {
            (first, last) = (first.min(at), at);
        }
    }
    first..last
}

fn name(service: usize) -> String {
    format!("service-{service:03}")
}

fn registration(number: usize, size: Size) -> RegisterRequest {
    RegisterRequest {
        ttl: size.ttl.try_into().ok(),
        ..instance(&name(number % size.services), &format!("instance-{number:05}"))
    }
}

fn members_of(service: usize, size: Size) -> BTreeSet<Key> {
    let members = (service..size.instances).step_by(size.services);
    members
        .map(|number| registration(number, size))
        .map(|registration| key(&registration.service, &registration.id))
        .collect()
}

/// Watches one service until it is aborted, and reports each time that it is synced and has all instances. Panics when an
/// invariant is violated.
async fn watch(number: usize, channel: Channel, members: Arc<BTreeSet<Key>>, reports: UnboundedSender<(usize, Wall)>) {
    let services = members.first().map(|(service, _)| service.clone()).into_iter().collect();
    let mut watch = Watch::on(&channel, WatchRequest { services, ..WatchRequest::default() });
    let (mut program, mut kept) = (Program::default(), Kept::new(&members));
    // A watch that is synced and lacks an instance is in sync once that instance arrives.
    let mut lacking = false;
    loop {
        let event = match watch.next().await {
            Ok(event) => ClientOutput::Event(event),
            Err(error) => ClientOutput::GaveUp(error.to_string()),
        };
        program.apply(&event).unwrap_or_else(|breach| panic!("watch {number}: {breach}"));
        kept.serves(&program.served.set).unwrap_or_else(|breach| panic!("watch {number}: {breach}"));
        lacking |= matches!(&event, ClientOutput::Event(WatchEvent::Synced { .. }));
        if lacking && members.iter().all(|instance| program.served.set.contains_key(instance)) {
            lacking = false;
            reports.send((number, wall())).unwrap();
        }
    }
}
