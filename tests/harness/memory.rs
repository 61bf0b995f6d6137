//! gRPC API without sockets and threads, so that tokio's clock can be paused.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use callboard::{
    app::{Commands, ServerContext, Views, Watchers},
    clock::Clock,
    engine::{Engine, Memory},
    health_check::{HealthChecks, ProbePolicy as CheckRules},
    metrics::Metrics,
    model::{Address, BootId, Incarnation, InstanceId, LeaseId, LeaseTerms, Metadata, ServiceName, Tags, Weight},
    protocol::{grpc::GrpcApi, xds::XdsApi},
    registry::{ChangeListener, Command, InstanceDescription, Patch, Register},
    transport::{
        Connection, ConnectionLimiter, ConnectionLimits, ListenerConfig, Notifier, Protocol, WorkerState, serve,
    },
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet, time::interval};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Endpoint, Uri};

use super::TestClient;

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
/// Interval of expiry, as in the server.
const EXPIRY: Duration = Duration::from_millis(100);
/// Interval at which the server brings effective weights up to date.
const WEIGHTS: Duration = Duration::from_secs(1);
/// Interval at which layouts of zones are brought up to date, as in the server.
const ZONE_LAYOUTS: Duration = Duration::from_secs(1);

/// A registry behind pipes.
#[derive(Debug)]
pub struct InMemory {
    /// `None`: it is on another engine.
    memory: Option<Arc<Memory>>,
    shared: Arc<ServerContext>,
    checks: Arc<HealthChecks>,
    port: ListenerConfig,
    limiter: Arc<ConnectionLimiter>,
    shutdown: CancellationToken,
    stalled: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl InMemory {
    /// Opens a server; the test's clock has to be paused.
    pub fn open() -> Self {
        Self::with(Clock::new(0), Duration::ZERO)
    }

    /// Opens a server with a worker that expiry waits for, and that can be stalled.
    pub fn with_worker() -> Self {
        Self::with(Clock::new(1), Duration::ZERO)
    }

    /// Opens a server with this clock.
    pub fn with_clock(clock: Clock) -> Self {
        Self::with(clock, Duration::ZERO)
    }

    /// Returns a server that has lost its registrations, and settles for `length`.
    pub fn settling(length: Duration) -> Self {
        Self::with(Clock::new(0), length)
    }

    fn with(clock: Clock, settle: Duration) -> Self {
        let (notifier, clock) = (Arc::new(Notifier::new(1)), Arc::new(clock));
        let listener = Arc::clone(&notifier) as Arc<dyn ChangeListener>;
        let memory = Arc::new(Memory::new(Incarnation(7), clock.now(), listener));
        let engine = Arc::clone(&memory) as Arc<dyn Engine>;
        Self { memory: Some(memory), ..Self::over(engine, notifier, clock, settle) }
    }

    /// Creates a server on an engine that reports its changes to this notifier.
    pub fn over(engine: Arc<dyn Engine>, notifier: Arc<Notifier>, clock: Arc<Clock>, settle: Duration) -> Self {
        let commands = Commands::new(&engine, &clock, None);
        let metrics = Metrics::new();
        let checks = HealthChecks::new(&commands, &clock, Arc::default(), CheckRules::default(), Default::default());
        let shared = Arc::new(ServerContext {
            engine,
            commands,
            notifier,
            clock,
            views: Views::new(&metrics.views),
            metrics,
            watchers: Watchers::default(),
            weights: Arc::default(),
            max_message_size: 256 * 1024,
            bookmarks: Duration::from_secs(15),
            replica: "replica-1".to_owned(),
        });
        shared.settle(settle);
        let xds = XdsApi::new(&shared);
        let stalled = Arc::new(AtomicBool::new(false));
        let tasks = background(&shared, &xds, &stalled);
        let port = ListenerConfig {
            name: "grpc",
            protocol: Protocol::Http2,
            tls: None,
            routes: GrpcApi::routes(&shared, &checks, xds.routes()).unwrap(),
        };
        let limiter = ConnectionLimiter::new(ConnectionLimits::default(), Arc::clone(&shared.metrics));
        Self { memory: None, port, limiter, shared, checks, shutdown: CancellationToken::new(), stalled, _tasks: tasks }
    }

    /// Stalls the worker, or lets it continue.
    pub fn stall(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    /// Opens a connection.
    pub async fn client(&self) -> TestClient {
        let (port, limiter, shutdown) = (self.port.clone(), Arc::clone(&self.limiter), self.shutdown.clone());
        let connector = tower::service_fn(move |_: Uri| {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let connection = connection(&limiter, Protocol::Http2);
            let (port, shutdown) = (port.clone(), shutdown.clone());
            tokio::spawn(async move { serve(async { Ok(far) }, connection, &port, shutdown).await });
            async move { Ok::<_, std::io::Error>(TokioIo::new(near)) }
        });
        let endpoint = Endpoint::from_static("http://in.memory");
        TestClient::over(endpoint.connect_with_connector(connector).await.unwrap())
    }

    /// Serves a port, for clients that connect by address. Returns its address.
    ///
    /// The paused clock advances whenever all tasks wait for the socket, by the time to the next timer: 100 ms at most.
    pub async fn listen(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (port, limiter, shutdown) = (self.port.clone(), Arc::clone(&self.limiter), self.shutdown.clone());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let connection = connection(&limiter, Protocol::Http2);
                let (port, shutdown) = (port.clone(), shutdown.clone());
                tokio::spawn(async move { serve(async { Ok(socket) }, connection, &port, shutdown).await });
            }
        });
        address
    }

    /// Returns the state that protocols share.
    pub fn shared(&self) -> &Arc<ServerContext> {
        &self.shared
    }

    /// Health checks of the server.
    pub fn checks(&self) -> &Arc<HealthChecks> {
        &self.checks
    }

    /// Returns an HTTP/1.1 connection without a socket.
    pub fn http_connection(&self) -> Arc<Connection> {
        connection(&self.limiter, Protocol::Http1)
    }

    fn submit(&self, command: Command) {
        let memory = self.memory.as_ref().expect("it is in memory");
        memory.submit(command, self.shared.clock.now()).unwrap();
    }

    /// Returns the time of the paused clock, in milliseconds since the start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.shared.clock.since_start().as_millis()).unwrap()
    }

    /// Returns the number of open streams, as the server counts them.
    pub fn stream_count(&self) -> usize {
        self.shared.notifier.registration_count()
    }

    /// Returns the number of known leases, including ended ones.
    pub fn leases(&self) -> usize {
        self.shared.engine.registry().leases().len()
    }

    /// Returns the newest revision.
    pub fn revision(&self) -> u64 {
        self.shared.engine.registry().applied().0
    }

    /// Changes an instance `times` times without a pause.
    pub fn flood(&self, service: &str, id: &str, times: usize) {
        let (service, id) = (ServiceName::parse(service).unwrap(), InstanceId::parse(id).unwrap());
        for weight in (2..60_000).cycle().take(times) {
            let patch = Patch { weight: Some(Weight::parse(weight).unwrap()), ..Patch::default() };
            let command = Command::Update { service: service.clone(), id: id.clone(), lease: None, patch };
            self.submit(command);
        }
    }

    /// Registers `count` instances without a pause.
    pub fn register_many(&self, service: &str, count: usize) {
        let service = ServiceName::parse(service).unwrap();
        let description = InstanceDescription {
            addresses: Address::parse_all([("10.0.0.1", 80, "")].into_iter()).unwrap(),
            tags: Tags::parse(&["v2".to_owned()]).unwrap(),
            metadata: Metadata::parse(std::iter::empty::<(&String, &String)>()).unwrap(),
            weight: Weight::parse(1).unwrap(),
            locality: None,
        };
        for number in 0..count {
            let command = Command::Register(Register {
                checks: Vec::new(),
                service: service.clone(),
                id: InstanceId::parse(&format!("i{number}")).unwrap(),
                boot: BootId::parse("boot").unwrap(),
                description: description.clone(),
                terms: LeaseTerms::grant(Some(Duration::from_hours(1)), None),
                starting: false,
                replace: false,
                lease: LeaseId(number as u128),
            });
            self.submit(command);
        }
    }

    /// Starts the shutdown of the server.
    pub fn leave(&self) {
        self.shared.notifier.shut_down();
        self.shutdown.cancel();
    }
}

