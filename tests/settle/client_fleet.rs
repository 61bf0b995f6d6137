//! Many clients of one registry: instances that stay all the time, and programs that watch them, as the Rust client does
//! both. What each program is told is checked as it comes.

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
        fail_static::{Program, Told},
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

/// All of them.
#[derive(Debug)]
pub struct ClientFleet {
    size: Size,
    registrations: Vec<Registration>,
    registered: UnboundedReceiver<(usize, Wall)>,
    watches: JoinSet<()>,
    synced: UnboundedReceiver<(usize, Wall)>,
}

impl ClientFleet {
    /// Registers all instances, then opens all watches and waits until each has them all.
    pub async fn gather(registry: &str, size: Size) -> Self {
        let endpoint: Endpoint = registry.parse().unwrap();
        let channels = |count: usize| (0..count).map(|_| endpoint.channel()).collect::<Vec<_>>();
        let (told, registered) = mpsc::unbounded_channel();
        let register = |(number, channel): (usize, &Channel)| {
            let told = told.clone();
            Registration::start_on(channel, member(number, size), move |event| {
                if let RegistrationEvent::Registered { .. } = event {
                    // Nobody listens any more once the crowd disperses.
                    let _ = told.send((number, wall()));
                }
            })
        };
        let connections = channels(size.connections);
        let registrations = (0..size.instances).zip(connections.iter().cycle()).map(register);
        let registrations = registrations.collect::<Result<_, _>>().unwrap();
        let (told, synced) = mpsc::unbounded_channel();
        let mut crowd = Self { size, registrations, registered, watches: JoinSet::new(), synced };
        all_since(0, size.instances, &mut crowd.registered).await;
        let living: Vec<_> = (0..size.services).map(|service| Arc::new(living(service, size))).collect();
        let connections = channels(size.connections);
        for (number, channel) in (0..size.watches).zip(connections.iter().cycle()) {
            let living = &living[number % size.services];
            crowd.watches.spawn(watch(number, channel.clone(), Arc::clone(living), told.clone()));
        }
        all_since(0, size.watches, &mut crowd.synced).await;
        crowd
    }

    /// Waits until every instance has been registered since then, and every watch has been in sync with all of them: from
    /// when to when was the one, and the other?
    pub async fn all_in_sync(&mut self, since: Wall) -> (Range<Wall>, Range<Wall>) {
        let back = all_since(since, self.size.instances, &mut self.registered);
        let synced = all_since(since, self.size.watches, &mut self.synced);
        tokio::select! {
            times = async { tokio::join!(back, synced) } => times,
            Some(ended) = self.watches.join_next() => panic!("a watch ended: {ended:?}"),
        }
    }

    /// Nothing was wrong up to the end.
    pub async fn disperse(mut self) {
        assert_eq!(self.registrations.len(), self.size.instances);
        while let Some(ended) = self.watches.try_join_next() {
            ended.unwrap();
        }
        self.watches.shutdown().await;
    }
}

/// Waits until each of so many has told something since then, and says from when to when that was.
async fn all_since(since: Wall, count: usize, told: &mut UnboundedReceiver<(usize, Wall)>) -> Range<Wall> {
    /// Ten thousand clients take longer than one.
    const PATIENCE: Duration = Duration::from_mins(3);
    let mut missing: BTreeSet<usize> = (0..count).collect();
    let (mut first, mut last) = (Wall::MAX, 0);
    while !missing.is_empty() {
        let came = timeout(PATIENCE, told.recv()).await;
        let (number, at) = came.unwrap_or_else(|_| panic!("{} of {count} tell nothing", missing.len())).unwrap();
        if at >= since && missing.remove(&number) {
            (first, last) = (first.min(at), at);
        }
    }
    first..last
}

fn name(service: usize) -> String {
    format!("service-{service:03}")
}

fn member(number: usize, size: Size) -> RegisterRequest {
    RegisterRequest {
        ttl: size.ttl.try_into().ok(),
        ..instance(&name(number % size.services), &format!("instance-{number:05}"))
    }
}

fn living(service: usize, size: Size) -> BTreeSet<Key> {
    let members = (service..size.instances).step_by(size.services);
    members.map(|number| member(number, size)).map(|member| key(&member.service, &member.id)).collect()
}

/// Watches one service for good, and tells each time that it is synced and knows all who live. Panics when something is
/// wrong.
async fn watch(number: usize, channel: Channel, living: Arc<BTreeSet<Key>>, told: UnboundedSender<(usize, Wall)>) {
    let services = living.first().map(|(service, _)| service.clone()).into_iter().collect();
    let mut watch = Watch::on(&channel, WatchRequest { services, ..WatchRequest::default() });
    let (mut program, mut kept) = (Program::default(), Kept::new(&living));
    // A watch that is synced and lacks somebody is in sync once that one has come.
    let mut lacking = false;
    loop {
        let event = match watch.next().await {
            Ok(event) => Told::Event(event),
            Err(error) => Told::GaveUp(error.to_string()),
        };
        program.hear(&event).unwrap_or_else(|breach| panic!("watch {number}: {breach}"));
        kept.serves(&program.served.set).unwrap_or_else(|breach| panic!("watch {number}: {breach}"));
        lacking |= matches!(&event, Told::Event(WatchEvent::Synced { .. }));
        if lacking && living.iter().all(|instance| program.served.set.contains_key(instance)) {
            lacking = false;
            told.send((number, wall())).unwrap();
        }
    }
}
