//! Puts the house together, and takes it down in order.
//!
//! Starting: bind every address, make the registry, start the workers, then accept.
//!
//! Leaving: health says `NOT_SERVING` and every stream is told to reconnect, connections get GOAWAY, and what is left is
//! dropped at the deadline.

mod outcry;

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
    net::{Alarm, Alarmed, Hubs, Limits, Listener, Worker, Workers, accept},
    random,
    registry::Audience,
    web::Web,
};
use outcry::Outcry;

/// How often leases are looked at.
const EXPIRY: Duration = Duration::from_millis(100);

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
        let (leaving, left) = watch::channel(false);
        let (alarm, alarmed) = Alarm::new();
        let worker = Worker {
            routes: Api::routes(&shared)?,
            hubs: Arc::clone(&shared.hubs),
            clock: Arc::clone(&shared.clock),
            limits: Limits { streams: config.max_streams_per_connection.get() },
            bookmarks: config.bookmark_interval,
            leaving: left.clone(),
            alarm: alarm.clone(),
        };
        let workers = Arc::new(Workers::start(count, &worker).map_err(StartError::Worker)?);

        let mut tasks = JoinSet::new();
        tasks.spawn(alarm.clone().guard("expiry", expire(Arc::clone(&shared))));
        let grpc = grpc.into_tokio().map_err(StartError::Worker)?;
        let accepting = accept(grpc, Arc::clone(&workers), Arc::clone(&shared.clock), left.clone());
        tasks.spawn(alarm.clone().guard("the acceptor", accepting));
        let http = http.into_tokio().map_err(StartError::Worker)?;
        let web = Web { shared: Arc::clone(&shared), workers: Arc::clone(&workers) };
        let serving = async move {
            if let Err(error) = web.serve(http, gone(left)).await {
                tracing::error!(%error, "the HTTP listener failed");
            }
        };
        tasks.spawn(alarm.guard("the HTTP listener", serving));
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
    let mut outcry = Outcry::default();
    loop {
        ticks.tick().await;
        let expired = shared.engine.expire(shared.clock.expiry());
        shared.metrics.expired.inc_by(expired as u64);
        outcry.hear(shared.engine.registry(), &shared.metrics);
    }
}

async fn gone(mut leaving: watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it the server.
    let _ = leaving.wait_for(|leaving| *leaving).await;
}
