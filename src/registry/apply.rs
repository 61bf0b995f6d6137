//! Application of changes: the only code that changes the map.

mod entry_leases;

use std::sync::Arc;

use super::{
    Registry,
    attachment::Attachment,
    command::{Command, CommandError},
    decide::{Decision, StampedChange, decide},
    event::{Change, ClockReading, Entry, Event, RemovalReason},
    holder::SessionEpoch,
    lease::EndReason,
    name_suffixes::has_suffixes,
    policy_table::{PolicyChange, PolicyCommand, PolicyDecision, PolicyError, PolicyRevision},
    service::Service,
};
use crate::{
    model::{Caller, Incarnation, Instance, PolicyScope, Revision, ServiceName, node_id},
    sync::{MutexGuard, Ordering},
};

impl Registry {
    /// Takes the order lock. While it is held, only the guard can change the registry.
    pub fn order(&self) -> WriteGuard<'_> {
        WriteGuard { registry: self, _lock: self.order.lock() }
    }

    /// Calls the listener with an event. Call it without any lock: wake-ups take longer than changes.
    pub fn notify(&self, event: &Event) {
        self.listener.changed(event);
        self.listener.topics_changed(&|| self.consul_index.topics(event));
    }

    /// Calls the listener with an entry whose holder changed, or that changed without an event. Only engines with several replicas have
    /// such changes that matter to a listener. Call it without any lock, as [`Self::notify`].
    pub fn notify_holder(&self, entry: &Arc<Entry>) {
        self.listener.holder_changed(entry);
    }

    /// Calls the listener once another incarnation has begun. Call it without any lock, as [`Self::notify`].
    pub fn notify_incarnation(&self) {
        self.listener.incarnation_changed();
    }

    /// Calls the listener with a changed policy. Call it without any lock, as [`Self::notify`].
    pub fn notify_policy(&self, change: &PolicyChange) {
        self.listener.policy_changed(&change.scope);
    }
}

/// Exclusive right to change the registry.
#[derive(Debug)]
pub struct WriteGuard<'a> {
    registry: &'a Registry,
    _lock: MutexGuard<'a, ()>,
}

