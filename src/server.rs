//! Puts the house together, and takes it down in order.
//!
//! Starting: bind every address, make the registry, start the workers, then accept.
//!
//! Leaving: health says `NOT_SERVING` and every stream is told to reconnect, connections get GOAWAY, and what is left is
//! dropped at the deadline.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{MissedTickBehavior, interval},
};

use crate::{
    api::{Api, Shared, Subscribers},
    clock::Clock,
    config::Config,
    engine::Memory,
    metrics::Metrics,
    model::Incarnation,
    net::{Alarm, Alarmed, Dealer, Gate, Hands, Hubs, Listener, Own, Port, Protocol, Rules, Worker, Workers, accept},
    random,
    registry::Audience,
    web::Web,
};

/// How often leases are looked at.
const EXPIRY: Duration = Duration::from_millis(100);

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
    grpc: SocketAddr,
    http: SocketAddr,
    leaving: watch::Sender<bool>,
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    tasks: JoinSet<()>,
    alarmed: Alarmed,
}

impl Server {
    /// Starts a registry in memory. Expiry, HTTP and the acceptor run where this is called; gRPC on threads of its own.
    ///
    /// # Errors
    ///
    /// When an address cannot be listened on, or the system gives no threads.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let listen = |door, flag, address| {
            Listener::bind(address).map_err(|source| StartError::Listen { door, flag, address, source })
        };
        let grpc = listen("gRPC", "--grpc", config.grpc)?;
        let http = listen("HTTP", "--http", config.http)?;
        let (grpc_address, http_address) = (grpc.address(), http.address());

        let count = config.workers.get();
        let shared = share(config, count);
        // What lives in memory has lost whatever was registered before.
        shared.settle(config.settle);
        let (leaving, left) = watch::channel(false);
        let (alarm, alarmed) = Alarm::new();
        let worker = Worker {
            hubs: Arc::clone(&shared.hubs),
            clock: Arc::clone(&shared.clock),
            bookmarks: config.bookmark_interval,
            leaving: left.clone(),
            alarm: alarm.clone(),
        };
        let workers = Arc::new(Workers::start(count, &worker).map_err(StartError::Worker)?);

        let gate = Gate::new(rules(config), Arc::clone(&shared.metrics));
        let web = Web { shared: Arc::clone(&shared), workers: Arc::clone(&workers) };
        let grpc_port = Port { name: "grpc", protocol: Protocol::Http2, routes: Api::routes(&shared)? };
        let http_port = Port { name: "http", protocol: Protocol::Http1, routes: web.routes().into() };

        let mut tasks = JoinSet::new();
        tasks.spawn(alarm.clone().guard("expiry", expire(Arc::clone(&shared))));
        tasks.spawn(alarm.clone().guard("the log of connections", tell_news(Arc::clone(&shared.metrics))));
        let dealer = Dealer::new(&workers, &shared.clock);
        let ports = [
            ("the acceptor", grpc, grpc_port, Hands::Workers(dealer)),
            ("the HTTP listener", http, http_port, Hands::Own(Own::new(left.clone()))),
        ];
        for (name, listener, port, hands) in ports {
            let accepting =
                accept(listener, port, Arc::clone(&gate), hands, left.clone()).map_err(StartError::Worker)?;
            tasks.spawn(alarm.clone().guard(name, accepting));
        }
        Ok(Self { grpc: grpc_address, http: http_address, leaving, shared, workers, tasks, alarmed })
    }

    /// Where gRPC listens.
    #[must_use]
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Where HTTP listens.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Which part of the server ended though it must not. Never, while all run.
    pub async fn failed(&mut self) -> &'static str {
        self.alarmed.heard().await
    }

    /// Leaves: tells every stream, lets connections finish, drops what is left after some seconds.
    pub async fn shutdown(self) {
        let Self { leaving, shared, workers, mut tasks, .. } = self;
        shared.hubs.leave();
        // A worker hears of it after its hub was rung: so streams are told before their connections say GOAWAY.
        leaving.send_replace(true);
        let ended = spawn_blocking(move || workers.join_all()).await;
        if ended.is_err() {
            tracing::error!("waiting for the workers panicked");
        }
        tasks.shutdown().await;
    }
}

fn share(config: &Config, workers: usize) -> Arc<Shared> {
    let (hubs, clock) = (Arc::new(Hubs::new(workers)), Arc::new(Clock::new(workers)));
    let audience = Arc::clone(&hubs) as Arc<dyn Audience>;
    Arc::new(Shared {
        engine: Memory::new(Incarnation(random::u64()), clock.now(), audience),
        hubs,
        clock,
        metrics: Metrics::new(),
        subscribers: Subscribers::default(),
        max_message_size: config.max_message_size,
        bookmarks: config.bookmark_interval,
    })
}

async fn expire(shared: Arc<Shared>) {
    let mut ticks = interval(EXPIRY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = shared.clock.expiry();
        let expired = shared.engine.expire(now);
        shared.metrics.expired.inc_by(expired as u64);
        shared.end_settling(now);
    }
}

/// What connections are held to.
fn rules(config: &Config) -> Rules {
    Rules { streams_per_connection: config.max_streams_per_connection.get(), ..Rules::default() }
}

/// Tells the log what was refused and cut off: a line for each reason now and then, however many there were.
async fn tell_news(metrics: Arc<Metrics>) {
    let mut ticks = interval(NEWS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for (what, why, number) in metrics.connections.news() {
            tracing::warn!(number, why, "{what}");
        }
    }
}
