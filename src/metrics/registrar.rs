//! Registration of metrics together with the description that the reference page and its test use.

use std::{
    fmt::{self, Debug},
    hash::Hash,
};

#[cfg(target_os = "linux")]
use prometheus_client::collector::Collector;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Prefix of the names of metrics, except for those of collectors.
const PREFIX: &str = "callboard";

/// Values of the label `listener`.
pub(super) const LISTENERS: &[&str] = &["grpc", "http", "grpc_tls", "http_tls", "health", "dns"];

/// Upper bounds of histogram buckets, in seconds: 100 µs to 10 s.
const SECONDS: [f64; 16] =
    [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Type of a metric, as Prometheus names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricType {
    /// Value that only rises.
    Counter,
    /// Value that rises and falls.
    Gauge,
    /// Distribution of values over buckets.
    Histogram,
}

impl MetricType {
    /// Returns the name that Prometheus uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    /// Returns what `OpenMetrics` appends to the name of a metric with one sample.
    fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Gauge | Self::Histogram => "",
        }
    }
}

/// Label of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Name of the label.
    pub name: &'static str,
    /// Values that the label may have. Empty if there is no fixed list.
    pub values: Vec<&'static str>,
}

impl Label {
    pub(super) fn new(name: &'static str, values: &[&'static str]) -> Self {
        Self { name, values: values.to_vec() }
    }
}

/// Description of a metric, for the reference page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricDescription {
    /// Full name, as Prometheus stores it: with the prefix, and with `_total` for a counter.
    pub name: String,
    /// Type.
    pub kind: MetricType,
    /// Labels. Empty if there is one series.
    pub labels: Vec<Label>,
    /// Help text, without a full stop at its end.
    pub help: &'static str,
}

/// Registry that keeps the description of every metric it registers.
#[derive(Debug)]
pub(super) struct Registrar {
    registry: Registry,
    /// Metrics whose names have no prefix.
    collectors: Registry,
    descriptions: Vec<MetricDescription>,
}

impl Registrar {
    pub(super) fn new() -> Self {
        Self { registry: Registry::with_prefix(PREFIX), collectors: Registry::default(), descriptions: Vec::new() }
    }

    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> Counter {
        self.describe(name, MetricType::Counter, help, Vec::new());
        let counter = Counter::default();
        self.registry.register(name, help, counter.clone());
        counter
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> Gauge {
        self.describe(name, MetricType::Gauge, help, Vec::new());
        let gauge = Gauge::default();
        self.registry.register(name, help, gauge.clone());
        gauge
    }

    pub(super) fn histogram(&mut self, name: &'static str, help: &'static str) -> Histogram {
        self.describe(name, MetricType::Histogram, help, Vec::new());
        let histogram = Histogram::new(SECONDS);
        self.registry.register(name, help, histogram.clone());
        histogram
    }

    pub(super) fn counter_family<L>(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Vec<Label>,
    ) -> Family<L, Counter>
    where
        L: LabelSet,
    {
        self.describe(name, MetricType::Counter, help, labels);
        let family = Family::default();
        self.registry.register(name, help, family.clone());
        family
    }

    pub(super) fn gauge_family<L>(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Vec<Label>,
    ) -> Family<L, Gauge>
    where
        L: LabelSet,
    {
        self.describe(name, MetricType::Gauge, help, labels);
        let family = Family::default();
        self.registry.register(name, help, family.clone());
        family
    }

    pub(super) fn histogram_family<L>(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: Vec<Label>,
    ) -> Family<L, Histogram, fn() -> Histogram>
    where
        L: LabelSet,
    {
        self.describe(name, MetricType::Histogram, help, labels);
        let family = Family::new_with_constructor((|| Histogram::new(SECONDS)) as fn() -> Histogram);
        self.registry.register(name, help, family.clone());
        family
    }

    /// Registers metrics without a prefix that the collector computes at each scrape: names without suffix, types, help texts.
    #[cfg(target_os = "linux")]
    pub(super) fn collector(
        &mut self,
        collector: impl Collector,
        metrics: &[(&'static str, MetricType, &'static str)],
    ) {
        self.collectors.register_collector(Box::new(collector));
        let described = metrics.iter().map(|&(name, kind, help)| MetricDescription {
            name: format!("{name}{}", kind.suffix()),
            kind,
            labels: Vec::new(),
            help,
        });
        self.descriptions.extend(described);
    }

    /// Writes all metrics in the text format of `OpenMetrics`.
    pub(super) fn encode(&self, writer: &mut impl fmt::Write) -> fmt::Result {
        text::encode_registry(writer, &self.registry)?;
        text::encode(writer, &self.collectors)
    }

    /// Returns the description of every metric, sorted by name.
    pub(super) fn descriptions(&self) -> Vec<MetricDescription> {
        let mut descriptions = self.descriptions.clone();
        descriptions.sort_by(|one, other| one.name.cmp(&other.name));
        descriptions
    }

    fn describe(&mut self, name: &'static str, kind: MetricType, help: &'static str, labels: Vec<Label>) {
        let name = format!("{PREFIX}_{name}{}", kind.suffix());
        self.descriptions.push(MetricDescription { name, kind, labels, help });
    }
}

/// Traits that a set of labels needs.
pub(super) trait LabelSet: Clone + Debug + Eq + Hash + EncodeLabelSet + Send + Sync + 'static {}

impl<L: Clone + Debug + Eq + Hash + EncodeLabelSet + Send + Sync + 'static> LabelSet for L {}
