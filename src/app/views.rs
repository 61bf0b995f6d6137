//! Cache of views: what protocols encode or compute from the registry, computed once for all readers of one state.
//!
//! The key of a view is its kind, its subject (usually a service) and a query. The cache also stores the version of the registry from
//! which the view was computed. A reader gets the view only while that version is current: after a change the first reader computes the
//! view again, and others that ask for it at the same time wait.
//!
//! All kinds of views have one limit, in bytes, and one eviction policy, that of [`quick_cache`] (CLOCK-Pro with the small queue of
//! S3-FIFO): views that were read once are evicted before views that are read repeatedly. So neither a read of all services nor a
//! series of queries that are never repeated evicts the frequently read views.
//!
//! The cache knows no wire format: [`ViewValue`]s are computed by the protocols, and weighed once, when they are inserted. A new protocol
//! adds a kind to [`View`] and nothing else.

#[cfg(test)]
mod tests;

use std::{
    any::Any,
    hash::{Hash, RandomState},
    io::Write as _,
    sync::Arc,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use prometheus_client::metrics::counter::Counter;
use quick_cache::{
    Equivalent, Lifecycle, OptionsBuilder, Weighter,
    sync::{Cache, GuardResult},
};

use crate::{
    metrics::{ViewLookups, ViewMetrics},
    model::Revision,
};

/// Maximum weight of all views together, in bytes.
const MAX_VIEW_BYTES: usize = 64 * 1024 * 1024;
/// Parts of the cache, each with its own lock and its part of the limit. One part, because a view that is larger than a part is not kept,
/// and the threads of the workers read more often than they insert.
const SHARDS: usize = 1;
/// Expected number of views, from which the number of remembered evictions follows.
const EXPECTED_VIEWS: usize = 4_096;
/// Bytes that a view takes besides its value and its key.
const ENTRY_BYTES: usize = 192;
/// Minimum size of a view that is compressed, in bytes: a smaller one fits a packet uncompressed.
const MIN_GZIP_BYTES: usize = 1_400;

/// Kind of a view: what is shown, and in which encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum View {
    /// `/v1/health/service` in JSON.
    ConsulHealthService,
    /// `/v1/health/checks` in JSON.
    ConsulHealthChecks,
    /// `/v1/catalog/service` in JSON.
    ConsulCatalogService,
    /// `/v1/catalog/services` in JSON.
    ConsulCatalogServices,
    /// Tags of the instances of a service.
    ServiceTags,
    /// Instances of a service as DNS answers them.
    DnsEndpoints,
    /// Targets for Prometheus in JSON.
    PrometheusTargets,
    /// Endpoints of a service as xDS encodes them.
    XdsAssignment,
    /// Effective weights and policy of a service as watches send them.
    WatchBalancing,
}

impl View {
    const ALL: [Self; 9] = [
        Self::ConsulHealthService,
        Self::ConsulHealthChecks,
        Self::ConsulCatalogService,
        Self::ConsulCatalogServices,
        Self::ServiceTags,
        Self::DnsEndpoints,
        Self::PrometheusTargets,
        Self::XdsAssignment,
        Self::WatchBalancing,
    ];

    /// Name of the view in metrics.
    fn label(self) -> &'static str {
        match self {
            Self::ConsulHealthService => "consul_health_service",
            Self::ConsulHealthChecks => "consul_health_checks",
            Self::ConsulCatalogService => "consul_catalog_service",
            Self::ConsulCatalogServices => "consul_catalog_services",
            Self::ServiceTags => "service_tags",
            Self::DnsEndpoints => "dns_endpoints",
            Self::PrometheusTargets => "prometheus_targets",
            Self::XdsAssignment => "xds_assignment",
            Self::WatchBalancing => "watch_balancing",
        }
    }
}

/// Key of a view, borrowed, so that a lookup allocates nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ViewKey<'a> {
    view: View,
    subject: &'a str,
    query: &'a str,
    gzip: bool,
}

impl<'a> ViewKey<'a> {
    /// Returns the key of the view of a subject, usually a service, that answers a query. `query` is equal for equal
    /// queries.
    #[must_use]
    pub fn new(view: View, subject: &'a str, query: &'a str) -> Self {
        Self { view, subject, query, gzip: false }
    }
}

/// Key of a view in the cache. Its fields have the same hash as those of [`ViewKey`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct StoredKey {
    view: View,
    subject: Box<str>,
    query: Box<str>,
    gzip: bool,
}

