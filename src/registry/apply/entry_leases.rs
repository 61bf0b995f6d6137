//! Leases of entries: they begin, change and end with the changes of their entries.

use std::{sync::Arc, time::Duration};

use super::WriteGuard;
use crate::{
    model::{BootId, LeaseId, LeaseTerms, ServiceName},
    registry::{
        Registry,
        decide::Decision,
        event::{ClockReading, Entry},
        holder::SessionEpoch,
        lease::{EndReason, Lease, LeaseDuty, millis},
        service::Service,
    },
};

impl WriteGuard<'_> {
    /// Begins to end the lease of an entry here when heartbeats stay away, because the session that holds it is gone, which may be an
    /// earlier one of this process. The lease expires once `delay` has passed after its TTL from now on.
    pub fn expire_here(&mut self, entry: &Entry, delay: Duration, now: ClockReading) {
        if let Some(lease) = &entry.lease
            && !lease.is_orphaned()
            && let Some(service) = self.registry.find(&entry.instance.service)
        {
            let is_new = !lease.expires_here();
            lease.set_orphaned_at(now.lease);
            self.registry.leases.set_duty(lease, LeaseDuty::Orphaned, now.lease + millis(delay));
            if is_new {
                let suspect = entry.instance.conditions.suspect;
                self.registry.self_preservation.begins(lease, service.lease_counter(), suspect);
            }
        }
    }

    /// Begins the lease of an entry again under its id, with its full TTL, if it has ended and its removal was not carried out.
    pub fn revive(&mut self, entry: &Arc<Entry>, now: ClockReading) {
        self.begin_again(entry, now);
    }

    /// Gives a lease that has expired back to the next sweep, because its removal was not carried out: without a heartbeat it is overdue.
    pub fn judge_again(&mut self, entry: &Arc<Entry>, now: ClockReading) {
        if let Some(lease) = self.begin_again(entry, now) {
            lease.make_overdue(now.lease);
            self.registry.leases.put_back(&[lease]);
        }
    }

    fn begin_again(&mut self, entry: &Arc<Entry>, now: ClockReading) -> Option<Arc<Lease>> {
        let ended = entry.lease.as_ref().filter(|lease| !lease.is_alive())?;
        self.registry.self_preservation.take_back(ended, ended.deadline(now.lease));
        let (name, instance) = (ended.service.clone(), ended.instance.clone());
        let lease = Arc::new(Lease::new(ended.id, name, instance, ended.boot, ended.terms(), now.lease));
        let expired_here = ended.expires_here();
        let again = Arc::new(Entry { instance: entry.instance.clone(), lease: Some(Arc::clone(&lease)), ..**entry });
        let service = self.registry.find(&entry.instance.service)?;
        self.replace_lease(&service, Some(entry), Some(&again), EndReason::Expired, now);
        if expired_here && !lease.is_held_here() {
            // The holder may be gone: then the lease goes on to expire here.
            self.expire_here(&again, Duration::ZERO, now);
        }
        if let Some(mut state) = service.state() {
            state.restore(again);
        }
        Some(lease)
    }

    /// Counts expirations of a service that this process did not see. They were not before `age` ago.
    pub fn restore_expirations(&mut self, service: &ServiceName, expirations: u64, age: Duration, now: ClockReading) {
        let Some(counter) = self.registry.find(service).map(|service| Arc::clone(service.lease_counter())) else {
            return;
        };
        let at = now.lease.saturating_sub(millis(age));
        if expirations > 0 && now.lease - at <= counter.longest_ttl() {
            self.registry.self_preservation.restore_expirations(service, &counter, expirations, at);
        }
    }

    /// Gives all leases that expire here a full TTL from now on, or two where no heartbeat has arrived here lately, because heartbeats may
    /// have been lost.
    pub fn renew_all_leases(&mut self, now: ClockReading) {
        self.registry.leases.renew_all(now.lease);
    }

    /// Returns the lease that an entry with this holder gets, with `terms` granted if there are any. A lease with the id of the
    /// present one is replaced by the present object, because heartbeats find that object in the table; unless it has ended here,
    /// and another replica begins to hold the entry.
    pub(super) fn current_lease(
        &self,
        lease: Arc<Lease>,
        (present, holder): (Option<&Entry>, SessionEpoch),
        terms: Option<LeaseTerms>,
        now: ClockReading,
    ) -> Arc<Lease> {
        let known = present.filter(|present| present.holder == holder || present.lease_is_alive());
        let known = known.and_then(|known| known.lease.as_ref()).filter(|known| known.id == lease.id);
        let lease = known.map_or(lease, Arc::clone);
        match terms {
            Some(terms) => self.grant(lease, terms, now),
            None => lease,
        }
    }

    /// Grants terms and a full TTL to a lease that continues. A command may wait for the disk until the lease has expired. Its
    /// registration was accepted before, so the lease then begins again under its id.
    fn grant(&self, lease: Arc<Lease>, terms: LeaseTerms, now: ClockReading) -> Arc<Lease> {
        let Registry { leases, self_preservation, .. } = self.registry;
        let renewed = leases.renew(&lease, terms, now.lease);
        let Some(service) = self.registry.find(&lease.service) else { return lease };
        if renewed.is_ok() {
            service.lease_counter().grant(lease.ttl_ms());
            return lease;
        }
        let (name, instance) = (lease.service.clone(), lease.instance.clone());
        let again = Arc::new(Lease::new(lease.id, name, instance, lease.boot, terms, now.lease));
        self_preservation.ends(&lease, service.lease_counter());
        leases.begin(&again);
        self_preservation.begins(&again, service.lease_counter(), false);
        again
    }

    /// Ends the lease of `before` and begins the lease of `after`, unless they have the same lease. In that case the lease begins or
    /// stops to expire here, as a new holder requires.
    pub(super) fn replace_lease(
        &self,
        service: &Service,
        before: Option<&Arc<Entry>>,
        after: Option<&Arc<Entry>>,
        end_reason: EndReason,
        now: ClockReading,
    ) {
        let Registry { leases, self_preservation, .. } = self.registry;
        let old = before.and_then(|entry| entry.lease.as_ref());
        let new = after.and_then(|entry| entry.lease.as_ref());
        if let (Some(old), Some(new), Some(after)) = (old, new, after)
            && old.id == new.id
            && new.is_alive() == old.is_alive()
        {
            // An orphan that changes is still an orphan: only a replica that claims it expires it from then on.
            let is_other_holder = before.is_some_and(|before| before.holder != after.holder);
            let holds = self.registry.holds(after);
            if holds && !new.is_held_here() {
                let is_new = !new.expires_here();
                leases.set_duty(new, LeaseDuty::Held, now.lease);
                if is_new {
                    self_preservation.begins(new, service.lease_counter(), after.instance.conditions.suspect);
                }
            } else if !holds && is_other_holder && new.expires_here() {
                leases.set_duty(new, LeaseDuty::None, now.lease);
                self_preservation.leaves(new);
            }
            return;
        }
        if let Some(old) = old {
            leases.end(old, end_reason, now.lease);
            self_preservation.ends(old, service.lease_counter());
        }
        if let (Some(new), Some(after)) = (new, after) {
            // The command may have waited for a disk: the TTL begins when the holder can know of the lease.
            let _ = new.renew(now.lease, None);
            self.begin_lease(new, after, service);
        }
    }

    /// Begins a lease of an entry. It expires here if this process holds the entry.
    pub(super) fn begin_lease(&self, lease: &Arc<Lease>, entry: &Entry, service: &Service) {
        let Registry { leases, self_preservation, .. } = self.registry;
        let holds = self.registry.holds(entry);
        lease.set_duty(if holds { LeaseDuty::Held } else { LeaseDuty::None });
        leases.begin(lease);
        let suspect = entry.instance.conditions.suspect && holds;
        self_preservation.begins(lease, service.lease_counter(), suspect);
    }
}

/// Renews the lease with which an accepted registration continues. `requested`: the boot, the terms, and the id of the lease
/// that replaces the present one if that has just expired.
pub(super) fn renew(
    decision: Decision,
    entry: &Entry,
    requested: (LeaseId, BootId, LeaseTerms),
    now: ClockReading,
) -> Decision {
    let Some(lease) = decision.continued_lease(entry) else { return decision };
    if lease.renew(now.lease, None).is_ok() {
        return decision;
    }
    let (id, boot, terms) = requested;
    let (service, instance) = (lease.service.clone(), lease.instance.clone());
    decision.with_new_lease(entry, Arc::new(Lease::new(id, service, instance, boot, terms, now.lease)))
}