impl WriteGuard<'_> {
    /// Decides a command, and returns the present entry along with the decision. A registration that is accepted proves that
    /// its program is alive: if its lease continues, the lease is renewed here, on the terms that it has. A command that is
    /// rejected changes nothing.
    ///
    /// # Errors
    ///
    /// When the command cannot be carried out.
    pub fn decide(&self, command: Command, now: ClockReading) -> Result<(Decision, Option<Arc<Entry>>), CommandError> {
        let (service, id) = command.target();
        let present = self.registry.get(service, id.as_str());
        let context = self.registry.context(&command, present.as_ref());
        let requested = match &command {
            Command::Register(register) => Some((register.lease, register.boot, register.terms)),
            _ => None,
        };
        let mut decision = decide(present.as_ref(), command, &context, now)?;
        if let (Some(requested), Some(entry)) = (requested, &present) {
            decision = entry_leases::renew(decision, entry, requested, now);
        }
        Ok((decision, present))
    }

    /// Applies a change at its revision, which must be newer than any before, and publishes it: from here on every reader sees
    /// it. `present` is the entry that the change was decided on, which must still be there. Returns the new entry, and the
    /// event if readers can see one; pass the event to [`Registry::notify`] once the lock is released.
    pub fn apply(
        &mut self,
        change: StampedChange,
        present: Option<Arc<Entry>>,
        revision: Revision,
        now: ClockReading,
        caller: &Arc<Caller>,
    ) -> (Option<Arc<Entry>>, Option<Arc<Event>>) {
        let origin = EventOrigin { revision, at: now, caller };
        let applied = match change {
            StampedChange::Put { instance, lease, end_reason, terms, visible, holder } => {
                let lease = lease.map(|lease| self.current_lease(lease, (present.as_deref(), holder), terms, now));
                let entry = Entry { instance, lease, modified: revision, holder };
                let (entry, event) = self.put(present, entry, (visible, end_reason), origin);
                (Some(entry), event)
            }
            StampedChange::Remove { reason, end_reason } => {
                (None, present.and_then(|present| self.remove(&present, reason, end_reason, origin)))
            }
        };
        self.registry.applied.store(revision.0, Ordering::Release);
        if let (None, Some(event)) = &applied {
            self.retire(event.service(), revision);
        }
        applied
    }

    /// Publishes a revision up to which nothing else has changed. An older one has no effect.
    pub fn advance(&mut self, revision: Revision) {
        self.registry.applied.fetch_max(revision.0, Ordering::Release);
    }

    /// Records that another process which shares the registry may not know when something changed up to this revision.
    pub fn raise_index_floor(&mut self, revision: Revision) {
        self.registry.index_floor.fetch_max(revision.0, Ordering::AcqRel);
    }

    /// Begins another incarnation, because the contents of the store were replaced: readers with state of the earlier one start over, once
    /// the registry has settled if it does. The changes to the new contents follow, at revisions after all earlier ones.
    pub fn begin_incarnation(&mut self, incarnation: Incarnation) {
        self.registry.incarnation.store(incarnation.0, Ordering::Release);
    }

    /// Sets the revision before the first one of the incarnation.
    pub fn set_start_revision(&mut self, revision: Revision) {
        self.registry.start_revision.store(revision.0, Ordering::Release);
    }

    /// Forgets all policies and their revisions, because the contents of the store were replaced.
    pub fn forget_all_policies(&mut self, revision: Revision) {
        self.registry.policies.clear(revision);
        self.advance(revision);
    }

    /// Sets the session by which this process holds entries from now on. The leases of the entries that it holds expire here.
    pub fn set_session(&mut self, session: SessionEpoch) {
        self.registry.session.store(session.0, Ordering::Relaxed);
    }

    /// Decides a command about a policy.
    ///
    /// # Errors
    ///
    /// When the policy has another revision than expected, conflicts with other policies, or is one too many.
    pub fn decide_policy(&self, command: PolicyCommand) -> Result<PolicyDecision, PolicyError> {
        self.registry.policies.decide(command)
    }

    /// Applies a change of a policy, whose revision must be newer than any before, and publishes it. Pass it to
    /// [`Registry::notify_policy`] once the lock is released.
    pub fn apply_policy(&mut self, change: &PolicyChange) {
        self.registry.policies.apply(change);
        if let Some(newest) = change.newest() {
            self.advance(newest.revision);
        }
    }

    /// Restores a policy and its revisions as an earlier process had them. `unknown_until`: the last revision of the registry at which the
    /// policy is not known. For engines that load a store, before the first reader.
    pub fn restore_policy(&mut self, scope: &PolicyScope, revisions: &[Arc<PolicyRevision>], unknown_until: Revision) {
        self.registry.policies.restore(scope, revisions, unknown_until);
    }

    /// Restores the revision of the newest change that made an earlier process forget scopes of policies. For engines that load a store,
    /// before [`Self::restore_policy`].
    pub fn restore_forgotten_policies(&mut self, forgotten: Revision) {
        self.registry.policies.restore_forgotten(forgotten);
    }

    /// Restores an entry of an earlier process as it was then, without an event. For engines that load a store, before the
    /// first reader.
    pub fn restore(&mut self, mut entry: Entry) {
        let (name, service) = self.service(&entry.instance.service, self.registry.applied());
        entry.instance.service = name;
        if let Some(lease) = &entry.lease {
            self.begin_lease(lease, &entry, &service);
        }
        self.registry.count(&entry.instance.service, 1);
        self.registry.index_names(None, Some(&entry.instance));
        let entry = Arc::new(entry);
        // If an instance was moving to another service when the process ended, its id stands for the newer entry.
        let known = self.registry.entry_of_id(&entry.instance);
        if known.is_none_or(|known| known.instance.registered_revision < entry.instance.registered_revision) {
            self.registry.consul_index.replace(None, Some(&entry), Revision::default());
        } else {
            self.registry.consul_index.count_on_node(&entry);
        }
        if let Some(mut state) = service.state() {
            state.restore(entry);
        }
    }

    fn put(
        &self,
        before: Option<Arc<Entry>>,
        mut entry: Entry,
        (visible, end_reason): (bool, EndReason),
        origin: EventOrigin<'_>,
    ) -> (Arc<Entry>, Option<Arc<Event>>) {
        let EventOrigin { revision, at: now, .. } = origin;
        let (name, service) = self.service(&entry.instance.service, Revision(revision.0 - 1));
        entry.instance.service = name;
        let entry = Arc::new(entry);
        self.replace_lease(&service, before.as_ref(), Some(&entry), end_reason, now);
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
                state.log(Arc::clone(event));
            }
        }
        self.registry.index_names(old.as_ref().map(|old| &old.instance), Some(&entry.instance));
        // Revisions rise last, so that a reader that reads a revision and then the state does not find the earlier
        // state.
        self.registry.consul_index.replace(old.as_ref(), Some(&entry), revision);
        if event.is_some() && !(old.is_none() && is_local_node_as_configured(&entry)) {
            self.raise_services_on(&entry, revision);
        }
        self.log(event.as_ref());
        (entry, event)
    }

    fn remove(
        &self,
        before: &Arc<Entry>,
        reason: RemovalReason,
        end_reason: EndReason,
        origin: EventOrigin<'_>,
    ) -> Option<Arc<Event>> {
        let EventOrigin { revision, at: now, .. } = origin;
        let service = self.registry.find(&before.instance.service)?;
        if reason == RemovalReason::Expired
            && let Some(lease) = &before.lease
            && lease.is_alive()
        {
            self.registry.self_preservation.expired_elsewhere(lease, service.lease_counter(), now);
        }
        self.replace_lease(&service, Some(before), None, end_reason, now);
        self.registry.count(&before.instance.service, -1);
        let event = origin.event(Change::Removed(Arc::clone(before), reason));
        if let Some(mut state) = service.state() {
            state.remove(event.id().as_str(), revision);
            state.log(Arc::clone(&event));
        }
        self.registry.index_names(Some(&before.instance), None);
        self.registry.consul_index.replace(Some(before), None, revision);
        self.raise_services_on(before, revision);
        self.log(Some(&event));
        Some(event)
    }

    /// Raises the revision of each service that has instances on a node that changed. Does nothing for an entry that is
    /// not a node.
    fn raise_services_on(&self, node: &Entry, revision: Revision) {
        for service in self.registry.consul_index.services_on(node) {
            if let Some(service) = self.registry.find(&service)
                && let Some(mut state) = service.state()
            {
                state.node_changed(revision);
            }
        }
    }

    /// Returns the service with this name, created if there is none, and its own copy of the name, which all its instances
    /// share. Services are created only here, under the order lock, so the log of a new one covers everything after
    /// `compacted`.
    fn service(&self, name: &ServiceName, compacted: Revision) -> (ServiceName, Arc<Service>) {
        if let Some(found) = self.registry.services.get(name) {
            return (found.key().clone(), Arc::clone(found.value()));
        }
        let service = Arc::new(Service::new(compacted));
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

    fn log(&self, event: Option<&Arc<Event>>) {
        if let Some(event) = event.filter(|event| !event.service().is_reserved()) {
            let limits = (super::MAX_HISTORY_EVENTS, super::MAX_HISTORY_BYTES);
            self.registry.history.write().push(Arc::clone(event), limits.0, limits.1);
        }
    }

    /// Drops a service that lost its last instance. Called after publishing: so a reader that misses it in the map finds the
    /// removal among the events up to the newest revision.
    fn retire(&self, name: &ServiceName, revision: Revision) {
        let Some(service) = self.registry.find(name) else {
            return;
        };
        let retired = service.state().is_some_and(|mut state| state.retire_if_empty());
        if retired {
            // First, so that the revision over all spellings does not fall when this spelling is removed.
            self.registry.spellings.remove(name, revision, |other| self.registry.services.get(other).is_some());
            self.registry.services.remove(name);
            self.registry.names.write().remove(name);
            if !name.is_reserved() && has_suffixes(name.as_str()) {
                self.registry.service_suffixes.write().remove(name.as_str());
            }
            self.registry.consul_index.service_emptied(revision);
        }
    }
}

impl Registry {
    /// Updates the indexes by which DNS finds nodes, and the suffixes of dotted tags.
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
}

/// Returns whether an entry is the local node exactly as configured.
fn is_local_node_as_configured(entry: &Entry) -> bool {
    let Instance { service, id, checks, conditions, .. } = &entry.instance;
    service.is_reserved() && *id.as_str() == *node_id("") && checks.is_empty() && !conditions.operator_draining
}

/// Revision, time and caller of an event.
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