impl From<ViewKey<'_>> for StoredKey {
    fn from(key: ViewKey<'_>) -> Self {
        Self { view: key.view, subject: key.subject.into(), query: key.query.into(), gzip: key.gzip }
    }
}

impl Equivalent<StoredKey> for ViewKey<'_> {
    fn equivalent(&self, stored: &StoredKey) -> bool {
        (self.view, self.subject, self.query, self.gzip) == (stored.view, &*stored.subject, &*stored.query, stored.gzip)
    }
}

/// State of the registry from which a view was computed. It is read before the view is computed, so a view may be newer than its
/// version, and is then computed once more, but it is never older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewVersion {
    /// Highest revision among what the view shows.
    pub revision: Revision,
    /// Number of services that the view shows. It changes when a service is removed, which does not raise the highest
    /// revision.
    pub services: usize,
    /// Revision of the nodes, where the view depends on them.
    pub nodes: Option<Revision>,
    /// Hash of what the view depends on besides that: revisions of other services, settings. 0: nothing.
    pub inputs: u64,
    /// Monotonic time in microseconds from which the view is no longer current. Set if the view contains data that changes without
    /// a revision.
    pub expires_at: Option<u64>,
}

impl ViewVersion {
    /// Version of a view that a revision alone determines.
    #[must_use]
    pub fn at(revision: Revision) -> Self {
        Self { revision, services: 1, nodes: None, inputs: 0, expires_at: None }
    }

    /// Returns whether the view is that of a revision and, at this time, has not expired.
    #[must_use]
    pub fn is_at(&self, revision: Revision, now_us: u64) -> bool {
        self.revision == revision && self.expires_at.is_none_or(|expires| now_us < expires)
    }
}

/// Content of a view.
pub trait ViewValue: Any + Send + Sync {
    /// Size in memory, in bytes. It must not grow while the value is in the cache.
    fn bytes(&self) -> usize;
}

/// A view as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedView {
    /// Body of the answer. All readers share the buffer.
    pub bytes: Bytes,
    /// Set if the body is compressed with gzip.
    pub gzip: bool,
}

impl From<Bytes> for EncodedView {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, gzip: false }
    }
}

impl ViewValue for EncodedView {
    fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// A view in the cache.
#[derive(Clone)]
struct CachedView {
    version: ViewVersion,
    weight: u64,
    value: Arc<dyn Any + Send + Sync>,
}

/// Weighs a view by its bytes.
#[derive(Debug, Clone, Copy)]
struct ViewWeighter;

impl Weighter<StoredKey, CachedView> for ViewWeighter {
    fn weight(&self, _: &StoredKey, view: &CachedView) -> u64 {
        view.weight
    }
}

/// Counts evicted views, and drops them once the lock is released.
#[derive(Debug, Clone)]
struct EvictionCounter(Counter);

impl Lifecycle<StoredKey, CachedView> for EvictionCounter {
    type RequestState = Vec<(StoredKey, CachedView)>;

    fn on_evict(&self, evicted: &mut Self::RequestState, key: StoredKey, view: CachedView) {
        self.0.inc();
        evicted.push((key, view));
    }
}

/// Bounded cache of views, shared by all protocols.
pub struct Views {
    cache: Cache<StoredKey, CachedView, ViewWeighter, RandomState, EvictionCounter>,
    lookups: [ViewLookups; View::ALL.len()],
}

impl Views {
    /// Returns an empty cache that counts in these metrics.
    #[must_use]
    pub fn new(metrics: &ViewMetrics) -> Arc<Self> {
        Arc::new(Self::with_limit(metrics, MAX_VIEW_BYTES))
    }

    fn with_limit(metrics: &ViewMetrics, bytes: usize) -> Self {
        let mut options = OptionsBuilder::new();
        options.shards(SHARDS).estimated_items_capacity(EXPECTED_VIEWS).weight_capacity(bytes as u64);
        let counter = EvictionCounter(metrics.evictions.clone());
        let cache = match options.build() {
            Ok(options) => Cache::with_options(options, ViewWeighter, RandomState::new(), counter),
            // Both capacities are set.
            Err(_) => Cache::with(EXPECTED_VIEWS, bytes as u64, ViewWeighter, RandomState::new(), counter),
        };
        Self { cache, lookups: View::ALL.map(|view| metrics.lookups(view.label())) }
    }

