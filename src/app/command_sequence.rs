//! The commands of one write that spans several instances, in order.

use std::{
    mem,
    sync::{Arc, Weak},
};

use super::{
    keyed_lock::KeyGuard,
    write_path::{LockKey, WritePath},
};
use crate::{
    engine::{EngineError, PendingCommand},
    model::{Caller, CheckId, InstanceId, ServiceName, node_id, node_service},
    registry::{Command, CommandOutcome, DeregisterGuard, Entry, RegisterWithoutLease, TakenCheck},
};

/// Maximum number of instances of a node whose status is refreshed before other writes run.
const MAX_REFRESH_BATCH: usize = 1_024;

/// Commands of one write, submitted in order.
pub(super) struct CommandSequence {
    pub(super) path: Arc<WritePath>,
    pub(super) caller: Arc<Caller>,
    /// Set once a command of the write is done. From then on, a command that an overloaded engine rejects is submitted again until the engine accepts
    /// it.
    pub(super) begun: bool,
}

impl CommandSequence {
    pub(super) async fn submit(&mut self, command: Command) -> Result<CommandOutcome, EngineError> {
        self.submit_until_taken(command, |path, caller, command| path.engine.submit(command, caller, path.clock.now()))
            .await
    }

    pub(super) async fn submit_together(&mut self, commands: Vec<Command>) -> Result<Vec<CommandOutcome>, EngineError> {
        self.submit_until_taken(commands, |path, caller, commands| {
            path.engine.submit_together(commands, caller, path.clock.now())
        })
        .await
    }

    /// Submits a command, or several together, to the engine. Once the write has begun, a command that an overloaded engine rejects is submitted
    /// again.
    async fn submit_until_taken<C: Clone, T: Unpin>(
        &mut self,
        mut commands: C,
        submit: impl Fn(&WritePath, &Arc<Caller>, C) -> PendingCommand<T>,
    ) -> Result<T, EngineError> {
        loop {
            let again = self.begun.then(|| commands.clone());
            let done = submit(&self.path, &self.caller, commands).await;
            match (done, again) {
                (Err(EngineError::Overloaded { retry, .. } | EngineError::Unavailable { retry, .. }), Some(again)) => {
                    self.path.background.pause(retry).await;
                    commands = again;
                }
                // Earlier commands of the write are done, so its outcome is not known.
                (Err(EngineError::Stopped), Some(_)) => return Err(EngineError::OutcomeUnknown),
                (done, _) => {
                    self.begun |= done.is_ok();
                    return done;
                }
            }
        }
    }

    pub(super) async fn lock(&self, id: &InstanceId) -> KeyGuard<LockKey> {
        self.path.locks.lock(LockKey::ConsulRegistration(id.clone())).await
    }

    pub(super) fn service_of(&self, id: &InstanceId) -> Option<ServiceName> {
        self.path.engine.registry().consul_index().service_of(id.as_str())
    }

    /// Finds the service of a registration. If this process has none, looks again once it has all changes, because another replica may have
    /// just registered it.
    pub(super) async fn confirmed_service_of(&self, id: &InstanceId) -> Result<Option<ServiceName>, EngineError> {
        let known = self.service_of(id);
        if known.is_none() {
            self.path.engine.synchronize().await?;
        }
        Ok(known.or_else(|| self.service_of(id)))
    }

    /// Carries out a command about a node. [`Self::propagate`] carries the change to the instances on it.
    pub(super) async fn change_node(
        &mut self,
        node: &InstanceId,
        command: Command,
    ) -> Result<CommandOutcome, EngineError> {
        let outcome = self.submit_with_moves(command).await?;
        if outcome.changed {
            self.path.unpropagated.lock().insert(node.clone(), Arc::clone(&self.caller));
        }
        Ok(outcome)
    }

    /// Carries out a command and its consequences for other instances: an id that is registered leaves its previous service, and a
    /// requested check leaves the instance of the node that had it. The results of such checks move with them.
    pub(super) async fn submit_with_moves(&mut self, command: Command) -> Result<CommandOutcome, EngineError> {
        let checks: Vec<CheckId> = command.requested_checks().cloned().collect();
        let moved = self.path.engine.registry().moved_by(&command);
        if checks.is_empty() && moved.is_none() {
            let outcome = self.submit(command).await?;
            self.follow_node(&outcome).await?;
            return Ok(outcome);
        }
        let memory = self.path.memory.get().and_then(Weak::upgrade);
        let finish = memory.map(|memory| memory.prepare(&command));
        let done = match moved {
            None => self.submit(command).await,
            Some(old) => self.submit_move(command, &old).await,
        };
        if let Some(finish) = finish {
            finish(done.is_ok());
        }
        let outcome = done?;
        if let Some(entry) = &outcome.entry {
            self.release(entry, &checks).await?;
        }
        self.follow_node(&outcome).await?;
        Ok(outcome)
    }