fn connection(limiter: &Arc<ConnectionLimiter>, protocol: Protocol) -> Arc<Connection> {
    let permit = limiter.admit(PEER, "test", protocol).unwrap();
    Connection::new(PEER, &WorkerState::new(0, &Arc::new(Clock::new(0))), permit)
}

/// Starts the tasks that a server runs besides its connections.
fn background(shared: &Arc<ServerContext>, xds: &Arc<XdsApi>, stalled: &Arc<AtomicBool>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let context = Arc::clone(shared);
    tasks.spawn(async move { context.notifier.run(0, &context.clock, context.bookmarks).await });
    let weighing = Arc::clone(shared);
    tasks.spawn(async move {
        let mut ticks = interval(WEIGHTS);
        loop {
            ticks.tick().await;
            let now = weighing.clock.now().lease;
            weighing.weights.update(weighing.engine.registry(), &weighing.notifier, now);
        }
    });
    let leases = Arc::clone(shared);
    tasks.spawn(async move {
        let mut ticks = interval(EXPIRY);
        loop {
            ticks.tick().await;
            let now = leases.clock.expiry();
            drop(leases.commands.expire(now));
            leases.end_settling(now);
        }
    });
    let zones = Arc::clone(xds);
    tasks.spawn(async move {
        let mut ticks = interval(ZONE_LAYOUTS);
        loop {
            ticks.tick().await;
            zones.update_zone_layouts();
        }
    });
    let (clock, idle) = (Arc::clone(&shared.clock), Arc::clone(stalled));
    tasks.spawn(async move {
        let mut turns = interval(EXPIRY);
        loop {
            turns.tick().await;
            if !idle.load(Ordering::Relaxed) {
                clock.worker_has_handled(0, clock.now().lease);
            }
        }
    });
    tasks
}