    /// Returns the weight of all views, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.cache.weight()
    }

    /// Returns a view that a revision determines: the one in the cache if it is of that revision, otherwise the result of `make`.
    ///
    /// # Errors
    ///
    /// The errors of `make`, which are not cached.
    pub fn at_revision<V: ViewValue, E>(
        &self,
        key: ViewKey<'_>,
        revision: Revision,
        make: impl FnOnce() -> Result<V, E>,
    ) -> Result<Arc<V>, E> {
        let make = || Ok((make()?, ViewVersion::at(revision)));
        self.get(key, |version| version.revision == revision, make).map(|(value, _)| value)
    }

    /// Returns a view and its version: the one in the cache if its version is current, otherwise the result of `make`. Meanwhile other
    /// callers for the same view block their threads, so `make` must not ask for the same view.
    ///
    /// # Errors
    ///
    /// Those of `make`, which are not kept.
    pub fn get<V: ViewValue, E>(
        &self,
        key: ViewKey<'_>,
        is_current: impl Fn(&ViewVersion) -> bool,
        make: impl FnOnce() -> Result<(V, ViewVersion), E>,
    ) -> Result<(Arc<V>, ViewVersion), E> {
        let lookups = &self.lookups[key.view as usize];
        let current = |view: CachedView| {
            let value = is_current(&view.version).then(|| view.value.downcast().ok()).flatten()?;
            lookups.hits.inc();
            Some((value, view.version))
        };
        if let Some(known) = self.cache.get(&key) {
            if let Some(found) = current(known) {
                return Ok(found);
            }
            // The outdated view is removed first, so that one caller gets the guard and computes the next one.
            self.cache.remove_if(&key, |view| !is_current(&view.version));
        }
        let stored = StoredKey::from(key);
        let guard = match self.cache.get_value_or_guard(&stored, None) {
            GuardResult::Value(view) => match current(view) {
                Some(found) => return Ok(found),
                // Another caller has inserted a view of another state in the meantime. This caller computes its own,
                // which is not cached.
                None => None,
            },
            GuardResult::Guard(guard) => Some(guard),
            GuardResult::Timeout => None,
        };
        lookups.misses.inc();
        let (value, version) = make()?;
        let bytes = value.bytes() + key.subject.len() + key.query.len() + ENTRY_BYTES;
        let value = Arc::new(value);
        let view =
            CachedView { version, weight: bytes as u64, value: Arc::clone(&value) as Arc<dyn Any + Send + Sync> };
        if let Some(guard) = guard {
            // Fails only if the placeholder was removed in the meantime; then the view is not cached.
            let _ = guard.insert(view);
        }
        Ok((value, version))
    }

    /// Returns an encoded view in the form that the client accepts. The compressed copy is a separate view, with its own weight
    /// and eviction.
    ///
    /// # Errors
    ///
    /// Those of `make`, which are not kept.
    pub fn encoded<E>(
        &self,
        key: ViewKey<'_>,
        gzip: bool,
        is_current: impl Fn(&ViewVersion) -> bool,
        make: impl FnOnce() -> Result<(Bytes, ViewVersion), E>,
    ) -> Result<EncodedView, E> {
        let make = || make().map(|(bytes, version)| (EncodedView::from(bytes), version));
        let (plain, version) = self.get(key, &is_current, make)?;
        if !gzip || plain.bytes.len() < MIN_GZIP_BYTES {
            return Ok(EncodedView::clone(&plain));
        }
        let key = ViewKey { gzip: true, ..key };
        let compress = || Ok((EncodedView::clone(&plain).compressed(), version));
        self.get(key, is_current, compress).map(|(view, _)| EncodedView::clone(&view))
    }
}

impl EncodedView {
    /// Compresses the view if it is large enough.
    #[must_use]
    pub fn compressed(self) -> Self {
        let compressed = if self.bytes.len() < MIN_GZIP_BYTES { None } else { gzip(&self.bytes) };
        compressed.map_or(self, |bytes| Self { bytes, gzip: true })
    }
}

/// Compresses bytes, fast rather than small. `None` if the encoder fails.
fn gzip(bytes: &Bytes) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok().map(Vec::into_boxed_slice).map(Bytes::from)
}

impl std::fmt::Debug for Views {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Views")
            .field("views", &self.cache.len())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}