    /// Gives an instance the state of its node, if another replica has changed the node while the instance was registered here.
    async fn follow_node(&mut self, outcome: &CommandOutcome) -> Result<(), EngineError> {
        let path = Arc::clone(&self.path);
        let registry = path.engine.registry();
        let Some(entry) = outcome.entry.as_ref().filter(|_| outcome.changed && registry.has_replicas()) else {
            return Ok(());
        };
        if registry.has_node_state(&entry.instance) {
            return Ok(());
        }
        let (service, id) = (entry.instance.service.clone(), entry.instance.id.clone());
        match self.submit(Command::RefreshNodeStatus { service, id }).await {
            Ok(_) | Err(EngineError::Rejected(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Registers an instance, and removes the one with its id from its previous service.
    async fn submit_move(&mut self, registration: Command, old: &Entry) -> Result<CommandOutcome, EngineError> {
        let (service, id) = (old.instance.service.clone(), old.instance.id.clone());
        let deregistration = Command::Deregister { service, id, guard: DeregisterGuard::Consul };
        let mut done = self.submit_together(vec![registration, deregistration]).await?;
        Ok(done.swap_remove(0))
    }

    /// Removes checks with these ids from the other instances of the node.
    async fn release(&mut self, entry: &Entry, checks: &[CheckId]) -> Result<(), EngineError> {
        let Some(registration) = &entry.instance.consul_registration else { return Ok(()) };
        let path = Arc::clone(&self.path);
        let consul_index = path.engine.registry().consul_index();
        for taken in checks.iter().flat_map(|check| consul_index.taken_from(&registration.node, check)) {
            let node = taken.service.is_reserved().then(|| taken.id.clone());
            let changed = match self.submit(taken.into()).await {
                Ok(outcome) => outcome.changed,
                Err(EngineError::Rejected(_)) => false,
                Err(error) => return Err(error),
            };
            if let Some(node) = node.filter(|_| changed) {
                self.propagate_now(&node).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn register_node(
        &mut self,
        node: &InstanceId,
        unless_known: Option<RegisterWithoutLease>,
        changes: Vec<Command>,
    ) -> Result<(), EngineError> {
        let missing =
            unless_known.filter(|_| self.path.engine.registry().get(&node_service(), node.as_str()).is_none());
        let missing = missing.map(|registration| Command::RegisterWithoutLease(Box::new(registration)));
        let mut done = Ok(());
        for command in missing.into_iter().chain(changes) {
            done = self.change_node(node, command).await.map(drop);
            if done.is_err() {
                break;
            }
        }
        self.propagate(node).await?;
        done
    }

    /// Propagates the state of a node to its instances, if it has changed, on behalf of the caller that changed it.
    pub(super) async fn propagate(&mut self, node: &InstanceId) -> Result<(), EngineError> {
        let Some(changed_by) = self.path.unpropagated.lock().get(node).cloned() else { return Ok(()) };
        let caller = mem::replace(&mut self.caller, changed_by);
        let done = self.propagate_now(node).await;
        self.caller = caller;
        done?;
        self.path.unpropagated.lock().remove(node);
        Ok(())
    }

    /// Propagates the state of a node to its instances. Those that differ are determined after the change is visible: an instance that
    /// is registered later is decided against the node as it is then.
    ///
    /// Another replica may change the node after a refresh is decided here, and then find no difference. So the instances are
    /// compared once more after the refresh: that sees every change which was ordered before.
    async fn propagate_now(&mut self, node: &InstanceId) -> Result<(), EngineError> {
        self.begun = true;
        while self.refresh_differing(node).await? && self.path.engine.registry().has_replicas() {}
        Ok(())
    }

    /// Refreshes the instances that differ from their node. Returns whether any was changed.
    async fn refresh_differing(&mut self, node: &InstanceId) -> Result<bool, EngineError> {
        let path = Arc::clone(&self.path);
        let registry = path.engine.registry();
        let differing: Vec<_> = registry
            .entries_on_node(node.as_str())
            .into_iter()
            .filter(|entry| !registry.has_node_state(&entry.instance))
            .map(|entry| (entry.instance.service.clone(), entry.instance.id.clone()))
            .collect();
        let mut changed = false;
        for batch in differing.chunks(MAX_REFRESH_BATCH) {
            let commands = batch.iter().cloned().map(|(service, id)| Command::RefreshNodeStatus { service, id });
            let sent: Vec<_> = commands
                .map(|command| (path.engine.submit(command.clone(), &self.caller, path.clock.now()), command))
                .collect();
            for (submission, command) in sent {
                let done = match submission.await {
                    Err(EngineError::Overloaded { .. } | EngineError::Unavailable { .. }) => self.submit(command).await,
                    done => done,
                };
                match done {
                    Ok(outcome) => changed |= outcome.changed,
                    // A command is rejected only if its instance is no longer registered.
                    Err(EngineError::Rejected(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(changed)
    }

    pub(super) async fn remove_node(&mut self, node: InstanceId) -> Result<(), EngineError> {
        // Another replica may have just registered an instance.
        self.path.engine.synchronize().await?;
        let here = self.path.engine.registry().consul_index().on_node(node.as_str());
        let mut targets: Vec<_> = here.into_iter().map(|(id, service)| (service, id)).collect();
        if node.as_str() != node_id("") {
            targets.push((node_service(), node));
        }
        let commands = targets.into_iter().map(|(service, id)| Command::Deregister {
            service,
            id,
            guard: DeregisterGuard::Consul,
        });
        self.submit_together(commands.collect()).await.map(drop)
    }
}

impl From<TakenCheck> for Command {
    /// Removes the check from the instance that has lost it.
    fn from(taken: TakenCheck) -> Self {
        let TakenCheck { service, id, check, created } = taken;
        Self::RemoveCheck { service, id, check, created: Some(created) }
    }
}
