//! Faults of the network: a proxy between the Rust client and the registry delays, trickles, resets and half-closes connections.
//!
//! The events of the clients behind the proxy are verified by the history of a reader that does not use it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use callboard::{
    client::{Endpoint, Registration, RegistrationEvent, Watch, WatchEvent},
    pb::callboard::v1::{RegisterRequest, WatchRequest},
};
use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::{follow, last_renewal, wanted};
use crate::{
    harness::{
        Direction, Filter, Flow, Proxy, Random, Reader, Scope, Seed, Span, Stalls, StepLog, TestClient, TestServer,
        instance, seconds, wall, within,
    },
    invariant::{
        self, Held, InstanceLifetime, ReferenceHistory, Stop, dead_goes,
        fail_static::{self, ClientOutput},
        gapless, live_stays,
    },
};

/// Number of registrations behind the proxy, two in a service, so that self-preservation does not hold them.
const REGISTERED: usize = 6;
const WATCHES: usize = 4;
const TTL: Duration = Duration::from_secs(8);
/// Maximum length of an outage in milliseconds. A third of the TTL since the last heartbeat, the outage, and the client's longest delay
/// before it connects again, 2.5 s, are shorter than the TTL.
const MAX_OUTAGE_MS: u64 = 2_500;
/// Time between two outages in milliseconds, in which heartbeats arrive.
const CALM_MS: u64 = 2_500;
const SERVICES: [&str; 3] = ["web", "db", "mail"];

/// Fault of the network.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Flow(Direction, Flow),
    Reset,
    HalfClose(Direction),
    Refuse,
    /// This number of resets in short succession.
    Storm(u64),
}

impl Fault {
    fn any(random: &mut Random) -> Self {
        let directions = [Direction::Up, Direction::Down, Direction::Both];
        let direction = directions[usize::try_from(random.below(3)).unwrap()];
        match random.below(7) {
            0 => Self::Flow(direction, Flow::Held),
            1 => Self::Flow(direction, Flow::Trickle),
            2 => Self::Flow(direction, Flow::Late(random.millis(50, 400))),
            3 => Self::Reset,
            4 => Self::HalfClose(if direction == Direction::Up { Direction::Up } else { Direction::Down }),
            5 => Self::Refuse,
            _ => Self::Storm(5 + random.below(20)),
        }
    }

    async fn inject(self, proxy: &Proxy, lasts: Duration) {
        match self {
            Self::Flow(direction, flow) => proxy.flow(direction, flow),
            Self::Reset => proxy.reset(),
            Self::HalfClose(direction) => proxy.half_close(direction),
            Self::Refuse => {
                proxy.refuse(true);
                proxy.reset();
            }
            Self::Storm(resets) => {
                for _ in 0..resets {
                    proxy.reset();
                    sleep(lasts / u32::try_from(resets).unwrap()).await;
                }
                return;
            }
        }
        sleep(lasts).await;
        proxy.calm();
    }
}

/// Registration of the Rust client, with its events.
struct Registered {
    _registration: Registration,
    service: &'static str,
    id: String,
    from: u64,
    events: Arc<Mutex<Vec<RegistrationEvent>>>,
}

impl Registered {
    fn start(endpoint: &Endpoint, number: usize, ttl: Duration) -> Self {
        let (service, id) = (SERVICES[number % SERVICES.len()], format!("r{number}"));
        let boot_id = format!("boot-{number}");
        let request = RegisterRequest { ttl: seconds(ttl.as_secs_f64()), boot_id, ..instance(service, &id) };
        let events: Arc<Mutex<Vec<RegistrationEvent>>> = Arc::default();
        let (noted, from) = (Arc::clone(&events), wall());
        let registration = Registration::start(endpoint, request, move |event| noted.lock().unwrap().push(event));
        Self { _registration: registration.unwrap(), service, id, from, events }
    }

