//! Metrics of the process, in the format of `OpenMetrics`.
//!
//! [`Metrics`] is created once and passed to the parts that count; there is no global registry of metrics.

mod connections;
mod dns;
mod etcd;
#[cfg(target_os = "linux")]
mod process;
mod registrar;
mod tls;
mod views;
mod xds;

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

pub use connections::{ConnectionMetrics, EvictReason, RejectReason};
pub use dns::{DnsMetrics, DnsResponseCode};
pub use etcd::EtcdMetrics;
use registrar::Registrar;
pub use registrar::{Label, MetricDescription, MetricType};
pub use tls::{CertificateFile, TlsMetrics};
pub use views::{VIEW_LABELS, ViewLookups, ViewMetrics};
pub use xds::{XdsCounters, XdsMetrics};

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registrar: Mutex<Registrar>,
    /// Heartbeats that were answered, by the state of the lease.
    pub heartbeats: HeartbeatMetrics,
    /// Messages written to watch streams.
    pub watch: WatchMessages,
    /// Seconds from the commit of a change until it is written to a stream. One histogram for each worker, so that no
    /// worker waits for another.
    pub propagation: Family<WorkerLabel, Histogram, fn() -> Histogram>,
    /// TLS handshakes and certificates.
    pub tls: TlsMetrics,
    /// Listeners that other machines reach and that authenticate no client.
    pub insecure_listeners: Gauge,
    /// Instances removed because their leases expired.
    pub expired: Counter,
    /// Times that self-preservation started.
    pub self_preservation_starts: Counter,
    /// Services in self-preservation.
    pub self_preservation_services: Gauge,
    /// 1 while the registry as a whole is in self-preservation.
    pub self_preservation_registry: Gauge,
    /// Instances that self-preservation holds although their leases expired.
    pub suspects: Gauge,
    /// Services that have instances.
    pub services: Gauge,
    /// Registered instances.
    pub instances: Gauge,
    /// Policies of services, and the defaults.
    pub policies: Gauge,
    /// Leases in the lease table, including ended ones that are still remembered.
    pub leases: Gauge,
    /// Open watches.
    pub watches: Gauge,
    /// Open watches that wait until the registry has settled.
    pub settling_watches: Gauge,
    /// 1 while the registry settles.
    pub settling: Gauge,
    /// Open gRPC streams by worker.
    pub streams: Family<WorkerLabel, Gauge>,
    /// Newest revision.
    pub revision: Gauge,
    /// Open blocking queries of Consul's API.
    pub blocking_queries: Gauge,
    /// Health checks that this process runs.
    pub checks: Gauge,
    /// Results of health checks: probes made and reports received.
    pub check_results: Counter,
    /// Changes of a health check's status.
    pub check_changes: Counter,
    /// Metrics of the disk engine.
    pub store: StoreMetrics,
    /// Metrics of the etcd engine.
    pub etcd: EtcdMetrics,
    /// Metrics of connections and streams.
    pub connections: ConnectionMetrics,
    /// DNS queries.
    pub dns: DnsMetrics,
    /// Cache of encoded answers.
    pub views: ViewMetrics,
    /// xDS streams.
    pub xds: XdsMetrics,
}

/// Metrics of the disk engine's writer.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    /// Seconds that a transaction takes, including the sync if the durability requires one.
    pub commit: Histogram,
    /// Changes written.
    pub changes: Counter,
    /// Records that this version cannot read.
    pub unreadable: Gauge,
}

impl StoreMetrics {
    fn new(registrar: &mut Registrar) -> Self {
        Self {
            commit: registrar.histogram("store_commit_seconds", "Duration of a transaction of the store"),
            changes: registrar.counter("store_changes", "Changes written to the store"),
            unreadable: registrar.gauge(
                "store_unreadable_records",
                "Records of the store that this version cannot read; their instances and policies are missing",
            ),
        }
    }
}

/// Label with the number of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WorkerLabel {
    /// Number of the worker, from 0.
    pub worker: u64,
}

