//! Metrics of the etcd engine.

use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};

use super::registrar::Registrar;

/// Metrics of a replica of a registry in etcd.
#[derive(Debug, Clone)]
pub struct EtcdMetrics {
    /// 1 while etcd has confirmed the session and the watch lately.
    pub session_confirmed: Gauge,
    /// Seconds since the watch last made progress.
    pub watch_age: Gauge,
    /// Seconds from the first attempt to send a batch until it is applied.
    pub commit: Histogram,
    /// Changes of instances and policies that were applied.
    pub applied_changes: Counter,
    /// Batches that were sent and applied.
    pub batches: Counter,
    /// Requests that were decided again, because another replica had changed their instance.
    pub conflicts: Counter,
    /// Instances that this replica claimed.
    pub takeovers: Counter,
    /// Changes of the member of etcd that requests go to.
    pub failovers: Counter,
    /// Times that the state was read again, because etcd had compacted the changes or the registry differed from it.
    pub reloads: Counter,
    /// Times that the contents of etcd were replaced.
    pub resets: Counter,
    /// Keys in which the registry differed from etcd.
    pub differences: Counter,
}

impl EtcdMetrics {
    pub(super) fn new(registrar: &mut Registrar) -> Self {
        Self {
            session_confirmed: registrar.gauge(
                "etcd_session_confirmed",
                "1 while etcd has confirmed the session of this replica and its watch within 4 s",
            ),
            watch_age: registrar.gauge("etcd_watch_age_seconds", "Time since the watch of etcd last made progress"),
            commit: registrar.histogram("etcd_commit_seconds", "Time from sending a batch to etcd until it is applied"),
            applied_changes: registrar
                .counter("etcd_applied_changes", "Changes of instances and policies that were applied from etcd"),
            batches: registrar.counter("etcd_batches", "Batches of changes that were sent to etcd and applied"),
            conflicts: registrar.counter(
                "etcd_conflicts",
                "Requests that were decided again, because another replica had changed their instance",
            ),
            takeovers: registrar.counter("etcd_takeovers", "Instances that this replica claimed"),
            failovers: registrar.counter("etcd_failovers", "Changes of the member of etcd that requests go to"),
            reloads: registrar.counter(
                "etcd_reloads",
                "Times that this replica read its state again, because etcd had compacted the changes or the state differed from etcd",
            ),
            resets: registrar.counter(
                "etcd_resets",
                "Times that the contents of etcd were replaced, and all readers of this replica started over",
            ),
            differences: registrar.counter(
                "etcd_differences",
                "Keys in which this replica differed from etcd when it compared itself, which is a defect",
            ),
        }
    }
}
