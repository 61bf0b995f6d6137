//! The one write path.
//!
//! A command changes one instance. A write that changes several is one operation here: a change of a node and its propagation to the
//! instances on it, a move of an id to another service, the removal of a node with all that is on it. Such a write is
//!
//! * **complete**: once the engine has its first command, it runs to its end even if its request is dropped ([`Commands::finish`]
//!   waits for that); the next process completes a write that a kill interrupts ([`Commands::recover`]);
//! * **exclusive**: writes about the same node or the same id run one after the other. A write that takes both locks takes the node's
//!   first, and one id's at a time; a write that takes the locks of several ids takes them in the order of the ids.
//!
//! | write | commands | after a kill |
//! |---|---|---|
//! | a policy changes | one | nothing or all is stored |
//! | a node changes | the node, then `RefreshNodeStatus` for each instance that differs from it | the next start refreshes instances that differ |
//! | an id moves to another service | `RegisterWithoutLease` and `Deregister`, durable together | nothing or all is stored |
//! | a service is removed with its proxy | one `Deregister` for each, durable together | nothing or all is stored |
//! | a service is registered with its proxy | one after the other, each complete | what was not acknowledged may be missing |
//! | a check moves from another instance of the node | `RegisterWithoutLease` or `AddCheck`, then `RemoveCheck` | the next start leaves it to the later owner |
//! | a node is removed | one `Deregister` for it and for each instance on it, durable together | nothing or all is stored |
//! | a node, a service and checks are registered | one after the other, each complete | what was not acknowledged may be missing |

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock, Weak},
};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::{
    background::{BackgroundTasks, RunToCompletion},
    check_memory::CheckMemory,
    command_sequence::CommandSequence,
    keyed_lock::KeyGuard,
    write_path::{LockKey, WritePath},
};
use crate::{
    clock::Clock,
    engine::{self, CheckKey, Engine, EngineError, PendingCommand, SavedCheck, SavedChecks},
    model::{Caller, InstanceId, ServiceName},
    registry::{
        ClockReading, Command, CommandOutcome, DeregisterGuard, NewCheck, Patch, PolicyCommand, PolicyOutcome,
        RegisterWithoutLease, Registry,
    },
};

/// The one write path, for all protocols, health checks and lease expiry. Clones share it.
///
/// [`Self::on_behalf_of`] gives the operations that change something, so that every command carries its caller.
#[derive(Debug, Clone)]
pub struct Commands(Arc<WritePath>);

/// The write path as one caller uses it.
#[derive(Debug, Clone, Copy)]
pub struct CallerCommands<'a> {
    commands: &'a Commands,
    caller: &'a Arc<Caller>,
}

/// Registration of a node, as Consul's catalog accepts it: commands about the node, then a service and checks on it.
#[derive(Debug)]
pub struct NodeRegistration {
    /// Id of the node.
    pub node: InstanceId,
    /// Registration of the node, submitted first if the node is not registered.
    pub unless_known: Option<RegisterWithoutLease>,
    /// Commands about the node, in order.
    pub changes: Vec<Command>,
    /// Service on the node.
    pub service: Option<RegisterWithoutLease>,
    /// Changes of instances on the node, by instance id, made after the service is registered.
    pub then: Vec<(InstanceId, ConsulChange)>,
}

/// Change of a Consul registration that is found by its id, in the service that has it by then.
#[derive(Debug)]
pub enum ConsulChange {
    /// Adds a check, or replaces its definition.
    AddCheck(NewCheck),
    /// Changes fields, as an operator does.
    Update(Patch),
}

impl ConsulChange {
    fn of(self, service: ServiceName, id: InstanceId) -> Command {
        match self {
            Self::AddCheck(check) => Command::AddCheck { service, id, check },
            Self::Update(patch) => Command::Update { service, id, lease: None, patch },
        }
    }
}

impl NodeRegistration {
    /// Returns a registration that changes a node and nothing else.
    #[must_use]
    pub fn of_node(node: InstanceId, unless_known: Option<RegisterWithoutLease>, changes: Vec<Command>) -> Self {
        Self { node, unless_known, changes, service: None, then: Vec::new() }
    }
}

impl Commands {
    /// Creates the write path to an engine. Writes that callers drop are completed on `runtime`, which must outlive the callers; `None` is
    /// for engines that answer at once.
    #[must_use]
    pub fn new(engine: &Arc<dyn Engine>, clock: &Arc<Clock>, runtime: Option<Handle>) -> Self {
        Self(Arc::new(WritePath {
            engine: Arc::clone(engine),
            clock: Arc::clone(clock),
            locks: Arc::default(),
            unpropagated: Mutex::default(),
            background: BackgroundTasks::on(runtime),
            memory: OnceLock::new(),
        }))
    }

