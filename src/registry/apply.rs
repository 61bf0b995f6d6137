//! The one place that changes the map.

use std::sync::Arc;

use super::{
    Registry,
    attachment::Attachment,
    command::{Command, CommandError},
    decide::{Decision, StampedChange, decide},
    event::{Change, ClockReading, Entry, Event, RemovalReason},
    lease::{EndReason, Lease},
    name_suffixes::has_suffixes,
    service::Service,
};
use crate::{
    model::{BootId, Caller, Instance, InstanceId, LeaseId, LeaseTerms, Revision, ServiceName, node_id},
    sync::{MutexGuard, Ordering},
};

impl Command {
    /// The instance that it is about.
    #[must_use]
    pub fn target(&self) -> (&ServiceName, &InstanceId) {
        match self {
            Self::Register(register) => (&register.service, &register.id),
            Self::RegisterWithoutLease(enroll) => (&enroll.service, &enroll.id),
            Self::Deregister { service, id, .. }
            | Self::Update { service, id, .. }
            | Self::SetCheckStatus { service, id, .. }
            | Self::AddCheck { service, id, .. }
            | Self::RemoveCheck { service, id, .. }
            | Self::Reap { service, id, .. }
            | Self::RefreshNodeStatus { service, id, .. } => (service, id),
            Self::Expire(lease) | Self::Suspect(lease) | Self::Recover(lease) => (&lease.service, &lease.instance),
        }
    }
}

impl Registry {
    /// Takes the order lock. While it is held, nothing changes but through it.
    pub fn order(&self) -> WriteGuard<'_> {
        WriteGuard { registry: self, _lock: self.order.lock() }
    }
}

/// The right to change the registry.
#[derive(Debug)]
pub struct WriteGuard<'a> {
    registry: &'a Registry,
    _lock: MutexGuard<'a, ()>,
}

