//! Starts the registry with all its protocols, and shuts it down in order.
//!
//! Start: open the registry, bind every address, start the workers, then accept.
//!
//! Shutdown, in this order and only here:
//!
//! 1. **Listeners close.** No connection is accepted any more and DNS is not answered, so that a client which reconnects does not reach this
//!    process again.
//! 2. **Streams are notified.** Health changes to `NOT_SERVING`, heartbeat streams and watches receive `RECONNECT`, and blocking queries
//!    are answered.
//! 3. **Connections close.** Each receives GOAWAY after 50 ms, and has 4 s to finish its open requests. The rest is dropped with its
//!    worker.
//! 4. **Background tasks end**: expiry, certificates, health checks.
//! 5. **Writes finish**, within 5 s, and the **store closes**, within 5 s.

mod background;
mod context;
mod error;
mod import;
mod limits;
mod listeners;
mod liveness;
mod resolver;
mod self_preservation_log;
mod shutdown;
mod socket_activation;
#[cfg(test)]
mod tests;

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use tokio::{
    task::{JoinSet, spawn_blocking},
    time::timeout,
};

use background::{expire_leases, log_rejections, update_weights, update_zone_layouts};
use limits::connection_limits;
use listeners::BoundListeners;
use shutdown::ShutdownSignals;

use crate::{
    app::ServerContext,
    config::Config,
    health_check::{HealthCheckThread, HealthChecks},
    metrics::Metrics,
    protocol::{dns::DnsListener, xds::XdsApi},
    transport::{
        ConnectionLimiter, FatalListener, FatalReporter, WorkerConfig, Workers, accept, raise_limit,
        tls::{TlsError, TlsPaths, TlsState},
    },
};

pub use context::etcd_options;
pub use error::StartError;
pub use listeners::ServerAddresses;
pub use liveness::LivenessProbe;
pub use socket_activation::{InheritError, InheritedSockets};

/// Time that listeners have to close on shutdown.
const LISTENERS_TIMEOUT: Duration = Duration::from_secs(1);
/// Time that writes which were begun before a shutdown have to finish.
const WRITES_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that the store has to close.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// A running server.
#[derive(Debug)]
pub struct Server {
    addresses: ServerAddresses,
    tls: Option<Arc<TlsState>>,
    signals: ShutdownSignals,
    context: Arc<ServerContext>,
    workers: Arc<Workers>,
    listeners: JoinSet<()>,
    dns: Option<JoinHandle<()>>,
    background: JoinSet<()>,
    checking: HealthCheckThread,
    fatal: FatalListener,
}

