//! Construction of what all protocols share: engine, registry, health checks and clock.

use std::{collections::BTreeSet, fs, sync::Arc};

use tokio::runtime::Handle;

use super::{StartError, import::read_export};
use crate::{
    app::{Commands, ServerContext, Views, Watchers},
    clock::Clock,
    config::{Config, EtcdConfig},
    engine::{
        Disk, Engine, Etcd, Memory, StartPoint,
        disk::{DiskDependencies, StoreError},
        etcd::{EtcdDependencies, EtcdSettings, ReplicaSession},
    },
    etcd::{EtcdCredentials, EtcdOptions, EtcdTls},
    health_check::{ChangeQueue, HealthChecks, ProbePolicy},
    metrics::Metrics,
    model::{FieldError, Incarnation, PolicyScope, ServiceName},
    protocol::consul::{AgentIdentity, Consul},
    random,
    registry::{ChangeListener, ClockReading, Entry, Event},
    transport::{FatalReporter, Notifier},
};

/// Opens the registry, and completes writes that the end of an earlier process interrupted.
pub(super) fn open(
    config: &Config,
    fatal: &FatalReporter,
) -> Result<(Arc<ServerContext>, Arc<HealthChecks>), StartError> {
    let workers = config.workers.get();
    // The HTTP worker has a notifier as well, but expiry does not wait for the progress of that worker.
    let (notifier, clock) = (Arc::new(Notifier::new(workers + 1)), Arc::new(Clock::new(workers)));
    let metrics = Metrics::new();
    let incarnation = Incarnation(random::u64());
    let changed_checks = Arc::new(ChangeQueue::default());
    let listener: Arc<dyn ChangeListener> =
        Arc::new(FanoutListener { notifier: Arc::clone(&notifier), changed_checks: Arc::clone(&changed_checks) });
    let engine: Arc<dyn Engine> = match (&config.etcd, &config.data_dir) {
        (None, None) => Arc::new(open_memory(config, incarnation, &clock, listener)?),
        (Some(etcd), _) => {
            let settings = etcd_settings(etcd, config, clock.now())?;
            let dependencies = EtcdDependencies {
                clock: Arc::clone(&clock),
                listener,
                metrics: metrics.etcd.clone(),
                incarnation,
                settle: config.settle,
            };
            let fatal = fatal.clone();
            Arc::new(Etcd::open(settings, dependencies, Box::new(move |reason| fatal.report(reason)))?)
        }
        (None, Some(directory)) => {
            let (metrics, start) = (metrics.store.clone(), StartPoint::new(incarnation, clock.now()));
            let dependencies = DiskDependencies { clock: Arc::clone(&clock), listener, metrics, start };
            let fatal = fatal.clone();
            let on_failure = Box::new(move |error: StoreError| fatal.report(error.to_string()));
            Arc::new(Disk::open(directory, config.durability, dependencies, on_failure)?)
        }
    };
    // A new incarnation lacks registrations that readers of an earlier one remember: the registry was in memory or in another file, or a crash
    // lost the last acknowledged changes.
    let is_new_incarnation = engine.registry().incarnation() == incarnation;
    let counters = (metrics.check_results.clone(), metrics.check_changes.clone());
    let commands = Commands::new(&engine, &clock, Some(Handle::current()));
    commands.recover()?;
    let checks = HealthChecks::new(&commands, &clock, changed_checks, probe_policy(config), counters);
    let context = ServerContext {
        engine,
        commands,
        notifier,
        clock,
        views: Views::new(&metrics.views),
        metrics,
        watchers: Watchers::default(),
        weights: Arc::default(),
        max_message_size: config.max_message_size,
        bookmarks: config.bookmark_interval,
        replica: config.replica_name(),
    };
    if is_new_incarnation {
        context.settle(config.settle);
    }
    Ok((Arc::new(context), checks))
}

