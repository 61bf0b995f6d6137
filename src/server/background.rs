//! Tasks that run for as long as the server does.

use std::{mem, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::self_preservation_log::SelfPreservationReporter;
use crate::{app::ServerContext, engine, metrics::Metrics, protocol::xds::XdsApi};

/// Interval at which leases are expired.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(100);
/// Interval at which effective weights are brought up to date. It is also the minimum time between two publications for a service.
const WEIGHT_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which layouts of zones are brought up to date.
const ZONE_LAYOUT_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between two log lines for the same kind of rejected or evicted connections.
const REJECTION_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Expires leases, reports self-preservation, ends settling, and wakes watches when the engine loses or regains its store.
pub(super) async fn expire_leases(context: Arc<ServerContext>) {
    let mut ticks = interval(EXPIRY_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut self_preservation = SelfPreservationReporter::default();
    let mut counting = JoinSet::new();
    let mut was_degraded = false;
    loop {
        ticks.tick().await;
        let now = context.clock.expiry();
        let expirations = context.commands.expire(now);
        if !expirations.is_empty() {
            let expired = context.metrics.expired.clone();
            counting.spawn(async move { expired.inc_by(engine::count_changes(expirations).await as u64) });
        }
        while counting.try_join_next().is_some() {}
        self_preservation.report(context.engine.registry(), &context.metrics);
        context.end_settling(now);
        let is_degraded = context.engine.degraded_since().is_some();
        if mem::replace(&mut was_degraded, is_degraded) != is_degraded {
            // Watches tell their clients.
            context.notifier.wake_all();
        }
    }
}

/// Brings the effective weights up to date.
pub(super) async fn update_weights(context: Arc<ServerContext>) {
    let mut ticks = interval(WEIGHT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        context.weights.update(context.engine.registry(), &context.notifier, context.clock.now().lease);
    }
}

/// Brings the layouts of zones up to date for the clients of xDS.
pub(super) async fn update_zone_layouts(xds: Arc<XdsApi>) {
    let mut ticks = interval(ZONE_LAYOUT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        xds.update_zone_layouts();
    }
}

/// Logs the number of rejected and evicted connections: at most one line for each reason in 10 s.
pub(super) async fn log_rejections(metrics: Arc<Metrics>) {
    let mut ticks = interval(REJECTION_LOG_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for (what, reason, number) in metrics.connections.take_unlogged() {
            tracing::warn!(number, reason, "{what}");
        }
    }
}