impl Server {
    /// Starts a registry, in memory or on the disk. Expiry and the acceptors run on the current runtime; gRPC, HTTP, DNS and health checks on threads of their
    /// own. Raises this process's limit on file descriptors as far as the operating system permits.
    ///
    /// # Errors
    ///
    /// When it cannot listen on an address, the disk or the export cannot be used, or the operating system cannot create threads.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_with(config, InheritedSockets::default())
    }

    /// Like [`Server::start`], with sockets that are already open. The configuration has their addresses.
    ///
    /// # Errors
    ///
    /// As [`Server::start`], and when an inherited socket does not listen.
    pub fn start_with(config: &Config, inherited: InheritedSockets) -> Result<Self, StartError> {
        raise_limit();
        let (reporter, fatal) = FatalReporter::new();
        let (context, checks) = context::open(config, &reporter)?;
        let tls = load_tls(config, &context)?;
        let bound = BoundListeners::bind(config, inherited)?;
        let dns = resolver::bind(config)?;
        let addresses = ServerAddresses { dns: dns.as_ref().map(DnsListener::address), ..bound.addresses() };
        warn_of_insecure_listeners(config, &context.metrics);
        let signals = ShutdownSignals::new();
        let worker = WorkerConfig {
            notifier: Arc::clone(&context.notifier),
            clock: Arc::clone(&context.clock),
            bookmark_interval: config.bookmark_interval,
            shutdown: signals.connections(),
            fatal: reporter.clone(),
        };
        let workers = Arc::new(Workers::start(config.workers.get(), &worker).map_err(StartError::Worker)?);
        let failed = reporter.clone();
        let checking = HealthCheckThread::start(&checks, move || {
            failed.report("the thread of health checks has ended".to_owned());
        });
        let mut server = Self {
            addresses,
            tls,
            signals,
            workers,
            listeners: JoinSet::new(),
            dns: None,
            background: JoinSet::new(),
            checking: checking.map_err(StartError::Worker)?,
            fatal,
            context,
        };
        server.start_background(&reporter);
        server.open_listeners(config, (bound, dns), &checks, &reporter)?;
        Ok(server)
    }

    /// Starts the tasks that serve no client: lease expiry, effective weights, logs, the reload of certificates.
    fn start_background(&mut self, fatal: &FatalReporter) {
        let Self { background, context, tls, .. } = self;
        let expiring = Arc::clone(&context.clock).monitored("lease expiry", expire_leases(Arc::clone(context)));
        background.spawn(fatal.clone().guard("lease expiry", expiring));
        let weighing = Arc::clone(&context.clock).monitored("effective weights", update_weights(Arc::clone(context)));
        background.spawn(fatal.clone().guard("effective weights", weighing));
        let logging = log_rejections(Arc::clone(&context.metrics));
        background.spawn(fatal.clone().guard("the log of rejected connections", logging));
        if let Some(tls) = tls {
            background.spawn(fatal.clone().guard("the reload of certificates", Arc::clone(tls).watch()));
        }
    }

    /// Begins to accept connections, and to answer DNS.
    fn open_listeners(
        &mut self,
        config: &Config,
        (bound, dns): (BoundListeners, Option<DnsListener>),
        checks: &Arc<HealthChecks>,
        fatal: &FatalReporter,
    ) -> Result<(), StartError> {
        let limiter = ConnectionLimiter::new(connection_limits(config), Arc::clone(&self.context.metrics));
        let consul = context::consul(config, &self.context, checks)?;
        let xds = XdsApi::new(&self.context);
        let laying_out =
            Arc::clone(&self.context.clock).monitored("zone layouts", update_zone_layouts(Arc::clone(&xds)));
        self.background.spawn(fatal.clone().guard("zone layouts", laying_out));
        for (name, listener) in bound.into_iter() {
            let (config, dispatch) =
                name.configure((&self.context, checks), &self.workers, self.tls.as_ref(), (&consul, &xds), config)?;
            let accepting = accept(listener, config, Arc::clone(&limiter), dispatch, self.signals.listeners());
            self.spawn_listener(name.acceptor(), accepting.map_err(StartError::Worker)?, fatal);
        }
        if let Some(dns) = dns {
            let signals = (self.signals.listeners(), fatal.clone());
            let thread = resolver::start(dns, config, &self.context, limiter, signals);
            self.dns = Some(thread.map_err(StartError::Worker)?);
        }
        Ok(())
    }

    fn spawn_listener(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
        fatal: &FatalReporter,
    ) {
        let monitored = Arc::clone(&self.context.clock).monitored(name, task);
        self.listeners.spawn(fatal.clone().guard(name, monitored));
    }

    /// Addresses of the listeners.
    #[must_use]
    pub fn addresses(&self) -> ServerAddresses {
        self.addresses
    }

    /// Reads the files for TLS again. New connections use them if they are valid.
    pub fn reload(&self) {
        if let Some(tls) = &self.tls {
            tls.reload();
        }
    }

    /// Probe of the server's liveness, for a supervisor of the process.
    #[must_use]
    pub fn liveness(&self) -> LivenessProbe {
        LivenessProbe::of(&self.context)
    }

    /// Number of registered instances.
    #[must_use]
    pub fn instances(&self) -> usize {
        self.context.engine.registry().instance_count()
    }

    /// Waits for the reason why the server cannot continue: its disk failed, or a part of it ended.
    pub async fn failed(&mut self) -> String {
        self.fatal.reported().await
    }

    /// Shuts down in the order that the module documents.
    pub async fn shutdown(self) {
        let Self { signals, context, workers, mut listeners, dns, mut background, checking, .. } = self;
        signals.close_listeners();
        let closing = async {
            while listeners.join_next().await.is_some() {}
            if let Ok(Some(Err(_))) | Err(_) = spawn_blocking(|| dns.map(JoinHandle::join)).await {
                tracing::error!("the thread of DNS panicked");
            }
        };
        if timeout(LISTENERS_TIMEOUT, closing).await.is_err() {
            tracing::error!("the listeners did not close in time");
        }
        context.notifier.shut_down();
        signals.close_connections();
        if spawn_blocking(move || workers.join_all()).await.is_err() {
            tracing::error!("waiting for the workers panicked");
        }
        background.shutdown().await;
        // Before the store closes: results of later checks would not be stored.
        if spawn_blocking(move || drop(checking)).await.is_err() {
            tracing::error!("stopping health checks panicked");
        }
        // No protocol and no check begins a write any more, and those that were begun are complete before the store closes. A sweep that
        // has not ended yet may still submit removals: a closed store does not take them, and the leases run out in the next process.
        if timeout(WRITES_TIMEOUT, context.commands.finish()).await.is_err() {
            tracing::error!("some writes did not finish in time: the next start completes them");
        }
        close_store(&context).await;
    }

    /// Closes only the store, after a fatal error: acknowledged writes are flushed, and the process can exit.
    pub async fn close_store(&self) {
        close_store(&self.context).await;
    }
}

async fn close_store(context: &Arc<ServerContext>) {
    let engine = Arc::clone(&context.engine);
    if timeout(STORE_TIMEOUT, spawn_blocking(move || engine.close())).await.is_err() {
        tracing::error!(
            "the store did not close in time: a durable store has all acknowledged writes, a relaxed one may lack the last second"
        );
    }
}

fn load_tls(config: &Config, context: &ServerContext) -> Result<Option<Arc<TlsState>>, TlsError> {
    let Some(files) = &config.tls else { return Ok(None) };
    let files =
        TlsPaths { certificate: files.cert.clone(), key: files.key.clone(), client_ca: files.client_ca.clone() };
    TlsState::load(files, Arc::clone(&context.clock), Arc::clone(&context.metrics)).map(Some)
}

/// Warns of listeners that other machines reach without authentication, which the configuration allows explicitly.
fn warn_of_insecure_listeners(config: &Config, metrics: &Metrics) {
    let exposed = config.exposed();
    metrics.insecure_listeners.set(i64::try_from(exposed.len()).unwrap_or(i64::MAX));
    for (listener, address, what) in exposed {
        tracing::warn!(listener, %address, "any client that reaches this listener can {what}");
    }
}