    /// Sets the memory of check results, which moves with checks that change owners. Call it once, before the first write.
    pub fn remember_checks(&self, memory: Weak<dyn CheckMemory>) {
        // A second call would be a defect of the server's construction; the first memory stays.
        let _ = self.0.memory.set(memory);
    }

    /// Returns the registry that is written to.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        self.0.engine.registry()
    }

    /// Returns the write path as one caller uses it: the events of its writes keep the caller.
    #[must_use]
    pub fn on_behalf_of<'a>(&'a self, caller: &'a Arc<Caller>) -> CallerCommands<'a> {
        CallerCommands { commands: self, caller }
    }

    /// Submits the commands that the leases require at this time, on behalf of expiry and self-preservation. Returns the pending removals.
    #[must_use]
    pub fn expire(&self, now: ClockReading) -> Vec<PendingCommand> {
        engine::expire(&*self.0.engine, now)
    }

    /// Returns whether leases and TTLs may expire now: [`Engine::may_expire`].
    #[must_use]
    pub fn may_expire(&self) -> bool {
        self.0.engine.may_expire()
    }

    /// Makes this replica the holder of an instance without a lease, unless it is already. Returns at once.
    pub fn claim_without_lease(&self, service: &ServiceName, id: &InstanceId) {
        let entry = self.registry().get(service, id.as_str());
        if entry.is_some_and(|entry| entry.lease.is_none() && !self.registry().holds(&entry)) {
            self.0.engine.claim(service, id, None);
        }
    }

    /// Saves states of checks for the next process, if the engine has a store.
    pub fn save_checks(&self, states: Vec<(CheckKey, Option<SavedCheck>)>) {
        self.0.engine.save_checks(states);
    }

    /// Takes the states of checks that an earlier process saved. `None`: the engine saves none.
    #[must_use]
    pub fn take_saved_checks(&self) -> Option<SavedChecks> {
        self.0.engine.take_saved_checks()
    }

    /// Waits until every started write has ended. Call it when no more are started, before the engine closes.
    pub async fn finish(&self) {
        self.0.background.finish().await;
    }

    pub(super) fn submit_one(&self, command: Command, caller: &Arc<Caller>) -> PendingCommand {
        self.0.engine.submit(command, caller, self.0.clock.now())
    }

    async fn lock(&self, key: LockKey) -> KeyGuard<LockKey> {
        self.0.locks.lock(key).await
    }

    /// Takes the locks of several ids, in the order of the ids, so that two writes do not deadlock.
    async fn lock_all(&self, ids: impl Iterator<Item = InstanceId>) -> Vec<KeyGuard<LockKey>> {
        let ids: BTreeSet<_> = ids.collect();
        let mut guards = Vec::with_capacity(ids.len());
        for id in ids {
            guards.push(self.lock(LockKey::ConsulRegistration(id)).await);
        }
        guards
    }
}

