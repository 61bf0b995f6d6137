//! Rolling restart of a service with many clients in several zones: what preference for the client's zone costs while the numbers of the
//! zones change.
//!
//! The instances restart in batches, as an orchestrator does it: those of a batch drain, deregister and register again with a new boot
//! and another port. In the end each client must have the assignment that a new client of its zone gets.

use std::{
    cell::{Cell, RefCell},
    hash::{DefaultHasher, Hasher},
    rc::Rc,
    time::Duration,
};

use anyhow::{Error, Result, anyhow, bail, ensure};
use bytes::Bytes;
use callboard::pb::{
    callboard::v1::{
        self as pb, DeregisterRequest, UpdateInstanceRequest, registry_service_client::RegistryServiceClient,
    },
    envoy::config::{
        core::v3::{HealthStatus, SocketAddress, address, socket_address::PortSpecifier},
        endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier},
    },
};
use prost::Message;
use prost_types::{Any, FieldMask};
use serde_json::json;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tonic::transport::Channel;

use super::{
    Outcome,
    ads::{ASSIGNMENT, AdsStream, StateOfTheWorld},
    connect_clients, count,
    policies::{node_in, set_policy},
};
use crate::{
    client::{connect, instance, service_name},
    processes::Server,
};

const CLIENTS: usize = 1_000;
const INSTANCES: usize = 500;
const ZONES: usize = 5;
/// Number of instances that restart at the same time.
const BATCH: usize = 25;
/// Number of instances of a batch that take a step together, because no two programs take the same time for it.
const GROUP: usize = 5;
/// Interval between two groups.
const INTERVAL: Duration = Duration::from_millis(100);
/// Changes of an instance.
const RESTART: [RestartStep; 3] = [RestartStep::Drain, RestartStep::Deregister, RestartStep::Register(1)];
/// Interval between two comparisons of the clients with new clients in the end, and the number after which they must be equal.
const COMPARISON_INTERVAL: Duration = Duration::from_millis(200);
const MAX_COMPARISONS: usize = 50;

/// Policy of the service, and the order in which its instances restart.
#[derive(Debug, Clone, Copy)]
pub struct RollingRestart {
    /// Preference for the client's zone.
    zone: &'static str,
    order: RestartOrder,
}

/// Order in which instances restart.
#[derive(Debug, Clone, Copy)]
enum RestartOrder {
    /// A batch has equally many instances of each zone.
    Spread,
    /// All of a zone before those of the next: its clients call other zones in the meantime.
    ByZone,
}

/// Rows of the table.
pub const ROWS: [(&str, RollingRestart); 4] = [
    ("xds_restart_off", RollingRestart { zone: "off", order: RestartOrder::Spread }),
    ("xds_restart_prefer", RollingRestart { zone: "prefer", order: RestartOrder::Spread }),
    ("xds_restart_by_zone_off", RollingRestart { zone: "off", order: RestartOrder::ByZone }),
    ("xds_restart_by_zone_prefer", RollingRestart { zone: "prefer", order: RestartOrder::ByZone }),
];

/// State of a client.
#[derive(Debug, Default)]
struct ClientState {
    /// Hash of its assignment.
    assignment: Cell<u64>,
    /// Its assignments are decoded, which is not measured: it takes time of the clients only.
    is_decoded: bool,
    /// Addresses and health of its endpoints.
    endpoints: RefCell<Vec<(String, u32, i32)>>,
    /// Number of responses with the same endpoints as the one before: only their weights and priorities have changed.
    layout_responses: Cell<usize>,
}

/// Responses that all clients have received.
#[derive(Debug, Default)]
struct Received {
    ready: Cell<usize>,
    responses: Cell<usize>,
    bytes: Cell<usize>,
    changed: Notify,
}

/// Clients of the service, spread over the zones.
#[derive(Debug)]
struct Fleet {
    clients: Vec<Rc<ClientState>>,
    received: Rc<Received>,
    tasks: JoinSet<Result<()>>,
}

/// Change of an instance.
#[derive(Debug, Clone, Copy)]
enum RestartStep {
    Drain,
    Deregister,
    /// Registers a boot, whose port is the first one plus this number.
    Register(u32),
}

impl RollingRestart {
    /// Restarts all instances, and measures the server in the meantime.
    pub async fn run(self) -> Result<Outcome> {
        let server = Server::callboard_pinned()?;
        let mut service = RestartedService::register(connect(server.address, 1).await?.remove(0)).await?;
        set_policy(&service.channel, &json!({ "zone": self.zone })).await?;
        let mut fleet = Fleet::open(&server).await?;
        let (memory, cpu) = (server.memory().await?, server.cpu()?);
        let (responses, bytes) = (fleet.received.responses.get(), fleet.received.bytes.get());
        tokio::select! {
            done = service.restart(self.order) => done?,
            error = fleet.failure() => return Err(error),
        }
        fleet.await_assignments_of_new_clients(&service.channel, self.zone == "prefer").await?;
        let cpu = server.cpu()?.saturating_sub(cpu).as_secs_f64();
        let responses = count(fleet.received.responses.get() - responses);
        let bytes = count(fleet.received.bytes.get() - bytes);
        #[expect(clippy::cast_precision_loss, reason = "bytes of a process")]
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        Ok(vec![
            ("responses", "", responses),
            ("responses_per_client", "", responses / count(CLIENTS)),
            ("layout_responses", "", fleet.layout_responses()),
            ("megabytes", "MB", bytes / 1e6),
            ("cpu", "s", cpu),
            ("cpu_per_change", "µs", cpu * 1e6 / count(INSTANCES * RESTART.len())),
            ("cpu_per_response", "µs", cpu * 1e6 / responses),
            ("memory_before", "MB", megabytes(memory)),
            ("memory_after", "MB", megabytes(server.memory().await?)),
            ("memory_peak", "MB", megabytes(server.peak_memory()?)),
        ])
    }
}

