//! Puts the house together, and takes it down in order.
//!
//! Starting: make or load the registry, bind every address, start the workers, then accept.
//!
//! Leaving: health says `NOT_SERVING` and every stream is told to reconnect, connections get GOAWAY, and what is left is
//! dropped at the deadline. Then the store is closed.

mod listeners;
mod liveness;
mod resolver;
mod self_preservation_log;
mod socket_activation;

use std::{collections::BTreeSet, io, net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{MissedTickBehavior, interval, timeout},
};

use listeners::BoundListeners;
pub use listeners::ServerAddresses;

use crate::{
    app::{Commands, RecoveryError, ServerContext, Views, Watchers},
    clock::Clock,
    config::Config,
    engine::{
        self, Disk, Engine, Memory, StartPoint,
        disk::{DiskDependencies, StoreError},
    },
    health_check::{ChangeQueue, HealthCheckThread, HealthChecks, ProbePolicy},
    metrics::Metrics,
    model::{FieldError, Incarnation, ServiceName},
    protocol::consul::{AgentIdentity, Consul},
    protocol::dns,
    random,
    registry::{ChangeListener, Event},
    transport::{
        ConnectionLimiter, ConnectionLimits, FatalListener, FatalReporter, Notifier, PerAddress, WorkerConfig, Workers,
        accept, raise_limit, room_for_connections,
        tls::{TlsError, TlsPaths, TlsState},
    },
};
use self_preservation_log::SelfPreservationReporter;

pub use liveness::LivenessProbe;
pub use socket_activation::{InheritError, InheritedSockets};

/// How often leases are looked at.
const EXPIRY: Duration = Duration::from_millis(100);
/// How long writes may take that were begun when the server was told to leave.
const FINISH: Duration = Duration::from_secs(5);
/// How long the store may take to close.
const CLOSE: Duration = Duration::from_secs(5);

