//! What the process counts. Made once, handed to whoever counts; there is no global.

mod connections;
mod dns;
mod tls;

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

pub use connections::{ConnectionMetrics, EvictReason, RejectReason};
pub use dns::{DnsMetrics, DnsResponseCode};
pub use tls::{CertificateFile, TlsMetrics};

/// Seconds from 100 µs to 10 s.
const DELAYS: [f64; 16] =
    [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Answered heartbeats.
    pub heartbeats: HeartbeatMetrics,
    /// Messages written to watches.
    pub watch: WatchMessages,
    /// Seconds from a change's commit to its being written to a stream, for each worker: so no worker waits for another.
    pub propagation: Family<WorkerLabel, Histogram, fn() -> Histogram>,
    /// TLS.
    pub tls: TlsMetrics,
    /// Listeners that other machines reach and that check nobody.
    pub insecure_listeners: Gauge,
    /// Instances removed because their leases ran out.
    pub expired: Counter,
    /// Times that protection from mass expiry began, of a service or of all.
    pub protections: Counter,
    /// Services that are protected.
    pub protected_services: Gauge,
    /// Whether the registry as a whole is.
    pub protected_registry: Gauge,
    /// Instances that are held though their leases ran out.
    pub suspects: Gauge,
    /// Services that have instances.
    pub services: Gauge,
    /// Registered instances.
    pub instances: Gauge,
    /// Known leases, with those that are only remembered.
    pub leases: Gauge,
    /// Open watches.
    pub watches: Gauge,
    /// Those of them that wait until the registry has settled.
    pub waiting: Gauge,
    /// 1 while the registry settles.
    pub settling: Gauge,
    /// Open streams by worker, of any kind.
    pub streams: Family<WorkerLabel, Gauge>,
    /// The newest revision.
    pub revision: Gauge,
    /// Consul queries that wait for changes.
    pub parked: Gauge,
    /// Health checks.
    pub checks: Gauge,
    /// Results of health checks: probes made and reports taken.
    pub check_results: Counter,
    /// Verdicts of health checks that changed.
    pub check_changes: Counter,
    /// The disk engine's.
    pub store: StoreMetrics,
    /// What becomes of connections.
    pub connections: ConnectionMetrics,
    /// What becomes of questions of DNS.
    pub dns: DnsMetrics,
}

/// What the writer of a store counts.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    /// Seconds of a transaction, with its way to the disk where it waits for that.
    pub commit: Histogram,
    /// Changes written.
    pub changes: Counter,
    /// Records that this version cannot use.
    pub unreadable: Gauge,
}

impl StoreMetrics {
    fn new(registry: &mut Registry) -> Self {
        let (commit, changes) = (Histogram::new(DELAYS), Counter::default());
        registry.register("store_commit_seconds", "Seconds of a transaction of the store", commit.clone());
        registry.register("store_changes", "Changes written to the store", changes.clone());
        let unreadable = Gauge::default();
        let help = "Records of the store that this version cannot use: their instances are missing";
        registry.register("store_unreadable_records", help, unreadable.clone());
        Self { commit, changes, unreadable }
    }
}

/// Which worker.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WorkerLabel {
    /// Its number.
    pub worker: u64,
}

/// Heartbeats, by what they were answered.
#[derive(Debug)]
#[expect(missing_docs, reason = "as in the contract")]
pub struct HeartbeatMetrics {
    pub held: Counter,
    pub unknown: Counter,
    pub superseded: Counter,
    pub removed: Counter,
}

impl HeartbeatMetrics {
    fn new(registry: &mut Registry) -> Self {
        let family = Family::<StateLabel, Counter>::default();
        registry.register("heartbeats", "Heartbeats, by what they were answered", family.clone());
        let counter = |state| family.get_or_create_owned(&StateLabel { state });
        Self {
            held: counter("held"),
            unknown: counter("unknown"),
            superseded: counter("superseded"),
            removed: counter("removed"),
        }
    }
}

/// Messages of watches, by kind.
#[derive(Debug)]
#[expect(missing_docs, reason = "as in the contract")]
pub struct WatchMessages {
    pub reset: Counter,
    pub snapshot: Counter,
    pub synced: Counter,
    pub changes: Counter,
    pub bookmark: Counter,
    pub notice: Counter,
}

impl WatchMessages {
    fn new(registry: &mut Registry) -> Self {
        let family = Family::<KindLabel, Counter>::default();
        registry.register("watch_messages", "Messages written to watches", family.clone());
        let counter = |kind| family.get_or_create_owned(&KindLabel { kind });
        Self {
            reset: counter("reset"),
            snapshot: counter("snapshot"),
            synced: counter("synced"),
            changes: counter("changes"),
            bookmark: counter("bookmark"),
            notice: counter("notice"),
        }
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("callboard");
        let build = Family::<VersionLabel, Gauge>::default();
        build.get_or_create(&VersionLabel { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("build_info", "Which version runs", build);
        let propagation = Family::new_with_constructor((|| Histogram::new(DELAYS)) as fn() -> Histogram);
        let help = "Seconds from a change's commit to its being written to a stream";
        registry.register("propagation_delay_seconds", help, propagation.clone());
        let (expired, streams) = (Counter::default(), Family::default());
        registry.register("expired_instances", "Instances whose leases ran out", expired.clone());
        let protections = Counter::default();
        let help = "Times that protection from mass expiry began, of a service or of the registry";
        registry.register("protections", help, protections.clone());
        let (check_results, check_changes) = (Counter::default(), Counter::default());
        registry.register("check_results", "Probes made and reports taken", check_results.clone());
        registry.register("check_changes", "Verdicts of health checks that changed", check_changes.clone());
        registry.register("open_streams", "Open gRPC streams, by worker", streams.clone());
        let mut gauge = |name, help| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Arc::new(Self {
            protected_services: gauge("protected_services", "Services that are protected from mass expiry"),
            protected_registry: gauge("protected_registry", "1 while the registry as a whole is protected"),
            suspects: gauge("suspect_instances", "Instances that are held though their leases ran out"),
            services: gauge("services", "Services that have instances"),
            instances: gauge("instances", "Registered instances"),
            insecure_listeners: gauge("insecure_listeners", "Listeners open to other machines that check nobody"),
            leases: gauge("leases", "Known leases, with those only remembered"),
            watches: gauge("watches", "Open watches"),
            waiting: gauge("waiting_watches", "Open watches that wait until the registry has settled"),
            settling: gauge("settling", "1 while the registry settles after a start that lost registrations"),
            revision: gauge("revision", "The newest revision"),
            parked: gauge("parked_queries", "Consul queries that wait for changes"),
            checks: gauge("checks", "Health checks"),
            heartbeats: HeartbeatMetrics::new(&mut registry),
            watch: WatchMessages::new(&mut registry),
            store: StoreMetrics::new(&mut registry),
            connections: ConnectionMetrics::new(&mut registry),
            dns: DnsMetrics::new(&mut registry),
            tls: TlsMetrics::new(&mut registry),
            check_results,
            check_changes,
            propagation,
            expired,
            protections,
            streams,
            registry: Mutex::new(registry),
        })
    }

    /// All of it in the text format of OpenMetrics, which Prometheus reads.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry.lock());
        text
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabel {
    version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}