/// Number of answered heartbeats by the state of the lease.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are the states of the proto's LeaseState")]
pub struct HeartbeatMetrics {
    pub held: Counter,
    pub unknown: Counter,
    pub superseded: Counter,
    pub removed: Counter,
}

impl HeartbeatMetrics {
    fn new(registrar: &mut Registrar) -> Self {
        let states = Label::new("state", &["held", "unknown", "superseded", "removed"]);
        let family: Family<StateLabel, Counter> = registrar.counter_family(
            "heartbeats",
            "Heartbeats that were answered, by the state of the lease",
            vec![states],
        );
        let counter = |state| family.get_or_create_owned(&StateLabel { state });
        Self {
            held: counter("held"),
            unknown: counter("unknown"),
            superseded: counter("superseded"),
            removed: counter("removed"),
        }
    }
}

/// Number of messages written to watch streams by kind.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are the messages of the proto's WatchResponse")]
pub struct WatchMessages {
    pub reset: Counter,
    pub snapshot: Counter,
    pub synced: Counter,
    pub changes: Counter,
    pub bookmark: Counter,
    pub notice: Counter,
    pub balancing: Counter,
}

impl WatchMessages {
    fn new(registrar: &mut Registrar) -> Self {
        let kinds = Label::new("kind", &["reset", "snapshot", "synced", "changes", "bookmark", "notice", "balancing"]);
        let family: Family<KindLabel, Counter> =
            registrar.counter_family("watch_messages", "Messages written to watch streams, by kind", vec![kinds]);
        let counter = |kind| family.get_or_create_owned(&KindLabel { kind });
        Self {
            reset: counter("reset"),
            snapshot: counter("snapshot"),
            synced: counter("synced"),
            changes: counter("changes"),
            bookmark: counter("bookmark"),
            notice: counter("notice"),
            balancing: counter("balancing"),
        }
    }
}

impl Metrics {
    /// Creates all metrics, each at zero.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a table: one entry for each metric")]
    pub fn new() -> Arc<Self> {
        let mut registrar = Registrar::new();
        let version = vec![Label::new("version", &[])];
        let build: Family<VersionLabel, Gauge> =
            registrar.gauge_family("build_info", "Version of the running process; the value is always 1", version);
        build.get_or_create(&VersionLabel { version: env!("CARGO_PKG_VERSION") }).set(1);
        #[cfg(target_os = "linux")]
        process::register(&mut registrar);
        let worker = || vec![Label::new("worker", &[])];
        let propagation = registrar.histogram_family(
            "propagation_delay_seconds",
            "Time from the commit of a change until it is written to a watch stream",
            worker(),
        );
        let streams = registrar.gauge_family("open_streams", "Open gRPC streams, by worker", worker());
        let mut counter = |name, help| registrar.counter(name, help);
        let expired = counter("expired_instances", "Instances that were removed because their leases expired");
        let self_preservation_starts = counter(
            "self_preservation_starts",
            "Times that self-preservation started, for a service or for the registry as a whole",
        );
        let check_results = counter("check_results", "Results of health checks: probes made and reports received");
        let check_changes = counter("check_status_changes", "Changes of the status of health checks");
        let mut gauge = |name, help| registrar.gauge(name, help);
        Arc::new(Self {
            self_preservation_services: gauge("self_preservation_services", "Services in self-preservation"),
            self_preservation_registry: gauge(
                "self_preservation_registry",
                "1 while the registry as a whole is in self-preservation",
            ),
            suspects: gauge("suspect_instances", "Instances that self-preservation holds beyond their leases"),
            services: gauge("services", "Services that have instances"),
            instances: gauge("instances", "Registered instances"),
            insecure_listeners: gauge(
                "insecure_listeners",
                "Listeners that other machines can reach and that authenticate no client",
            ),
            policies: gauge("policies", "Policies of services, and the defaults as one"),
            leases: gauge("leases", "Leases in the lease table, including ended ones that are still remembered"),
            watches: gauge("watches", "Open watches"),
            settling_watches: gauge("settling_watches", "Open watches that wait until the registry has settled"),
            settling: gauge("settling", "1 while the registry settles after a start that lost registrations"),
            revision: gauge("revision", "Newest revision of the registry"),
            blocking_queries: gauge("blocking_queries", "Open blocking queries of Consul's API"),
            checks: gauge("checks", "Health checks that this process runs"),
            heartbeats: HeartbeatMetrics::new(&mut registrar),
            watch: WatchMessages::new(&mut registrar),
            store: StoreMetrics::new(&mut registrar),
            etcd: EtcdMetrics::new(&mut registrar),
            connections: ConnectionMetrics::new(&mut registrar),
            dns: DnsMetrics::new(&mut registrar),
            tls: TlsMetrics::new(&mut registrar),
            views: ViewMetrics::new(&mut registrar),
            xds: XdsMetrics::new(&mut registrar),
            check_results,
            check_changes,
            propagation,
            expired,
            self_preservation_starts,
            streams,
            registrar: Mutex::new(registrar),
        })
    }

