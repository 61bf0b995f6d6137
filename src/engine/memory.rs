//! Engine without a store: a single node whose registrations do not survive a restart.

use std::{mem, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{
    CheckKey, Engine, PendingCommand, SavedCheck, SavedChecks, StartPoint, disk::LoadedRecords,
    policy_log::log_policy_change,
};
use crate::{
    model::{Caller, Incarnation, InstanceId, LeaseId, ServerActor, ServiceName},
    registry::{
        ChangeListener, ClockReading, Command, CommandError, CommandOutcome, Decision, Entry, Event, PolicyCommand,
        PolicyDecision, PolicyError, PolicyOutcome, Registry, WriteGuard,
    },
};

/// Engine that keeps everything in memory.
#[derive(Debug)]
pub struct Memory {
    registry: Registry,
    /// Check states of the export that the engine began with, until they are taken.
    exported_states: Mutex<Option<SavedChecks>>,
}

impl Memory {
    /// Creates an engine with an empty registry, whose incarnation starts now.
    #[must_use]
    pub fn new(incarnation: Incarnation, now: ClockReading, listener: Arc<dyn ChangeListener>) -> Self {
        let StartPoint { incarnation, revision } = StartPoint::new(incarnation, now);
        Self { registry: Registry::new(incarnation, revision, now, listener), exported_states: Mutex::default() }
    }

    /// Creates an engine with the contents of an export. Its incarnation starts now, with revisions above those of the export, and every
    /// lease has its full TTL.
    #[must_use]
    pub fn from_export(
        incarnation: Incarnation,
        mut exported: LoadedRecords,
        now: ClockReading,
        listener: Arc<dyn ChangeListener>,
    ) -> Self {
        let start = StartPoint::new(incarnation, now);
        let registry = Registry::new(incarnation, start.revision.max(exported.revision), now, listener);
        exported.restore(&registry, now);
        let states = SavedChecks { states: mem::take(&mut exported.check_states), unsaved_window: Duration::ZERO };
        Self { registry, exported_states: Mutex::new(Some(states)) }
    }

    /// Registry that the engine changes and readers read.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Executes a command of code that uses this engine directly, without a protocol. When the call returns, every read sees the
    /// outcome.
    ///
    /// # Errors
    ///
    /// When the command is rejected.
    pub fn submit(&self, command: Command, now: ClockReading) -> Result<CommandOutcome, CommandError> {
        self.submit_for(ServerActor::InProcess.caller(), command, now)
    }

    fn submit_for(
        &self,
        caller: &Arc<Caller>,
        command: Command,
        now: ClockReading,
    ) -> Result<CommandOutcome, CommandError> {
        let (outcome, event) = self.apply(command, caller, now)?;
        if let Some(event) = event {
            self.registry.notify(&event);
        }
        Ok(outcome)
    }

    /// Sweeps the leases and executes the resulting commands, with the lock held for one at a time. Returns the number of expired
    /// instances.
    pub fn expire(&self, now: ClockReading) -> usize {
        let commands = self.registry.sweep(now);
        let expired = commands.iter().filter(|command| matches!(command, Command::Expire(_))).count();
        for command in commands {
            // Such a command cannot be rejected. If its instance is no longer registered, it changes nothing.
            let _ = self.submit_for(super::sweep_actor(&command).caller(), command, now);
        }
        expired
    }

    fn apply(
        &self,
        command: Command,
        caller: &Arc<Caller>,
        now: ClockReading,
    ) -> Result<(CommandOutcome, Option<Arc<Event>>), CommandError> {
        let mut guard = self.registry.order();
        let decided = guard.decide(command, now)?;
        Ok(self.apply_decision(&mut guard, decided, caller, now))
    }

    fn submit_together(
        &self,
        commands: Vec<Command>,
        caller: &Arc<Caller>,
        now: ClockReading,
    ) -> Result<Vec<CommandOutcome>, CommandError> {
        let mut guard = self.registry.order();
        let decided: Vec<_> =
            commands.into_iter().map(|command| guard.decide(command, now)).collect::<Result<_, _>>()?;
        let done: Vec<_> =
            decided.into_iter().map(|decided| self.apply_decision(&mut guard, decided, caller, now)).collect();
        drop(guard);
        for event in done.iter().filter_map(|(_, event)| event.as_ref()) {
            self.registry.notify(event);
        }
        Ok(done.into_iter().map(|(outcome, _)| outcome).collect())
    }

    fn submit_policy(
        &self,
        command: PolicyCommand,
        caller: &Arc<Caller>,
        now: ClockReading,
    ) -> Result<PolicyOutcome, PolicyError> {
        let mut guard = self.registry.order();
        let proposed = match guard.decide_policy(command)? {
            PolicyDecision::NoOp(unchanged) => return Ok(unchanged),
            PolicyDecision::Apply(proposed) => proposed,
        };
        let change = proposed.at(self.registry.applied().next(), now.wall, Arc::clone(caller));
        guard.apply_policy(&change);
        drop(guard);
        self.registry.notify_policy(&change);
        log_policy_change(&change);
        Ok(change.into_outcome())
    }

    fn apply_decision(
        &self,
        guard: &mut WriteGuard<'_>,
        (decision, present): (Decision, Option<Arc<Entry>>),
        caller: &Arc<Caller>,
        now: ClockReading,
    ) -> (CommandOutcome, Option<Arc<Event>>) {
        let newest = self.registry.applied();
        match decision {
            Decision::NoOp => (CommandOutcome { entry: present, revision: newest, changed: false }, None),
            Decision::Apply(proposed) => {
                let revision = newest.next();
                let change = proposed.at(revision, present.as_ref());
                let (entry, event) = guard.apply(change, present, revision, now, caller);
                (CommandOutcome { entry, revision, changed: true }, event)
            }
        }
    }
}

impl Engine for Memory {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn submit(&self, command: Command, caller: &Arc<Caller>, now: ClockReading) -> PendingCommand {
        PendingCommand::done(self.submit_for(caller, command, now).map_err(Into::into))
    }

    fn submit_together(
        &self,
        commands: Vec<Command>,
        caller: &Arc<Caller>,
        now: ClockReading,
    ) -> PendingCommand<Vec<CommandOutcome>> {
        PendingCommand::done(self.submit_together(commands, caller, now).map_err(Into::into))
    }

    fn submit_policy(
        &self,
        command: PolicyCommand,
        caller: &Arc<Caller>,
        now: ClockReading,
    ) -> PendingCommand<PolicyOutcome> {
        PendingCommand::done(self.submit_policy(command, caller, now).map_err(Into::into))
    }

    fn save_checks(&self, _: Vec<(CheckKey, Option<SavedCheck>)>) {}

    fn take_saved_checks(&self) -> Option<SavedChecks> {
        self.exported_states.lock().take()
    }

    fn claim(&self, _: &ServiceName, _: &InstanceId, _: Option<LeaseId>) {}

    fn may_expire(&self) -> bool {
        true
    }

    fn degraded_since(&self) -> Option<Duration> {
        None
    }

    fn close(&self) {}
}
