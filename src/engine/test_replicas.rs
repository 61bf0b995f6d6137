//! Replicas of one registry, for tests: every command is applied to all of them, in one order.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{CheckKey, Engine, EngineError, PendingCommand, SavedCheck, SavedChecks};
use crate::{
    model::{Caller, Incarnation, InstanceId, LeaseId, Revision, ServerActor, ServiceName},
    registry::{
        ChangeListener, ClockReading, Command, CommandError, CommandOutcome, Decision, Lease, PolicyCommand,
        PolicyOutcome, Registry, SessionEpoch, StampedChange,
    },
};

/// Registries of all replicas, and the order of their changes.
struct TestCluster {
    registries: Vec<Registry>,
    order: Mutex<()>,
    /// Called once, after the next command is decided and before it is applied.
    interruption: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    may_expire: AtomicBool,
}

/// Engine of one replica. It holds what it registers or claims.
#[derive(Debug, Clone)]
pub struct TestReplica {
    cluster: Arc<TestCluster>,
    index: usize,
}

impl fmt::Debug for TestCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestCluster").finish_non_exhaustive()
    }
}

impl TestReplica {
    /// Returns a replica for each of these listeners.
    pub fn all(listeners: impl Iterator<Item = Arc<dyn ChangeListener>>, now: ClockReading) -> Vec<Self> {
        let registry = |(listener, number)| {
            let registry = Registry::new(Incarnation(1), Revision(100), now, listener);
            registry.order().set_session(SessionEpoch(number));
            registry
        };
        let cluster = Arc::new(TestCluster {
            registries: listeners.zip(1..).map(registry).collect(),
            order: Mutex::default(),
            interruption: Mutex::default(),
            may_expire: AtomicBool::new(true),
        });
        (0..cluster.registries.len()).map(|index| Self { cluster: Arc::clone(&cluster), index }).collect()
    }

    /// Sets whether anything may expire, at all replicas.
    pub fn set_may_expire(&self, may_expire: bool) {
        self.cluster.may_expire.store(may_expire, Ordering::Relaxed);
    }

    /// Replaces the session of this replica. It holds nothing until it claims something.
    pub fn begin_session(&self, session: SessionEpoch) {
        self.registry().order().set_session(session);
    }

    /// Calls a function after the next command is decided and before it is applied.
    pub fn interrupt(&self, function: impl FnOnce() + Send + 'static) {
        *self.cluster.interruption.lock() = Some(Box::new(function));
    }

    fn execute(
        &self,
        command: Command,
        caller: &Arc<Caller>,
        now: ClockReading,
    ) -> Result<CommandOutcome, CommandError> {
        let (service, id) = command.target();
        let (service, id) = (service.clone(), id.clone());
        let begins_to_hold =
            matches!(command, Command::Claim { .. } | Command::Register(_) | Command::RegisterWithoutLease(_));
        let (decision, present) = self.registry().order().decide(command, now)?;
        let interruption = self.cluster.interruption.lock().take();
        if let Some(interruption) = interruption {
            interruption();
        }
        let _order = self.cluster.order.lock();
        let Decision::Apply(proposed) = decision else {
            return Ok(CommandOutcome { entry: present, revision: self.registry().applied(), changed: false });
        };
        let holder = present.as_ref().filter(|_| !begins_to_hold).map(|present| present.holder);
        let holder = holder.unwrap_or_else(|| self.registry().session());
        let revision = self.registry().applied().next();
        self.apply_everywhere(&proposed.at(revision, present.as_ref()), (&service, &id), holder, revision, caller, now);
        let entry = self.registry().get(&service, id.as_str());
        Ok(CommandOutcome { entry, revision, changed: true })
    }

    fn apply_everywhere(
        &self,
        change: &StampedChange,
        (service, id): (&ServiceName, &InstanceId),
        holder: SessionEpoch,
        revision: Revision,
        caller: &Arc<Caller>,
        now: ClockReading,
    ) {
        for registry in &self.cluster.registries {
            let before = registry.get(service, id.as_str());
            let held_by = before.as_ref().map(|before| before.holder);
            let change = copied(change, holder, now);
            let (entry, event) = registry.order().apply(change, before, revision, now, caller);
            if let Some(event) = &event {
                registry.notify(event);
            }
            if let Some(entry) = entry.filter(|entry| event.is_none() || held_by != Some(entry.holder)) {
                registry.notify_holder(&entry);
            }
        }
    }
}

/// Returns a copy of a change for one replica, with a holder.
fn copied(change: &StampedChange, holder: SessionEpoch, now: ClockReading) -> StampedChange {
    match change {
        StampedChange::Put { instance, lease, end_reason, terms, visible, holder: _ } => StampedChange::Put {
            instance: instance.clone(),
            lease: lease.as_ref().map(|lease| {
                let (service, instance) = (lease.service.clone(), lease.instance.clone());
                Arc::new(Lease::new(lease.id, service, instance, lease.boot, lease.terms(), now.lease))
            }),
            end_reason: *end_reason,
            terms: *terms,
            visible: *visible,
            holder,
        },
        StampedChange::Remove { reason, end_reason } => {
            StampedChange::Remove { reason: *reason, end_reason: *end_reason }
        }
    }
}

impl Engine for TestReplica {
    fn registry(&self) -> &Registry {
        &self.cluster.registries[self.index]
    }

    fn submit(&self, command: Command, caller: &Arc<Caller>, now: ClockReading) -> PendingCommand {
        PendingCommand::done(self.execute(command, caller, now).map_err(Into::into))
    }

    fn submit_together(
        &self,
        commands: Vec<Command>,
        caller: &Arc<Caller>,
        now: ClockReading,
    ) -> PendingCommand<Vec<CommandOutcome>> {
        let done: Result<_, _> = commands.into_iter().map(|command| self.execute(command, caller, now)).collect();
        PendingCommand::done(done.map_err(EngineError::from))
    }

    fn submit_policy(&self, _: PolicyCommand, _: &Arc<Caller>, _: ClockReading) -> PendingCommand<PolicyOutcome> {
        PendingCommand::done(Err(EngineError::Stopped))
    }

    fn save_checks(&self, _: Vec<(CheckKey, Option<SavedCheck>)>) {}

    fn take_saved_checks(&self) -> Option<SavedChecks> {
        None
    }

    fn claim(&self, service: &ServiceName, id: &InstanceId, lease: Option<LeaseId>) {
        let from = self.registry().get(service, id.as_str()).map(|entry| entry.holder).unwrap_or_default();
        let claim = Command::Claim { service: service.clone(), id: id.clone(), lease, from };
        // The time matters to leases only.
        drop(self.submit(claim, ServerActor::InProcess.caller(), ClockReading::default()));
    }

    fn may_expire(&self) -> bool {
        self.cluster.may_expire.load(Ordering::Relaxed)
    }

    fn degraded_since(&self) -> Option<Duration> {
        (!self.may_expire()).then_some(Duration::ZERO)
    }

    fn close(&self) {}
}