impl WriteGuard<'_> {
    /// Says what a command means now, and what is there. A registration that is accepted is a sign of life: where its lease goes on,
    /// that is renewed here, on the terms that it has. A command that is refused changes nothing.
    ///
    /// # Errors
    ///
    /// When it cannot be done.
    pub fn decide(&self, command: Command, now: ClockReading) -> Result<(Decision, Option<Arc<Entry>>), CommandError> {
        let (service, id) = command.target();
        let present = self.registry.get(service, id.as_str());
        let context = self.registry.context(&command, present.as_ref());
        let asked = match &command {
            Command::Register(asked) => Some((asked.lease, asked.boot, asked.terms)),
            _ => None,
        };
        let mut decision = decide(present.as_ref(), command, &context, now)?;
        if let (Some(asked), Some(entry)) = (asked, &present) {
            decision = renew(decision, entry, asked, now);
        }
        Ok((decision, present))
    }

    /// Applies what was planned at this revision, which must be newer than any before, and publishes it: from here on every
    /// reader sees it. `present` is what was there when it was decided, and still is. The event, if readers can see one, is
    /// to be passed to [`Registry::notify`] once the lock is released.
    pub fn apply(
        &mut self,
        planned: StampedChange,
        present: Option<Arc<Entry>>,
        revision: Revision,
        now: ClockReading,
        caller: &Arc<Caller>,
    ) -> (Option<Arc<Entry>>, Option<Arc<Event>>) {
        let origin = EventOrigin { revision, at: now, caller };
        let applied = match planned {
            StampedChange::Put { instance, lease, ending, terms, visible } => {
                let lease = match (lease, terms) {
                    (Some(lease), Some(terms)) => Some(self.grant(lease, terms, now)),
                    (lease, _) => lease,
                };
                let (entry, event) = self.put(present, (instance, lease), (visible, ending), origin);
                (Some(entry), event)
            }
            StampedChange::Remove { reason, ending } => {
                (None, present.and_then(|present| self.remove(&present, reason, ending, origin)))
            }
        };
        self.registry.applied.store(revision.0, Ordering::Release);
        if let (None, Some(event)) = &applied {
            self.retire(event.service(), revision);
        }
        applied
    }

    /// Grants a lease that goes on its terms, with all its time. What was decided may have waited for a disk for longer than the lease
    /// lived: it goes on all the same, under its id, for its registration was accepted before it ran out.
    fn grant(&self, lease: Arc<Lease>, terms: LeaseTerms, now: ClockReading) -> Arc<Lease> {
        if self.registry.leases.renew(&lease, terms, now.lease).is_err() {
            let (service, instance) = (lease.service.clone(), lease.instance.clone());
            return Arc::new(Lease::new(lease.id, service, instance, lease.boot, terms, now.lease));
        }
        if let Some(service) = self.registry.find(&lease.service) {
            service.headcount().grant(lease.ttl_ms());
        }
        lease
    }

    /// Puts an entry of an earlier life of this process in its place, as it was then. It is no event: whoever reads from here
    /// on finds it there. For engines that load a store, before anybody reads.
    pub fn restore(&mut self, instance: Instance, lease: Option<Arc<Lease>>) {
        let (name, service) = self.service(&instance.service, self.registry.applied());
        let instance = Instance { service: name, ..instance };
        if let Some(lease) = &lease {
            self.registry.leases.begin(lease);
            self.registry.protection.begins(lease, service.headcount(), instance.conditions.suspect);
        }
        self.registry.count(&instance.service, 1);
        self.registry.index_names(None, Some(&instance));
        let entry = Arc::new(Entry { instance, lease });
        // Of one that was moving to another service when the process ended, the newer one is meant by its id.
        let meant = self.registry.listed_as(&entry.instance);
        if meant.is_none_or(|meant| meant.instance.registered_revision < entry.instance.registered_revision) {
            self.registry.catalog.replace(None, Some(&entry), Revision::default());
        } else {
            self.registry.catalog.arrive(&entry);
        }
        if let Some(mut state) = service.state() {
            state.restore(entry);
        }
    }

    fn put(
        &self,
        before: Option<Arc<Entry>>,
        (mut instance, lease): (Instance, Option<Arc<Lease>>),
        (visible, ending): (bool, EndReason),
        origin: EventOrigin<'_>,
    ) -> (Arc<Entry>, Option<Arc<Event>>) {
        let EventOrigin { revision, at: now, .. } = origin;
        let (name, service) = self.service(&instance.service, Revision(revision.0 - 1));
        instance.service = name;
        let entry = Arc::new(Entry { instance, lease });
        self.hand_over(&service, before.as_ref(), Some(&entry), ending, now);
        if before.is_none() {
            self.registry.count(&entry.instance.service, 1);
        }
        let old = before.clone();
        let event = visible.then(|| {
            let after = Arc::clone(&entry);
            let change = match before {
                Some(before) => Change::Changed(before, after),
                None => Change::Added(after),
            };
            origin.event(change)
        });
        if let Some(mut state) = service.state() {
            state.put(Arc::clone(&entry), revision);
            if let Some(event) = &event {
                state.remember(Arc::clone(event));
            }
        }
        self.registry.index_names(old.as_ref().map(|old| &old.instance), Some(&entry.instance));
        // Its indexes rise last: whoever reads one and then looks must not find what was there before.
        self.registry.catalog.replace(old.as_ref(), Some(&entry), revision);
        if event.is_some() && !(old.is_none() && is_local_node_as_configured(&entry)) {
            self.tell_hosted(&entry, revision);
        }
        self.record(event.as_ref());
        (entry, event)
    }

    fn remove(
        &self,
        before: &Arc<Entry>,
        reason: RemovalReason,
        ending: EndReason,
        origin: EventOrigin<'_>,
    ) -> Option<Arc<Event>> {
        let EventOrigin { revision, at: now, .. } = origin;
        let service = self.registry.find(&before.instance.service)?;
        self.hand_over(&service, Some(before), None, ending, now);
        self.registry.count(&before.instance.service, -1);
        let event = origin.event(Change::Removed(Arc::clone(before), reason));
        if let Some(mut state) = service.state() {
            state.remove(event.id().as_str(), revision);
            state.remember(Arc::clone(&event));
        }
        self.registry.index_names(Some(&before.instance), None);
        self.registry.catalog.replace(Some(before), None, revision);
        self.tell_hosted(before, revision);
        self.record(Some(&event));
        Some(event)
    }

    /// Raises the index of each service that has instances on a node that has changed.
    fn tell_hosted(&self, node: &Entry, revision: Revision) {
        for service in self.registry.catalog.hosted(node) {
            if let Some(service) = self.registry.find(&service)
                && let Some(mut state) = service.state()
            {
                state.node_changed(revision);
            }
        }
    }

    /// Ends the lease that no longer counts and begins the one that does.
    fn hand_over(
        &self,
        service: &Service,
        before: Option<&Arc<Entry>>,
        after: Option<&Arc<Entry>>,
        ending: EndReason,
        now: ClockReading,
    ) {
        let Registry { leases, protection, .. } = self.registry;
        let old = before.and_then(|entry| entry.lease.as_ref());
        let new = after.and_then(|entry| entry.lease.as_ref());
        if let (Some(old), Some(new)) = (old, new)
            && Arc::ptr_eq(old, new)
        {
            return;
        }
        if let Some(old) = old {
            leases.end(old, ending, now.lease);
            protection.ends(old, service.headcount());
        }
        if let (Some(new), Some(after)) = (new, after) {
            // What was decided may have waited for a disk: the time to live begins when its holder can know.
            let _ = new.renew(now.lease, None);
            leases.begin(new);
            protection.begins(new, service.headcount(), after.instance.conditions.suspect);
        }
    }

    /// The service of that name, made if need be, and its own copy of the name, for all its instances to share. Made only
    /// here, under the order lock: so a new one has seen everything after `floor`.
    fn service(&self, name: &ServiceName, floor: Revision) -> (ServiceName, Arc<Service>) {
        if let Some(found) = self.registry.services.get(name) {
            return (found.key().clone(), Arc::clone(found.value()));
        }
        let service = Arc::new(Service::new(floor));
        if !name.is_reserved() {
            self.registry.names.write().insert(name.clone());
            self.registry.spellings.add(name);
            if has_suffixes(name.as_str()) {
                self.registry.service_suffixes.write().add(name.as_str());
            }
        }
        self.registry.services.insert(name.clone(), Arc::clone(&service));
        (name.clone(), service)
    }

    fn record(&self, event: Option<&Arc<Event>>) {
        if let Some(event) = event.filter(|event| !event.service().is_reserved()) {
            self.registry.history.write().push(Arc::clone(event), super::HISTORY, super::HISTORY_BYTES);
        }
    }

    /// Drops a service that lost its last instance. After publishing: so a reader who misses it in the map finds the
    /// removal among the events up to the newest revision.
    fn retire(&self, name: &ServiceName, revision: Revision) {
        let Some(service) = self.registry.find(name) else {
            return;
        };
        let retired = service.state().is_some_and(|mut state| state.retire_if_empty());
        if retired {
            // First, so that the index of all spellings does not fall when this one is gone.
            self.registry.spellings.remove(name, revision, |other| self.registry.services.get(other).is_some());
            self.registry.services.remove(name);
            self.registry.names.write().remove(name);
            if !name.is_reserved() && has_suffixes(name.as_str()) {
                self.registry.service_suffixes.write().remove(name.as_str());
            }
            self.registry.catalog.emptied(revision);
        }
    }
}

