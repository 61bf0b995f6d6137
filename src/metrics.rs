//! What the process counts. Made once, handed to whoever counts; there is no global.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Seconds from 100 µs to 10 s.
const DELAYS: [f64; 16] = [
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Answered heartbeats.
    pub heartbeats: Heartbeats,
    /// Messages written to watches.
    pub watch: WatchMessages,
    /// Seconds from a change's commit to its being written to a stream, for each worker: so no worker waits for another.
    pub propagation: Family<WorkerLabel, Histogram, fn() -> Histogram>,
    /// Instances removed because their leases ran out.
    pub expired: Counter,
    /// Services that have instances.
    pub services: Gauge,
    /// Registered instances.
    pub instances: Gauge,
    /// Known leases, with those that are only remembered.
    pub leases: Gauge,
    /// Open watches.
    pub watches: Gauge,
    /// Open streams by worker, of any kind.
    pub streams: Family<WorkerLabel, Gauge>,
    /// The newest revision.
    pub revision: Gauge,
}

/// Which worker.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WorkerLabel {
    /// Its number.
    pub worker: u64,
}

/// Heartbeats, by what they were answered.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "as in the contract")]
pub struct Heartbeats {
    pub held: Counter,
    pub unknown: Counter,
    pub superseded: Counter,
    pub removed: Counter,
}

/// Messages of watches, by kind.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "as in the contract")]
pub struct WatchMessages {
    pub reset: Counter,
    pub snapshot: Counter,
    pub synced: Counter,
    pub changes: Counter,
    pub bookmark: Counter,
    pub notice: Counter,
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("callboard")),
            heartbeats: Heartbeats::default(),
            watch: WatchMessages::default(),
            propagation: Family::new_with_constructor(|| Histogram::new(DELAYS)),
            expired: Counter::default(),
            services: Gauge::default(),
            instances: Gauge::default(),
            leases: Gauge::default(),
            watches: Gauge::default(),
            streams: Family::default(),
            revision: Gauge::default(),
        };
        metrics.register();
        Arc::new(metrics)
    }

    fn register(&self) {
        let mut registry = self.registry.lock();
        let build = Family::<VersionLabel, Gauge>::default();
        build
            .get_or_create(&VersionLabel {
                version: env!("CARGO_PKG_VERSION").into(),
            })
            .set(1);
        registry.register("build_info", "Which version runs", build);
        let Heartbeats {
            held,
            unknown,
            superseded,
            removed,
        } = &self.heartbeats;
        for (state, counter) in [
            ("held", held),
            ("unknown", unknown),
            ("superseded", superseded),
            ("removed", removed),
        ] {
            let label = [("state".into(), state.into())].into_iter();
            let help = "Heartbeats, by what they were answered";
            registry
                .sub_registry_with_labels(label)
                .register("heartbeats", help, counter.clone());
        }
        let WatchMessages {
            reset,
            snapshot,
            synced,
            changes,
            bookmark,
            notice,
        } = &self.watch;
        for (kind, counter) in [
            ("reset", reset),
            ("snapshot", snapshot),
            ("synced", synced),
            ("changes", changes),
            ("bookmark", bookmark),
            ("notice", notice),
        ] {
            let label = [("kind".into(), kind.into())].into_iter();
            let help = "Messages written to watches";
            registry
                .sub_registry_with_labels(label)
                .register("watch_messages", help, counter.clone());
        }
        let help = "Seconds from a change's commit to its being written to a stream";
        registry.register("propagation_delay_seconds", help, self.propagation.clone());
        registry.register(
            "expired_instances",
            "Instances whose leases ran out",
            self.expired.clone(),
        );
        registry.register("services", "Services that have instances", self.services.clone());
        registry.register("instances", "Registered instances", self.instances.clone());
        registry.register(
            "leases",
            "Known leases, with those only remembered",
            self.leases.clone(),
        );
        registry.register("watches", "Open watches", self.watches.clone());
        registry.register("open_streams", "Open gRPC streams", self.streams.clone());
        registry.register("revision", "The newest revision", self.revision.clone());
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
    version: String,
}
