//! Metrics of xDS.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::registrar::{Label, Registrar};

/// Values of the label `type`: one for each type of resources.
const TYPES: [&str; 4] = ["CDS", "EDS", "LDS", "RDS"];

/// Values of the label `library`: one for each client library.
const LIBRARIES: [&str; 8] = ["core", "php", "java", "go", "node", "tonic", "envoy", "other"];

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
    /// Open streams of load reports.
    pub load_report_streams: Gauge,
    /// Load reports of clients.
    pub load_reports: Counter,
    /// Requests in load reports, by client library.
    reported_requests: Family<LibraryLabel, Counter>,
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
        let reported_requests = registrar.counter_family(
            "xds_reported_requests",
            "Requests that xDS clients started, as they report them, by client library",
            vec![Label::new("library", &LIBRARIES)],
        );
        for library in LIBRARIES {
            drop(reported_requests.get_or_create_owned(&LibraryLabel { library }));
        }
        Self {
            streams: registrar.gauge("xds_streams", "Open xDS streams"),
            cds,
            eds,
            lds,
            rds,
            load_report_streams: registrar.gauge("xds_load_report_streams", "Open streams of load reports"),
            load_reports: registrar.counter("xds_load_reports", "Load reports of xDS clients"),
            reported_requests,
        }
    }

    /// Counter of the requests that clients of a library report: one of the values of the label `library`.
    #[must_use]
    pub fn reported_requests(&self, library: &'static str) -> Counter {
        self.reported_requests.get_or_create_owned(&LibraryLabel { library })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LibraryLabel {
    library: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: &'static str,
}
