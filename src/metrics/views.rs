//! Metrics of the cache of encoded answers.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::registrar::{Label, Registrar};

/// Values of the label `view`: one for each kind of view.
pub const VIEW_LABELS: [&str; 9] = [
    "consul_health_service",
    "consul_health_checks",
    "consul_catalog_service",
    "consul_catalog_services",
    "service_tags",
    "dns_endpoints",
    "prometheus_targets",
    "xds_assignment",
    "watch_balancing",
];

/// Metrics of the cache of encoded answers.
#[derive(Debug)]
pub struct ViewMetrics {
    /// Bytes that the cache holds.
    pub bytes: Gauge,
    /// Answers that were removed to stay within the limit.
    pub evictions: Counter,
    hits: Family<ViewLabel, Counter>,
    misses: Family<ViewLabel, Counter>,
}

/// Lookups of one kind of view.
#[derive(Debug, Clone)]
pub struct ViewLookups {
    /// Lookups that found a current view.
    pub hits: Counter,
    /// Lookups that found no current view, so that it was computed.
    pub misses: Counter,
}

impl ViewMetrics {
    pub(super) fn new(registrar: &mut Registrar) -> Self {
        let view = || vec![Label::new("view", &VIEW_LABELS)];
        let metrics = Self {
            bytes: registrar.gauge("view_cache_bytes", "Bytes held by the cache of encoded answers"),
            evictions: registrar
                .counter("view_cache_evictions", "Answers removed from the cache to stay within its limit"),
            hits: registrar.counter_family("view_cache_hits", "Answers found in the cache, by view", view()),
            misses: registrar.counter_family(
                "view_cache_misses",
                "Answers that were computed because the cache had none, by view",
                view(),
            ),
        };
        // Every series exists from the start.
        for view in VIEW_LABELS {
            drop(metrics.lookups(view));
        }
        metrics
    }

    /// Returns the counters of a kind of view.
    #[must_use]
    pub fn lookups(&self, view: &'static str) -> ViewLookups {
        let label = ViewLabel { view };
        ViewLookups { hits: self.hits.get_or_create_owned(&label), misses: self.misses.get_or_create_owned(&label) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ViewLabel {
    view: &'static str,
}
