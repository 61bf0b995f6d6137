//! Work of a replica that time requires, several times a second or once a minute.

use std::time::Duration;

use super::EtcdReplica;
use crate::{
    engine::etcd::{expiration_window::ExpirationWindow, keys::RegistryKey},
    etcd::{EtcdCompare, EtcdOperation, EtcdTransaction},
    model::ServiceName,
};

/// Interval at which the counted expirations of services that are gone are removed.
const FORGETTING_INTERVAL: Duration = Duration::from_mins(1);
/// Time for which the expirations of a service that is gone are kept.
const EXPIRATION_MEMORY: Duration = Duration::from_mins(10);
/// Maximum number of services whose expirations are removed at a time.
const MAX_FORGOTTEN: usize = 100;

impl EtcdReplica {
    /// Does what time requires: time-outs, take-overs, metrics.
    pub(super) fn tick(&mut self) {
        let now = self.clock.since_start();
        self.committer.expire_callers(now);
        self.committer.release(self.clock.now());
        self.readers.expire(now);
        self.freeze_if_unconfirmed();
        if self.status.is_frozen() {
            self.revive_expired();
        }
        self.metrics.session_confirmed.set(i64::from(!self.status.is_frozen()));
        self.metrics.watch_age.set(i64::try_from(self.status.watch_age(now).as_secs()).unwrap_or(i64::MAX));
        if self.endpoint != self.client.current_endpoint() {
            self.client.current_endpoint().clone_into(&mut self.endpoint);
            self.metrics.failovers.inc();
        }
        if !self.is_session_lost {
            self.takeovers.adopt(&self.stored, &mut self.committer, now);
            if now >= self.next_forgetting {
                self.next_forgetting = now + FORGETTING_INTERVAL;
                self.forget_expirations();
            }
        }
    }

    /// Removes the counted expirations of services that are gone. Only the first replica in the order of the key does
    /// so. If its request is lost, it tries again later.
    fn forget_expirations(&self) {
        let (own, now) = (self.committer.session().epoch, self.clock.now().wall);
        let is_forgettable = |(service, window): &(&ServiceName, &ExpirationWindow)| {
            let key = RegistryKey::Expirations((*service).clone());
            window.age(now) > EXPIRATION_MEMORY
                && self.registry.summary(service).is_none()
                && self.stored.sessions.rank(own, &key) == 0
        };
        let forgettable = self.stored.expired_services().filter(is_forgettable).take(MAX_FORGOTTEN);
        let nested = forgettable.map(|(service, _)| {
            let key = self.keys.encode(&RegistryKey::Expirations(service.clone()));
            EtcdOperation::Nested(EtcdTransaction {
                compares: vec![EtcdCompare::mod_revision(
                    key.clone(),
                    self.meta.without_offset(self.stored.expirations_guard(service)),
                )],
                success: vec![EtcdOperation::delete(key)],
                failure: vec![],
            })
        });
        let transaction = EtcdTransaction { compares: vec![], success: nested.collect(), failure: vec![] };
        if !transaction.success.is_empty() {
            let client = self.client.clone();
            tokio::spawn(async move { client.transact(&transaction).await });
        }
    }

    /// Stops or resumes expiry. Before it resumes, every lease gets a full TTL, because heartbeats may have been lost.
    pub(super) fn freeze_if_unconfirmed(&mut self) {
        let since_start = self.clock.since_start();
        let is_confirmed = self.status.is_confirmed(since_start);
        if !is_confirmed && !self.status.is_frozen() {
            self.status.freeze(Some(since_start));
            let error = self.last_error.as_ref().map(tracing::field::display);
            tracing::warn!(
                error,
                "etcd is out of reach: reads are answered from memory, writes wait, and no lease expires"
            );
        } else if is_confirmed && self.status.is_frozen() {
            self.revive_expired();
            self.registry.order().renew_all_leases(self.clock.now());
            self.status.freeze(None);
            tracing::info!("etcd is back");
        }
    }

    /// Begins the leases again whose removals wait while etcd is out of reach.
    fn revive_expired(&mut self) {
        let (expired, now) = (self.committer.take_expirations(), self.clock.now());
        let mut guard = self.registry.order();
        for (service, id) in expired {
            if let Some(entry) = self.registry.get(&service, id.as_str()) {
                guard.revive(&entry, now);
            }
        }
    }
}
