//! Metrics of xDS.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::registrar::{Label, Registrar};

/// Values of the label `type`: one for each type of resources.
const TYPES: [&str; 4] = ["CDS", "EDS", "LDS", "RDS"];

/// Metrics of xDS streams.
#[derive(Debug)]
pub struct XdsMetrics {
    /// Open streams.
    pub streams: Gauge,
    responses: Family<TypeLabel, Counter>,
    rejections: Family<TypeLabel, Counter>,
}

impl XdsMetrics {
    pub(super) fn new(registrar: &mut Registrar) -> Self {
        let types = || vec![Label::new("type", &TYPES)];
        let metrics = Self {
            streams: registrar.gauge("xds_streams", "Open xDS streams"),
            responses: registrar.counter_family("xds_responses", "Responses on xDS streams, by type", types()),
            rejections: registrar.counter_family(
                "xds_rejections",
                "Responses that xDS clients rejected, by type",
                types(),
            ),
        };
        // Every series exists from the start.
        for name in TYPES {
            drop(metrics.responses.get_or_create(&TypeLabel { r#type: name }));
            drop(metrics.rejections.get_or_create(&TypeLabel { r#type: name }));
        }
        metrics
    }

    /// Counts a response with resources of a type.
    pub fn sent(&self, name: &'static str) {
        self.responses.get_or_create(&TypeLabel { r#type: name }).inc();
    }

    /// Counts a rejection of a response with resources of a type.
    pub fn rejected(&self, name: &'static str) {
        self.rejections.get_or_create(&TypeLabel { r#type: name }).inc();
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: &'static str,
}