/// Returns an engine in memory, with the contents of the configured export if there is one.
fn open_memory(
    config: &Config,
    incarnation: Incarnation,
    clock: &Clock,
    listener: Arc<dyn ChangeListener>,
) -> Result<Memory, StartError> {
    let Some(file) = &config.import else { return Ok(Memory::new(incarnation, clock.now(), listener)) };
    let exported = read_export(file)?;
    // The clock is read after the file, which may take seconds: every lease has its full TTL from here on.
    Ok(Memory::from_export(incarnation, exported, clock.now(), listener))
}

/// Returns the options of the client of etcd, with the password that the file has.
///
/// # Errors
///
/// When the file with the password cannot be read.
pub fn etcd_options(etcd: &EtcdConfig) -> Result<EtcdOptions, StartError> {
    let mut options = EtcdOptions::new(etcd.endpoints.iter().cloned());
    options.tls = EtcdTls { ca: etcd.ca.clone(), certificate: etcd.certificate.clone() };
    if let Some((user, path)) = &etcd.user {
        let password =
            fs::read_to_string(path).map_err(|source| StartError::EtcdPassword { path: path.clone(), source })?;
        let password = password.strip_suffix('\n').unwrap_or(&password);
        let password = password.strip_suffix('\r').unwrap_or(password).to_owned();
        options.credentials = Some(EtcdCredentials { user: user.clone(), password });
    }
    Ok(options)
}

/// Returns the settings of the engine.
fn etcd_settings(etcd: &EtcdConfig, config: &Config, now: ClockReading) -> Result<EtcdSettings, StartError> {
    let options = etcd_options(etcd)?;
    let grpc = config.grpc.or(config.grpc_tls).map_or_else(String::new, |address| address.to_string());
    let http = config.http.or(config.http_tls).map(|address| address.to_string().into());
    let session = ReplicaSession {
        replica: config.replica_name().into(),
        version: env!("CARGO_PKG_VERSION").into(),
        started_at: now.wall,
        grpc_listener: grpc.as_str().into(),
        grpc_address: grpc.as_str().into(),
        http_listener: http,
    };
    Ok(EtcdSettings { options, cluster: etcd.cluster.clone(), session })
}

/// Passes changes on to the streams and to the health checks.
#[derive(Debug)]
struct FanoutListener {
    notifier: Arc<Notifier>,
    changed_checks: Arc<ChangeQueue>,
}

impl ChangeListener for FanoutListener {
    fn changed(&self, event: &Event) {
        self.notifier.changed(event);
        self.changed_checks.changed(event);
    }

    fn topics_changed(&self, topics: &dyn Fn() -> BTreeSet<ServiceName>) {
        self.notifier.topics_changed(topics);
    }

    fn policy_changed(&self, scope: &PolicyScope) {
        self.notifier.policy_changed(scope);
    }

    fn holder_changed(&self, entry: &Arc<Entry>) {
        self.changed_checks.holder_changed(entry);
    }

    fn incarnation_changed(&self) {
        self.notifier.wake_all();
    }
}

/// Consul's API, with the identity that the configuration gives this registry.
pub(super) fn consul(
    config: &Config,
    context: &Arc<ServerContext>,
    checks: &Arc<HealthChecks>,
) -> Result<Arc<Consul>, FieldError> {
    let incarnation = context.engine.registry().incarnation();
    let node = config.node_name();
    let agent = AgentIdentity {
        id: config.consul.node_id.clone().unwrap_or_else(|| AgentIdentity::derived_id(incarnation, &node)),
        datacenter: config.consul.datacenter.clone(),
        meta: config.consul.node_meta.clone(),
        address: config.node_address(),
        node,
    };
    Consul::new(context, checks, agent, config.consul.max_blocking_queries.get() as usize)
}

/// Returns the policy of health checks: any address may be probed if only this machine can register checks.
fn probe_policy(config: &Config) -> ProbePolicy {
    let listeners = [config.grpc, config.http, config.grpc_tls, config.http_tls];
    let exposed = listeners.into_iter().flatten().any(|address| !address.ip().to_canonical().is_loopback());
    ProbePolicy { exposed, allowed: config.check_allow_cidr.clone() }
}