/// Service that restarts.
#[derive(Debug)]
struct RestartedService {
    channel: Channel,
    /// Leases of the instances, by their number.
    leases: Vec<Bytes>,
}

impl RestartedService {
    /// Registers the instances.
    async fn register(channel: Channel) -> Result<Self> {
        let mut service = Self { channel, leases: vec![Bytes::new(); INSTANCES] };
        let numbers: Vec<_> = (0..INSTANCES).collect();
        for batch in numbers.chunks(BATCH) {
            service.take(RestartStep::Register(0), batch).await?;
        }
        Ok(service)
    }

    /// Restarts the instances batch by batch.
    async fn restart(&mut self, order: RestartOrder) -> Result<()> {
        let mut numbers: Vec<_> = (0..INSTANCES).collect();
        match order {
            RestartOrder::Spread => {}
            RestartOrder::ByZone => numbers.sort_by_key(|number| number % ZONES),
        }
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for batch in numbers.chunks(BATCH) {
            for step in RESTART {
                for group in batch.chunks(GROUP) {
                    ticks.tick().await;
                    self.take(step, group).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes a step with these instances, all at once.
    async fn take(&mut self, step: RestartStep, numbers: &[usize]) -> Result<()> {
        let mut tasks = JoinSet::new();
        for number in numbers.iter().copied() {
            let (client, lease) = (RegistryServiceClient::new(self.channel.clone()), self.leases[number].clone());
            tasks.spawn(async move { anyhow::Ok((number, step.take(client, number, lease).await?)) });
        }
        while let Some(done) = tasks.join_next().await {
            let (number, lease) = done??;
            self.leases[number] = lease;
        }
        Ok(())
    }
}

impl RestartStep {
    /// Takes the step with an instance, and returns its lease.
    async fn take(self, mut client: RegistryServiceClient<Channel>, number: usize, lease: Bytes) -> Result<Bytes> {
        let pb::RegisterRequest { service, id, .. } = instance(0, number);
        match self {
            Self::Drain => {
                let update_mask = Some(FieldMask { paths: vec!["draining".into()] });
                let (lease_id, draining) = (lease.clone(), true);
                let request =
                    UpdateInstanceRequest { service, id, lease_id, update_mask, draining, ..Default::default() };
                client.update_instance(request).await?;
                Ok(lease)
            }
            Self::Deregister => {
                client.deregister(DeregisterRequest { service, id, lease_id: lease, ..Default::default() }).await?;
                Ok(Bytes::new())
            }
            Self::Register(boot) => {
                let mut request = instance(0, number);
                request.boot_id = format!("{}-{boot}", request.boot_id);
                request.addresses.iter_mut().for_each(|address| address.port = port(boot));
                let (region, zone) = ("eu".into(), zone(number));
                request.locality = Some(pb::Locality { region, zone, ..Default::default() });
                Ok(client.register(request).await?.into_inner().lease_id)
            }
        }
    }
}

impl Fleet {
    /// Opens the streams, and returns when each client has the endpoints.
    async fn open(server: &Server) -> Result<Self> {
        let channels = connect_clients(server.address, CLIENTS).await?;
        let received = Rc::<Received>::default();
        let (mut clients, mut tasks) = (Vec::new(), JoinSet::new());
        for number in 0..CLIENTS {
            let client = Rc::new(ClientState { is_decoded: number < ZONES, ..ClientState::default() });
            let (channel, received) = (channels[number % channels.len()].clone(), Rc::clone(&received));
            clients.push(Rc::clone(&client));
            tasks.spawn_local(async move { client.follow(&channel, number, &received).await });
        }
        let mut fleet = Self { clients, received, tasks };
        let received = Rc::clone(&fleet.received);
        tokio::select! {
            () = received.until_ready(CLIENTS) => Ok(fleet),
            error = fleet.failure() => Err(error),
        }
    }

    /// Waits until a client fails.
    async fn failure(&mut self) -> Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(_) | None => anyhow!("a client has ended"),
        }
    }

    /// Waits until each client has the assignment that new clients of its zone get, and checks that.
    async fn await_assignments_of_new_clients(&self, channel: &Channel, prefers_zone: bool) -> Result<()> {
        let mut different = 0;
        for _ in 0..MAX_COMPARISONS {
            let mut expected = Vec::new();
            for number in 0..ZONES {
                let assignment = new_client(channel, CLIENTS + number).await?;
                check(&assignment, &zone(number), prefers_zone)?;
                expected.push(hash(&assignment));
            }
            let has_other =
                |(number, client): &(usize, &Rc<ClientState>)| client.assignment.get() != expected[number % ZONES];
            different = self.clients.iter().enumerate().filter(has_other).count();
            if different == 0 {
                return Ok(());
            }
            sleep(COMPARISON_INTERVAL).await;
        }
        Err(anyhow!("{different} clients have other assignments than new clients"))
    }

    /// Returns the largest number of responses that changed nothing but weights and priorities, among the clients that decode them.
    fn layout_responses(&self) -> f64 {
        count(self.clients.iter().map(|client| client.layout_responses.get()).max().unwrap_or_default())
    }
}

impl ClientState {
    /// Subscribes to the service, and accepts every response.
    async fn follow(&self, channel: &Channel, number: usize, received: &Received) -> Result<()> {
        let mut stream = AdsStream::<StateOfTheWorld>::open_as(channel, node_in(&zone(number), number)).await?;
        stream.subscribe_to_service(&service_name(0)).await?;
        received.ready.set(received.ready.get() + 1);
        received.changed.notify_one();
        loop {
            let response = stream.response().await?;
            ensure!(response.url == ASSIGNMENT, "a response has the type {}", response.url);
            received.responses.set(received.responses.get() + 1);
            received.bytes.set(received.bytes.get() + response.bytes());
            let [assignment] = &response.resources[..] else { bail!("{} resources", response.resources.len()) };
            self.assignment.set(hash(assignment));
            if self.is_decoded {
                let mut endpoints: Vec<_> =
                    decode(assignment)?.into_iter().map(DecodedEndpoint::without_layout).collect();
                endpoints.sort_unstable();
                if self.endpoints.replace(endpoints.clone()) == endpoints {
                    self.layout_responses.set(self.layout_responses.get() + 1);
                }
            }
        }
    }
}

impl Received {
    /// Waits until this number of clients has subscribed.
    async fn until_ready(&self, clients: usize) {
        while self.ready.get() < clients {
            self.changed.notified().await;
        }
    }
}

/// Endpoint of an assignment.
#[derive(Debug)]
struct DecodedEndpoint {
    address: SocketAddress,
    health: HealthStatus,
    zone: String,
    priority: u32,
}

impl DecodedEndpoint {
    /// Returns the address and the health.
    fn without_layout(self) -> (String, u32, i32) {
        let port = match self.address.port_specifier {
            Some(PortSpecifier::PortValue(port)) => port,
            None => 0,
        };
        (self.address.address, port, self.health.into())
    }
}

/// Decodes the endpoints of an assignment.
fn decode(assignment: &Bytes) -> Result<Vec<DecodedEndpoint>> {
    let assignment = ClusterLoadAssignment::decode(&*Any::decode(assignment.clone())?.value)?;
    let mut endpoints = Vec::new();
    for locality in assignment.endpoints {
        let (zone, priority) = (locality.locality.unwrap_or_default().zone, locality.priority);
        for found in locality.lb_endpoints {
            let health = found.health_status();
            let Some(HostIdentifier::Endpoint(endpoint)) = found.host_identifier else { bail!("no endpoint") };
            let address = endpoint.address.and_then(|address| address.address);
            let Some(address::Address::SocketAddress(address)) = address else { bail!("no address of a socket") };
            endpoints.push(DecodedEndpoint { address, health, zone: zone.clone(), priority });
        }
    }
    Ok(endpoints)
}

/// Checks that an assignment has all instances after their restart, and those of the clients' zone in the first priority.
fn check(assignment: &Bytes, zone: &str, prefers_zone: bool) -> Result<()> {
    let endpoints = decode(assignment)?;
    ensure!(endpoints.len() == INSTANCES, "{} endpoints instead of {INSTANCES}", endpoints.len());
    for endpoint in endpoints {
        let is_restarted = endpoint.address.port_specifier == Some(PortSpecifier::PortValue(port(1)));
        ensure!(is_restarted && endpoint.health == HealthStatus::Healthy, "{endpoint:?} has not restarted");
        let is_first = !prefers_zone || endpoint.zone == zone;
        ensure!(!is_first || endpoint.priority == 0, "{endpoint:?} is not called by clients of {zone}");
    }
    Ok(())
}

/// Returns the assignment that a new client gets.
async fn new_client(channel: &Channel, number: usize) -> Result<Bytes> {
    let mut stream = AdsStream::<StateOfTheWorld>::open_as(channel, node_in(&zone(number), number)).await?;
    stream.subscribe(ASSIGNMENT, vec![service_name(0)]).await?;
    Ok(stream.collect(ASSIGNMENT, 1).await?.remove(0))
}

fn hash(assignment: &Bytes) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(assignment);
    hasher.finish()
}

/// Zone of an instance or a client.
fn zone(number: usize) -> String {
    format!("eu-{}", number % ZONES)
}

/// Port of a boot.
fn port(boot: u32) -> u32 {
    8_080 + boot
}
