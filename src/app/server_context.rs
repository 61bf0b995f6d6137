//! State that every protocol of one server shares.

use std::{sync::Arc, time::Duration};

use super::{Commands, EffectiveWeights, Views, Watchers};
use crate::{clock::Clock, engine::Engine, metrics::Metrics, transport::Notifier};

/// State that every protocol of one server shares.
///
/// Health checks are not part of it: they write through [`Commands`], so they are above this module. A protocol that reports check
/// results gets the health checks separately.
#[derive(Debug)]
pub struct ServerContext {
    /// Engine with the registry, for reads. Writes go through `commands`.
    pub engine: Arc<dyn Engine>,
    /// The one write path.
    pub commands: Commands,
    /// Wakes the streams and blocking queries that wait for changes.
    pub notifier: Arc<Notifier>,
    /// The only source of time.
    pub clock: Arc<Clock>,
    /// Counters, gauges and histograms of the server.
    pub metrics: Arc<Metrics>,
    /// Cache of what protocols encode or compute from the registry.
    pub views: Arc<Views>,
    /// Open watches of all protocols.
    pub watchers: Watchers,
    /// Effective weights of the instances.
    pub weights: Arc<EffectiveWeights>,
    /// Largest accepted request, in bytes.
    pub max_message_size: usize,
    /// Interval between bookmarks on an idle watch.
    pub bookmarks: Duration,
    /// Name of this replica of the registry.
    pub replica: String,
}