/// How often the log is told what became of connections.
const NEWS: Duration = Duration::from_secs(10);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address} for {door}: {}: {}", reason(source), remedy(source, flag))]
    Listen {
        /// Which door.
        door: &'static str,
        /// The flag that moves it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A socket that was inherited cannot be used.
    #[error(transparent)]
    Inherited(#[from] InheritError),
    /// The registry cannot be read from the disk, or not be kept there.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Writes that the end of an earlier process interrupted cannot be completed.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// A listener with TLS has nothing to show.
    #[error("{0} needs a certificate and its key: name their files with --tls-cert and --tls-key")]
    NoCertificate(&'static str),
    /// What this registry is to programs written for Consul cannot be registered.
    #[error(transparent)]
    Agent(#[from] FieldError),
    /// A file for TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system gives no thread or poller.
    #[error("cannot start a worker: {0}: allow more threads or descriptors, or set --workers lower")]
    Worker(#[source] io::Error),
    /// The descriptors that were compiled in cannot be read: a defect.
    #[error("cannot serve reflection: {0}: report this as a defect")]
    Reflection(#[from] tonic_reflection::server::Error),
}

fn reason(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => "the port is taken".into(),
        io::ErrorKind::AddrNotAvailable => "it is no address of this host".into(),
        io::ErrorKind::PermissionDenied => "the system does not permit it".into(),
        _ => source.to_string(),
    }
}

fn remedy(source: &io::Error, flag: &str) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            format!("stop the program that has it, perhaps another callboard, or choose another with {flag}")
        }
        _ => format!("choose another with {flag}"),
    }
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    addresses: ServerAddresses,
    tls: Option<Arc<TlsState>>,
    leaving: watch::Sender<bool>,
    shared: Arc<ServerContext>,
    workers: Arc<Workers>,
    tasks: JoinSet<()>,
    checking: HealthCheckThread,
    alarmed: FatalListener,
}

impl Server {
    /// Starts a registry, in memory or on the disk. Expiry, DNS and the acceptor run where this is called; gRPC and HTTP on threads
    /// of their own. Raises the limit on this process's descriptors as far as the system lets it.
    ///
    /// # Errors
    ///
    /// When an address cannot be listened on, the disk cannot be used, or the system gives no threads.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_with(config, InheritedSockets::default())
    }

    /// The same, with sockets that are open already: the configuration has their addresses.
    ///
    /// # Errors
    ///
    /// As [`Server::start`], and when an inherited socket does not listen.
    pub fn start_with(config: &Config, inherited: InheritedSockets) -> Result<Self, StartError> {
        raise_limit();
        let (alarm, alarmed) = FatalReporter::new();
        let (shared, checks) = share(config, &alarm)?;
        let tls = tls(config, &shared)?;
        let doors = BoundListeners::bind(config, inherited)?;
        let dns = resolver::bind(config)?;
        let addresses = ServerAddresses { dns: dns.as_ref().map(dns::DnsListener::address), ..doors.addresses() };
        warn_of_exposure(config, &shared.metrics);
        let (leaving, left) = watch::channel(false);
        let worker = WorkerConfig {
            hubs: Arc::clone(&shared.notifier),
            clock: Arc::clone(&shared.clock),
            bookmarks: config.bookmark_interval,
            leaving: left.clone(),
            alarm: alarm.clone(),
        };
        let workers = Arc::new(Workers::start(config.workers.get(), &worker).map_err(StartError::Worker)?);

        let gate = ConnectionLimiter::new(rules(config), Arc::clone(&shared.metrics));
        let failed = alarm.clone();
        let checking =
            HealthCheckThread::start(&checks, move || failed.ring("the thread of health checks has ended".to_owned()));
        let checking = checking.map_err(StartError::Worker)?;
        let consul = consul(config, (&shared, &checks))?;
        let mut tasks = JoinSet::new();
        tasks.spawn(alarm.clone().guard("expiry", expire(Arc::clone(&shared))));
        tasks.spawn(alarm.clone().guard("the log of connections", tell_news(Arc::clone(&shared.metrics))));
        for (door, listener) in doors.open() {
            let (port, dealer) = door.furnish((&shared, &checks), &workers, tls.as_ref(), &consul, config)?;
            let accepting =
                accept(listener, port, Arc::clone(&gate), dealer, left.clone()).map_err(StartError::Worker)?;
            tasks.spawn(alarm.clone().guard(door.acceptor(), accepting));
        }
        if let Some(door) = dns {
            resolver::open(door, config, (&shared, gate), (&alarm, &mut tasks), left).map_err(StartError::Worker)?;
        }
        if let Some(tls) = &tls {
            tasks.spawn(alarm.guard("the care of certificates", Arc::clone(tls).watch()));
        }
        Ok(Self { addresses, tls, leaving, shared, workers, tasks, checking, alarmed })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> ServerAddresses {
        self.addresses
    }

    /// Reads the files for TLS again; new connections get what is in them, if it can be used.
    pub fn reload(&self) {
        if let Some(tls) = &self.tls {
            tls.reload();
        }
    }

    /// How it is, for whoever supervises the process.
    #[must_use]
    pub fn pulse(&self) -> LivenessProbe {
        LivenessProbe::of(&self.shared)
    }

    /// How many instances are registered.
    #[must_use]
    pub fn instances(&self) -> usize {
        self.shared.engine.registry().instance_count()
    }

    /// Why the server cannot go on: its disk failed, or a part of it ended. Never, while it can.
    pub async fn failed(&mut self) -> String {
        self.alarmed.heard().await
    }

    /// Leaves: tells every stream, lets connections finish, drops what is left after some seconds.
    pub async fn shutdown(self) {
        let Self { leaving, shared, workers, mut tasks, checking, .. } = self;
        shared.notifier.leave();
        // A worker hears of it after its hub was rung: so streams are told before their connections say GOAWAY.
        leaving.send_replace(true);
        let ended = spawn_blocking(move || workers.join_all()).await;
        if ended.is_err() {
            tracing::error!("waiting for the workers panicked");
        }
        tasks.shutdown().await;
        // Before the store: what it finds from here on would not be taken down.
        if spawn_blocking(move || drop(checking)).await.is_err() {
            tracing::error!("stopping health checks panicked");
        }
        // Nobody begins a write any more. What was begun is whole before the store closes.
        if timeout(FINISH, shared.commands.finish()).await.is_err() {
            tracing::error!("some writes were not finished in time: the next start completes them");
        }
        let closing = spawn_blocking(move || shared.engine.close());
        if timeout(CLOSE, closing).await.is_err() {
            tracing::error!("the store was not closed in time: what was acknowledged is in it all the same");
        }
    }
}

fn tls(config: &Config, shared: &ServerContext) -> Result<Option<Arc<TlsState>>, TlsError> {
    let Some(files) = &config.tls else { return Ok(None) };
    let files =
        TlsPaths { certificate: files.cert.clone(), key: files.key.clone(), client_ca: files.client_ca.clone() };
    TlsState::load(files, Arc::clone(&shared.clock), Arc::clone(&shared.metrics)).map(Some)
}

/// What is open only because somebody said that they understand is not forgotten.
fn warn_of_exposure(config: &Config, metrics: &Metrics) {
    let exposed = config.exposed();
    metrics.insecure_listeners.set(i64::try_from(exposed.len()).unwrap_or(i64::MAX));
    for (listener, address, what) in exposed {
        tracing::warn!(listener, %address, "whoever reaches this listener can {what}");
    }
}

fn share(config: &Config, alarm: &FatalReporter) -> Result<(Arc<ServerContext>, Arc<HealthChecks>), StartError> {
    let workers = config.workers.get();
    // HTTP has a hub as well; but leases do not wait for its pages.
    let (hubs, clock) = (Arc::new(Notifier::new(workers + 1)), Arc::new(Clock::new(workers)));
    let metrics = Metrics::new();
    let life = Incarnation(random::u64());
    let inbox = Arc::new(ChangeQueue::default());
    let audience: Arc<dyn ChangeListener> =
        Arc::new(FanoutListener { hubs: Arc::clone(&hubs), inbox: Arc::clone(&inbox) });
    let engine: Arc<dyn Engine> = match &config.data_dir {
        None => Arc::new(Memory::new(life, clock.now(), audience)),
        Some(directory) => {
            let (metrics, fresh) = (metrics.store.clone(), StartPoint::new(life, clock.now()));
            let surroundings = DiskDependencies { clock: Arc::clone(&clock), audience, metrics, fresh };
            let alarm = alarm.clone();
            let on_failure = Box::new(move |error: StoreError| alarm.ring(error.to_string()));
            Arc::new(Disk::open(directory, config.durability, surroundings, on_failure)?)
        }
    };
    // A life that begins has lost whatever readers remember of an earlier one: what was in memory, or in another file, or
    // was acknowledged last before a crash.
    let begins = engine.registry().incarnation() == life;
    let counters = (metrics.check_results.clone(), metrics.check_changes.clone());
    let commands = Commands::new(&engine, &clock, Some(Handle::current()));
    commands.recover()?;
    let checks = HealthChecks::new(&commands, &clock, inbox, check_rules(config), counters);
    let shared = ServerContext {
        engine,
        commands,
        notifier: hubs,
        clock,
        views: Views::new(&metrics.views),
        metrics,
        watchers: Watchers::default(),
        max_message_size: config.max_message_size,
        bookmarks: config.bookmark_interval,
    };
    if begins {
        shared.settle(config.settle);
    }
    Ok((Arc::new(shared), checks))
}

/// Who hears of changes: streams, and who makes checks.
#[derive(Debug)]
struct FanoutListener {
    hubs: Arc<Notifier>,
    inbox: Arc<ChangeQueue>,
}

impl ChangeListener for FanoutListener {
    fn changed(&self, event: &Event) {
        self.hubs.changed(event);
        self.inbox.changed(event);
    }

    fn topics_changed(&self, topics: &dyn Fn() -> BTreeSet<ServiceName>) {
        self.hubs.topics_changed(topics);
    }
}

/// The door for programs written for Consul.
fn consul(
    config: &Config,
    (shared, checks): (&Arc<ServerContext>, &Arc<HealthChecks>),
) -> Result<Arc<Consul>, FieldError> {
    let life = shared.engine.registry().incarnation();
    let node = config.node_name();
    let agent = AgentIdentity {
        id: config.consul.node_id.clone().unwrap_or_else(|| AgentIdentity::derived_id(life, &node)),
        datacenter: config.consul.datacenter.clone(),
        meta: config.consul.node_meta.clone(),
        address: config.node_address(),
        node,
    };
    Consul::new(shared, checks, agent, config.consul.max_blocking_queries.get() as usize)
}

/// Where health checks may go: anywhere, as long as only this machine can ask for them.
fn check_rules(config: &Config) -> ProbePolicy {
    let listeners = [config.grpc, config.http, config.grpc_tls, config.http_tls];
    let exposed = listeners.into_iter().flatten().any(|address| !address.ip().to_canonical().is_loopback());
    ProbePolicy { exposed, allowed: config.check_allow_cidr.clone() }
}

async fn expire(shared: Arc<ServerContext>) {
    let mut ticks = interval(EXPIRY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut outcry = SelfPreservationReporter::default();
    let mut counting = JoinSet::new();
    loop {
        ticks.tick().await;
        let now = shared.clock.expiry();
        let removals = shared.commands.expire(now);
        if !removals.is_empty() {
            let expired = shared.metrics.expired.clone();
            counting.spawn(async move { expired.inc_by(engine::count_changes(removals).await as u64) });
        }
        while counting.try_join_next().is_some() {}
        outcry.hear(shared.engine.registry(), &shared.metrics);
        shared.end_settling(now);
    }
}

/// What connections are held to.
fn rules(config: &Config) -> ConnectionLimits {
    let number = |limit: NonZeroU32| limit.get() as usize;
    let room = room_for_connections();
    let connections = config.max_connections.map_or(room, number);
    if connections > room {
        tracing::warn!(
            connections,
            room,
            "fewer connections than --max-connections: there are no descriptors for more"
        );
    }
    // Whoever sets a limit means it for everybody.
    let per_address = |limit: Option<NonZeroU32>, most| match limit {
        Some(limit) => PerAddress { most: number(limit), loopback: true },
        None => PerAddress { most, loopback: false },
    };
    ConnectionLimits {
        connections: connections.min(room),
        connections_per_address: per_address(config.max_connections_per_address, 200),
        streams: number(config.max_streams),
        streams_per_address: per_address(config.max_streams_per_address, 20_000),
        streams_per_connection: config.max_streams_per_connection.get(),
        cancelled_calls: number(config.max_cancelled_calls_per_second),
        unread_answers: config.max_unread_responses,
        handshake: config.handshake_timeout,
        age: config.max_connection_age,
        grace: config.max_connection_age_grace,
    }
}

/// Tells the log what was refused and cut off: a line for each reason now and then, however many there were.
async fn tell_news(metrics: Arc<Metrics>) {
    let mut ticks = interval(NEWS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for (what, why, number) in metrics.connections.take_unlogged() {
            tracing::warn!(number, why, "{what}");
        }
    }
}