    /// Returns the revisions of its registrations that were new to the registry.
    fn registered(&self) -> Vec<u64> {
        let events = self.events.lock().unwrap();
        let registered = events.iter().filter_map(|event| match event {
            RegistrationEvent::Registered { revision, .. } => Some(*revision),
            _ => None,
        });
        registered.collect()
    }

    /// Returns a lifetime with heartbeats from the start until now.
    fn lifetime(&self) -> InstanceLifetime {
        let registered = self.registered();
        assert_eq!(registered.len(), 1, "{}: it never had to register again: {:?}", self.id, self.events);
        let (service, id) = (self.service.to_owned(), self.id.clone());
        let ttl = u64::try_from(TTL.as_millis()).unwrap();
        let renewals = vec![Span { from: self.from, to: self.from }, Span { from: wall(), to: wall() }];
        InstanceLifetime {
            service,
            id,
            ttl,
            grace: None,
            revision: registered[0],
            renewals,
            broke: None,
            stop: Stop::Silent,
        }
    }

    fn interruptions(&self) -> usize {
        let events = self.events.lock().unwrap();
        events.iter().filter(|event| matches!(event, RegistrationEvent::Interrupted { .. })).count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: just faults"]
async fn outage_shorter_than_the_ttl_removes_no_instance() {
    let (seed, steps) = (Seed::from_environment(), StepLog::default());
    let stalls = Stalls::of_this_machine();
    let server = TestServer::open();
    let proxy = Proxy::before(server.grpc()).await;
    let endpoint: Endpoint = proxy.address().to_string().parse().unwrap();
    let client = server.client().await;
    let mut everything = Reader::open(&client, "everything", Scope::Everything, Filter::NONE).await;
    let registered: Vec<_> = (0..REGISTERED).map(|number| Registered::start(&endpoint, number, TTL)).collect();
    everything.until("all there", |view| view.set.len() == REGISTERED).await;
    let (goal, goals) = watch::channel(None);
    let watches = watches(&endpoint, &goals);
    let writing = tokio::spawn(churn(server.client().await, seed.random(2), goals.clone()));
    let reading = tokio::spawn(follow(everything, goals));

    let (mut random, began) = (seed.random(1), wall());
    let faults = wanted("CALLBOARD_TEST_FAULTS", 10);
    for _ in 0..faults {
        let (fault, lasts) = (Fault::any(&mut random), random.millis(100, MAX_OUTAGE_MS));
        steps.note(format!("{fault:?} for {lasts:?}"));
        fault.inject(&proxy, lasts).await;
        sleep(Duration::from_millis(CALM_MS)).await;
    }
    let lifetimes: Vec<InstanceLifetime> = registered.iter().map(Registered::lifetime).collect();
    writing.abort();
    let _aborted = writing.await;
    let events = client.events().await;
    let newest = events.last().unwrap().revision;
    goal.send_replace(Some(newest));
    let everything = within("the reader beside the proxy", reading).await.unwrap();
    let reference = ReferenceHistory::gather(events, [&everything.record], []).unwrap();
    invariant::check_record(&everything.record, &reference).unwrap();
    live_stays::check(&lifetimes, &reference).unwrap();
    for outputs in within("all watches behind the proxy", watches.join_all()).await {
        fail_static::check(&outputs).unwrap();
        gapless::check_client(&outputs, &reference, Scope::names(&SERVICES)).unwrap();
        let resumed = outputs
            .iter()
            .filter(|output| matches!(output, ClientOutput::Event(WatchEvent::Reconnected { .. })))
            .count();
        println!("a watch returned {} events, and reconnected {resumed} times", outputs.len());
    }
    let interruptions: usize = registered.iter().map(Registered::interruptions).sum();
    println!("{faults} outages, {interruptions} interruptions of registrations, {} ms of stalls", stalls.since(began));
    assert!(interruptions > 0, "the network did nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes ten seconds: just faults"]
async fn instance_behind_a_longer_outage_expires_in_time_and_registers_again() {
    const TTL: u64 = 2_000;
    let stalls = Stalls::of_this_machine();
    let server = TestServer::open();
    let client = server.client().await;
    let mut everything = Reader::open(&client, "everything", Scope::Everything, Filter::NONE).await;
    let (mut proxies, mut registered) = (Vec::new(), Vec::new());
    for number in 0..SERVICES.len() {
        let proxy = Proxy::before(server.grpc()).await;
        let endpoint = proxy.address().to_string().parse().unwrap();
        registered.push(Registered::start(&endpoint, number, Duration::from_millis(TTL)));
        proxies.push(proxy);
    }
    everything.until("all there", |view| view.set.len() == SERVICES.len()).await;
    let mut from = Vec::new();
    for registered in &registered {
        from.push(last_renewal(&client, registered.service, &registered.id).await);
    }
    proxies[0].flow(Direction::Up, Flow::Held);
    proxies[1].flow(Direction::Both, Flow::Held);
    proxies[2].refuse(true);
    proxies[2].reset();
    let to = wall();
    everything.until("all gone", |view| view.set.is_empty()).await;
    let lifetimes: Vec<InstanceLifetime> = registered
        .iter()
        .zip(from)
        .map(|(registered, from)| {
            let renewals = vec![Span { from, to }];
            let (service, id) = (registered.service.to_owned(), registered.id.clone());
            let revision = registered.registered()[0];
            InstanceLifetime { service, id, ttl: TTL, grace: None, revision, renewals, broke: None, stop: Stop::Silent }
        })
        .collect();
    let reference = ReferenceHistory::gather(client.events().await, [&everything.record], []).unwrap();
    dead_goes::check(&lifetimes, &reference, &Held::default(), wall(), |from| stalls.since(from)).unwrap();
    dead_goes::check_received(&everything.record, &lifetimes, &reference, &Held::default(), |from| stalls.since(from))
        .unwrap();
    proxies.iter().for_each(Proxy::calm);
    everything.until("all back", |view| view.set.len() == SERVICES.len()).await;
    for registered in &registered {
        within("its second registration", async {
            while registered.registered().len() < 2 {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

/// Writes without the proxy, so that the clients behind it have changes to receive.
async fn churn(client: TestClient, mut random: Random, goal: watch::Receiver<Option<u64>>) {
    for number in 0.. {
        if goal.borrow().is_some() {
            return;
        }
        let (service, id) = (SERVICES[usize::try_from(random.below(2)).unwrap()], format!("c{}", random.below(5)));
        if random.one_in(3) {
            // The instance may not exist.
            let _ = client.deregister(service, &id, &bytes::Bytes::new()).await;
        } else {
            let tags = vec![format!("v{number}")];
            let request = RegisterRequest { tags, ttl: seconds(3_600.0), ..instance(service, &id) };
            client.register(request).await.unwrap();
        }
        sleep(random.millis(1, 40)).await;
    }
}

fn watches(endpoint: &Endpoint, goal: &watch::Receiver<Option<u64>>) -> JoinSet<Vec<ClientOutput>> {
    let mut watches = JoinSet::new();
    for _ in 0..WATCHES {
        let services = SERVICES.map(ToOwned::to_owned).to_vec();
        let watch = Watch::new(endpoint, WatchRequest { services, ..WatchRequest::default() });
        watches.spawn(listen(watch, goal.clone()));
    }
    watches
}

/// Collects the events of a watch up to the goal.
async fn listen(mut watch: Watch, mut goal: watch::Receiver<Option<u64>>) -> Vec<ClientOutput> {
    let (mut outputs, mut stands) = (Vec::new(), 0);
    while goal.borrow_and_update().is_none_or(|newest| stands < newest) {
        let event = tokio::select! {
            event = watch.next() => event.unwrap(),
            Ok(()) = goal.changed() => continue,
        };
        stands = fail_static::revision_after(&event).unwrap_or(stands);
        outputs.push(ClientOutput::Event(event));
    }
    outputs
}