impl CallerCommands<'_> {
    /// Ends self-preservation of a service, or of all, and returns the number of silent instances that it held:
    /// [`Registry::reset_self_preservation`].
    #[must_use]
    pub fn reset_self_preservation(self, service: Option<&ServiceName>) -> usize {
        self.commands.registry().reset_self_preservation(service, self.caller, self.commands.0.clock.now())
    }

    /// Carries out a command. A change of a node is propagated to the instances on it.
    ///
    /// # Errors
    ///
    /// When the command is rejected, or the engine does not accept it.
    pub async fn submit(self, command: Command) -> Result<CommandOutcome, EngineError> {
        let (service, id) = command.target();
        if !service.is_reserved() {
            return self.commands.submit_one(command, self.caller).await;
        }
        let guard = self.commands.lock(LockKey::Node(id.clone())).await;
        self.run_to_completion(guard, |mut write| async move {
            let node = command.target().1.clone();
            let outcome = write.change_node(&node, command).await;
            write.propagate(&node).await?;
            outcome
        })
        .await
    }

    /// Changes a policy. The engine carries the command out even if the returned future is dropped.
    ///
    /// # Errors
    ///
    /// When the policy is rejected, or the engine does not accept the command.
    #[must_use]
    pub fn set_policy(self, command: PolicyCommand) -> PendingCommand<PolicyOutcome> {
        let path = &self.commands.0;
        path.engine.submit_policy(command, self.caller, path.clock.now())
    }

    /// Registers a node, a service on it and checks, as far as they are given.
    ///
    /// # Errors
    ///
    /// When a command is rejected, or the engine does not accept the first. What was done before a rejection stays.
    pub async fn register_on_node(self, registration: NodeRegistration) -> Result<(), EngineError> {
        let guard = self.commands.lock(LockKey::Node(registration.node.clone())).await;
        self.run_to_completion(guard, |mut write| async move {
            let NodeRegistration { node, unless_known, changes, service, then } = registration;
            write.register_node(&node, unless_known, changes).await?;
            if let Some(service) = service {
                let _guard = write.lock(&service.id).await;
                write.submit_with_moves(Command::RegisterWithoutLease(Box::new(service))).await?;
            }
            for (id, change) in then {
                let _guard = write.lock(&id).await;
                // An instance that was removed in the meantime has nothing to change.
                if let Some(service) = write.service_of(&id) {
                    write.submit_with_moves(change.of(service, id)).await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Registers instances without a lease, one after the other. If another service has the id of an instance, the instance moves
    /// from there. `held` is dropped once all are registered.
    ///
    /// # Errors
    ///
    /// When a registration is rejected, or the engine does not accept the first. Earlier registrations stay.
    pub async fn register(
        self,
        registrations: Vec<RegisterWithoutLease>,
        held: impl Send + 'static,
    ) -> Result<(), EngineError> {
        let guards = self.commands.lock_all(registrations.iter().map(|registration| registration.id.clone())).await;
        self.run_to_completion((guards, held), |mut write| async move {
            for registration in registrations {
                write.submit_with_moves(Command::RegisterWithoutLease(Box::new(registration))).await?;
            }
            Ok(())
        })
        .await
    }

    /// Changes the Consul registration with this id, in the service that has it by then. Returns `None` if no service has it.
    ///
    /// # Errors
    ///
    /// When the change is rejected, or the engine does not accept it.
    pub async fn submit_consul_change(
        self,
        id: InstanceId,
        change: ConsulChange,
    ) -> Result<Option<CommandOutcome>, EngineError> {
        let guard = self.commands.lock(LockKey::ConsulRegistration(id.clone())).await;
        self.run_to_completion(guard, |mut write| async move {
            let Some(service) = write.confirmed_service_of(&id).await? else { return Ok(None) };
            write.submit_with_moves(change.of(service, id)).await.map(Some)
        })
        .await
    }

    /// Removes the Consul registrations with these ids together, in the services that have them. Returns whether there was one with the
    /// first id.
    ///
    /// # Errors
    ///
    /// When the engine does not accept the write; then none is removed.
    pub async fn deregister_consul(self, ids: Vec<InstanceId>) -> Result<bool, EngineError> {
        let guards = self.commands.lock_all(ids.iter().cloned()).await;
        self.run_to_completion(guards, |mut write| async move {
            let Some(id) = ids.first() else { return Ok(false) };
            let Some(first) = write.confirmed_service_of(id).await? else { return Ok(false) };
            let others = ids.iter().skip(1).filter_map(|id| write.service_of(id).map(|service| (service, id.clone())));
            let targets = [(first, id.clone())].into_iter().chain(others);
            let deregister = |(service, id)| Command::Deregister { service, id, guard: DeregisterGuard::Consul };
            let commands = targets.map(deregister).collect();
            Ok(write.submit_together(commands).await?.first().is_some_and(|outcome| outcome.changed))
        })
        .await
    }

    /// Removes all Consul registrations on a node, and the node itself unless it is the local one.
    ///
    /// # Errors
    ///
    /// When the engine does not accept the write; then nothing is removed.
    pub async fn remove_node(self, node: InstanceId) -> Result<(), EngineError> {
        let guard = self.commands.lock(LockKey::Node(node.clone())).await;
        self.run_to_completion(guard, |mut write| async move { write.remove_node(node).await }).await
    }

    /// Runs a write to completion. The guards are held until then.
    fn run_to_completion<T, F>(
        self,
        guards: impl Send + 'static,
        write: impl FnOnce(CommandSequence) -> F,
    ) -> RunToCompletion<Result<T, EngineError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, EngineError>> + Send + 'static,
    {
        let write = write(CommandSequence {
            path: Arc::clone(&self.commands.0),
            caller: Arc::clone(self.caller),
            begun: false,
        });
        self.commands.0.background.run_to_completion(async move {
            let _guards = guards;
            write.await
        })
    }
}

#[cfg(test)]
#[path = "commands/tests.rs"]
mod tests;