    /// Returns the description of every metric, sorted by name.
    #[must_use]
    pub fn descriptions(&self) -> Vec<MetricDescription> {
        self.registrar.lock().descriptions()
    }

    /// Returns all metrics in the text format of `OpenMetrics`, which Prometheus reads.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.registrar.lock().encode(&mut text);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives every metric whose labels have no series yet one series.
    fn with_every_series() -> Arc<Metrics> {
        let metrics = Metrics::new();
        metrics.streams.get_or_create(&WorkerLabel { worker: 0 }).set(1);
        metrics.propagation.get_or_create(&WorkerLabel { worker: 0 }).observe(0.1);
        metrics.connections.open("grpc").set(1);
        metrics.connections.handshake_failed("grpc");
        metrics.tls.expires(CertificateFile::Own, 1);
        metrics
    }

    #[test]
    fn descriptions_match_the_encoded_metrics() {
        let metrics = with_every_series();
        let text = metrics.to_text();
        let types: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert_eq!(types.len(), metrics.descriptions().len());
        for description in metrics.descriptions() {
            let family = description.name.strip_suffix("_total").unwrap_or(&description.name);
            assert!(types.contains(&format!("{family} {}", description.kind.name()).as_str()), "{family} in {types:?}");
            assert!(text.contains(&format!("# HELP {family} {}.\n", description.help)), "{family}");
            let sample = if description.kind == MetricType::Histogram { "_count" } else { "" };
            let series = format!("{}{sample}", description.name);
            let mut samples = text
                .lines()
                .filter(|line| line.strip_prefix(series.as_str()).is_some_and(|rest| rest.starts_with(['{', ' '])));
            let labels: Vec<_> = description.labels.iter().map(|label| label.name).collect();
            assert!(samples.clone().next().is_some(), "{series} has no sample");
            assert!(samples.all(|sample| labels_of(sample) == labels), "{series}: {labels:?}");
        }
    }

    fn labels_of(sample: &str) -> Vec<&str> {
        let labels = sample.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
        labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name).collect()
    }

    #[test]
    fn every_series_has_a_described_label_value() {
        let metrics = with_every_series();
        let text = metrics.to_text();
        for description in metrics.descriptions() {
            for label in description.labels.iter().filter(|label| !label.values.is_empty()) {
                let key = format!("{}=\"", label.name);
                let samples = text.lines().filter(|line| line.starts_with(&format!("{}{{", description.name)));
                let found: Vec<_> = samples
                    .filter_map(|sample| sample.split_once(&key)?.1.split_once('"'))
                    .map(|(value, _)| value)
                    .collect();
                assert!(!found.is_empty(), "{}", description.name);
                assert!(found.iter().all(|value| label.values.contains(value)), "{}: {found:?}", description.name);
            }
        }
    }
}
