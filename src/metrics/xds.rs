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
    /// Counters of clusters.
    pub cds: XdsCounters,
    /// Counters of endpoints.
    pub eds: XdsCounters,
    /// Counters of listeners.
    pub lds: XdsCounters,
    /// Counters of routes.
    pub rds: XdsCounters,
}

/// Counters of one type of resources.
#[derive(Debug)]
pub struct XdsCounters {
    /// Responses with resources of the type.
    pub responses: Counter,
    /// Responses with resources of the type that clients rejected.
    pub rejections: Counter,
}

impl XdsMetrics {
    pub(super) fn new(registrar: &mut Registrar) -> Self {
        let types = || vec![Label::new("type", &TYPES)];
        let responses: Family<TypeLabel, Counter> =
            registrar.counter_family("xds_responses", "Responses on xDS streams, by type", types());
        let rejections: Family<TypeLabel, Counter> =
            registrar.counter_family("xds_rejections", "Responses that xDS clients rejected, by type", types());
        let [cds, eds, lds, rds] = TYPES.map(|name| {
            let label = TypeLabel { r#type: name };
            XdsCounters {
                responses: responses.get_or_create_owned(&label),
                rejections: rejections.get_or_create_owned(&label),
            }
        });
        Self { streams: registrar.gauge("xds_streams", "Open xDS streams"), cds, eds, lds, rds }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: &'static str,
}