impl Registry {
    /// Indexes what DNS finds by other names than those of services: nodes, and what is above dotted tags.
    fn index_names(&self, before: Option<&Instance>, after: Option<&Instance>) {
        if after.or(before).is_some_and(|instance| instance.service.is_reserved()) {
            return self.node_index.replace(before, after);
        }
        if before.map(|instance| &instance.tags) == after.map(|instance| &instance.tags) {
            return;
        }
        let dotted = |instance: &Instance| -> Vec<String> {
            let tags = instance.tags.iter().filter(|tag| has_suffixes(tag));
            tags.map(|tag| format!("_._{tag}")).collect()
        };
        let (old, new) = (before.map(dotted).unwrap_or_default(), after.map(dotted).unwrap_or_default());
        if !old.is_empty() || !new.is_empty() {
            let mut suffixes = self.tag_suffixes.write();
            for name in &old {
                suffixes.remove(name);
            }
            for name in &new {
                suffixes.add(name);
            }
        }
    }

    /// Tells the audience. Without any lock: wake-ups take longer than changes.
    pub fn notify(&self, event: &Event) {
        self.audience.changed(event);
        self.audience.topics_changed(&|| self.catalog.topics(event));
    }
}

/// Renews the lease with which an accepted registration goes on. `asked`: the id of a new lease, should that one have run out since it
/// was looked at; who holds it, and on which terms.
fn renew(decision: Decision, entry: &Entry, asked: (LeaseId, BootId, LeaseTerms), now: ClockReading) -> Decision {
    let Some(lease) = decision.goes_on(entry) else { return decision };
    if lease.renew(now.lease, None).is_ok() {
        return decision;
    }
    let (id, boot, terms) = asked;
    let (service, instance) = (lease.service.clone(), lease.instance.clone());
    decision.with_new_lease(entry, Arc::new(Lease::new(id, service, instance, boot, terms, now.lease)))
}

/// Returns whether an entry is the local node with nothing but what is shown of it without being registered.
fn is_local_node_as_configured(entry: &Entry) -> bool {
    let Instance { service, id, checks, conditions, .. } = &entry.instance;
    service.is_reserved() && *id.as_str() == *node_id("") && checks.is_empty() && !conditions.operator_draining
}

/// Order, time and originator of an event.
#[derive(Debug, Clone, Copy)]
struct EventOrigin<'a> {
    revision: Revision,
    at: ClockReading,
    caller: &'a Arc<Caller>,
}

impl EventOrigin<'_> {
    fn event(self, change: Change) -> Arc<Event> {
        let Self { revision, at, caller } = self;
        Arc::new(Event { revision, at, change, caller: Arc::clone(caller), attachment: Attachment::new() })
    }
}
