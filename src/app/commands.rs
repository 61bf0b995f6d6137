//! The one path of writes.
//!
//! A command changes one instance. What changes several is one write here: a node and the instances that take over its state, an id
//! that moves to another service, a node that goes with all that is on it. Such a write is
//!
//! * **whole**: once its first command is with the engine it runs to its end, whatever becomes of the request that asked for it
//!   ([`Commands::finish`] waits for that); a process that is killed in between completes it when it starts again
//!   ([`Commands::recover`]);
//! * **alone**: writes that concern the same node, or the same id, are carried out one after the other. A write that takes both locks
//!   takes that of the node first, and one of an id at a time; a write that takes those of several ids takes them in their order.
//!
//! | write | commands | interrupted by a kill |
//! |---|---|---|
//! | a node changes | the node, then a `RefreshNodeStatus` for each instance that differs from it | instances that differ are restated at the start |
//! | an id moves to another service | `Enroll` and `Deregister`, durable together | nothing or all is stored |
//! | a service is removed with its proxy | one `Deregister` for each, durable together | nothing or all is stored |
//! | a service is registered with its proxy | one after the other, each of them whole | what was not acknowledged may be missing |
//! | a check is taken from another instance of the node | `Enroll` or `AddCheck`, then `RemoveCheck` | the later owner keeps it at the start |
//! | a node is removed | one `Deregister` for it and for each instance on it, durable together | nothing or all is stored |
//! | a node, a service and checks are registered | one after the other, each of them whole | what was not acknowledged may be missing |

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, OnceLock, Weak},
};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::{
    background::{BackgroundTasks, RunToCompletion},
    check_memory::CheckMemory,
    command_sequence::CommandSequence,
    keyed_lock::{KeyGuard, KeyedLock},
};
use crate::{
    clock::Clock,
    engine::{self, CheckKey, Engine, EngineError, PendingCommand, SavedCheck, SavedChecks},
    model::{Caller, InstanceId, ServiceName},
    registry::{
        ClockReading, Command, CommandOutcome, DeregisterGuard, NewCheck, Patch, RegisterWithoutLease, Registry,
    },
};

/// The one path of writes, for all protocols, the health checks and the expiry of leases. Clones share it.
#[derive(Debug, Clone)]
pub struct Commands(Arc<WritePath>);

/// The write path as one caller uses it.
#[derive(Debug, Clone, Copy)]
pub struct CallerCommands<'a> {
    commands: &'a Commands,
    caller: &'a Arc<Caller>,
}

#[derive(Debug)]
pub(super) struct WritePath {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) clock: Arc<Clock>,
    pub(super) locks: Arc<KeyedLock<LockKey>>,
    /// Nodes whose last change has not reached all of their instances: a write that changes nothing goes on with it.
    pub(super) unpropagated: Mutex<HashSet<InstanceId>>,
    pub(super) background: Arc<BackgroundTasks>,
    pub(super) memory: OnceLock<Weak<dyn CheckMemory>>,
}

/// Subject of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum LockKey {
    /// A node, by its id among the nodes.
    Node(InstanceId),
    /// An instance with a listing, by the id by which it is found.
    Listed(InstanceId),
}

/// A node as the catalog is told of it: commands about the node, then what is registered on it.
#[derive(Debug)]
pub struct NodeRegistration {
    /// Id of the node among the nodes.
    pub node: InstanceId,
    /// Registers the node first, if it is not registered.
    pub unless_known: Option<RegisterWithoutLease>,
    /// Commands about the node, in order.
    pub changes: Vec<Command>,
    /// A service on the node.
    pub service: Option<RegisterWithoutLease>,
    /// Changes of instances on the node, by the ids of those, after that.
    pub then: Vec<(InstanceId, ListedChange)>,
}

/// A change of an instance that is found by its id, in whatever service it is by then.
#[derive(Debug)]
pub enum ListedChange {
    /// Adds a check, or defines it anew.
    AddCheck(NewCheck),
    /// Changes fields, as an operator does.
    Update(Patch),
}

impl ListedChange {
    fn of(self, service: ServiceName, id: InstanceId) -> Command {
        match self {
            Self::AddCheck(check) => Command::AddCheck { service, id, check },
            Self::Update(patch) => Command::Update { service, id, lease: None, patch },
        }
    }
}

impl NodeRegistration {
    /// Returns a registration that makes these changes of a node and nothing else.
    #[must_use]
    pub fn of_node(node: InstanceId, unless_known: Option<RegisterWithoutLease>, changes: Vec<Command>) -> Self {
        Self { node, unless_known, changes, service: None, then: Vec::new() }
    }
}

impl Commands {
    /// The path to an engine. What callers drop halfway runs to its end on `runtime`, which must outlive them; `None` is for engines that
    /// answer at once.
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

    /// Has what is known of checks go along with writes that hand them over. Once, before the first write.
    pub fn remember_checks(&self, memory: Weak<dyn CheckMemory>) {
        // A second one would be a defect of whoever puts the server together; the first goes on.
        let _ = self.0.memory.set(memory);
    }

    /// The registry that is written to.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        self.0.engine.registry()
    }

    /// Returns the write path as one caller uses it: the events of its writes keep the caller.
    #[must_use]
    pub fn on_behalf_of<'a>(&'a self, caller: &'a Arc<Caller>) -> CallerCommands<'a> {
        CallerCommands { commands: self, caller }
    }

    /// Submits what the leases' time asks for, and returns the removals among it, on their way.
    #[must_use]
    pub fn expire(&self, now: ClockReading) -> Vec<PendingCommand> {
        engine::expire(&*self.0.engine, now)
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

    /// Waits until every write that was begun has ended. For when no more are begun, and before the engine closes.
    pub async fn finish(&self) {
        self.0.background.finish().await;
    }

    pub(super) fn order(&self, command: Command, caller: &Arc<Caller>) -> PendingCommand {
        self.0.engine.submit(command, caller, self.0.clock.now())
    }

    async fn lock(&self, key: LockKey) -> KeyGuard<LockKey> {
        self.0.locks.lock(key).await
    }

    /// Takes the locks of several ids, in the order of the ids: two writes that want the same do not wait for each other.
    async fn lock_all(&self, ids: impl Iterator<Item = InstanceId>) -> Vec<KeyGuard<LockKey>> {
        let ids: BTreeSet<_> = ids.collect();
        let mut guards = Vec::with_capacity(ids.len());
        for id in ids {
            guards.push(self.lock(LockKey::Listed(id)).await);
        }
        guards
    }
}

impl CallerCommands<'_> {
    /// Carries out a command. What it means for other instances is carried out with it: those on a node take over its state.
    ///
    /// # Errors
    ///
    /// When the command is refused, or the engine does not take it.
    pub async fn submit(self, command: Command) -> Result<CommandOutcome, EngineError> {
        let (service, id) = command.target();
        if !service.is_reserved() {
            return self.commands.order(command, self.caller).await;
        }
        let guard = self.commands.lock(LockKey::Node(id.clone())).await;
        self.to_the_end(guard, |mut write| async move {
            let node = command.target().1.clone();
            let outcome = write.change_node(&node, command).await;
            write.propagate(&node).await?;
            outcome
        })
        .await
    }

    /// Registers a node, a service on it and checks, as far as they are given.
    ///
    /// # Errors
    ///
    /// When a command is refused, or the engine does not take the first. What was done before a refusal stays.
    pub async fn register_on_node(self, asked: NodeRegistration) -> Result<(), EngineError> {
        let guard = self.commands.lock(LockKey::Node(asked.node.clone())).await;
        self.to_the_end(guard, |mut write| async move {
            let NodeRegistration { node, unless_known, changes, service, then } = asked;
            write.register_node(&node, unless_known, changes).await?;
            if let Some(service) = service {
                let _guard = write.lock(&service.id).await;
                write.place(Command::RegisterWithoutLease(Box::new(service))).await?;
            }
            for (id, change) in then {
                let _guard = write.lock(&id).await;
                // There is nothing to change of an instance that was removed meanwhile.
                if let Some(service) = write.service_of(&id) {
                    write.place(change.of(service, id)).await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Registers instances without a lease, one after the other. One whose id is that of an instance in another service moves.
    /// `held` is dropped once they are registered.
    ///
    /// # Errors
    ///
    /// When one is refused, or the engine does not take the first. What was registered before a refusal stays.
    pub async fn register(
        self,
        enrolls: Vec<RegisterWithoutLease>,
        held: impl Send + 'static,
    ) -> Result<(), EngineError> {
        let guards = self.commands.lock_all(enrolls.iter().map(|enroll| enroll.id.clone())).await;
        self.to_the_end((guards, held), |mut write| async move {
            for enroll in enrolls {
                write.place(Command::RegisterWithoutLease(Box::new(enroll))).await?;
            }
            Ok(())
        })
        .await
    }

    /// Changes the instance that is found by this id, in whatever service it is by then. `None`: there is none.
    ///
    /// # Errors
    ///
    /// When the change is refused, or the engine does not take it.
    pub async fn submit_listed(
        self,
        id: InstanceId,
        change: ListedChange,
    ) -> Result<Option<CommandOutcome>, EngineError> {
        let guard = self.commands.lock(LockKey::Listed(id.clone())).await;
        let Some(service) = self.commands.registry().consul_index().service_of(id.as_str()) else { return Ok(None) };
        let command = change.of(service, id);
        self.to_the_end(guard, |mut write| async move { write.place(command).await.map(Some) }).await
    }

    /// Removes the instances that are found by these ids, in whatever services, as one. Returns whether there was any for the first.
    ///
    /// # Errors
    ///
    /// When the engine does not take it; then none is removed.
    pub async fn deregister_listed(self, ids: Vec<InstanceId>) -> Result<bool, EngineError> {
        let guards = self.commands.lock_all(ids.iter().cloned()).await;
        self.to_the_end(guards, |mut write| async move {
            let Some(first) = ids.first().and_then(|id| write.service_of(id)) else { return Ok(false) };
            let others = ids.iter().skip(1).filter_map(|id| write.service_of(id).map(|service| (service, id.clone())));
            let targets = ids.first().map(|id| (first, id.clone())).into_iter().chain(others);
            let leaves = |(service, id)| Command::Deregister { service, id, guard: DeregisterGuard::Consul };
            let commands = targets.map(leaves).collect();
            Ok(write.order_together(commands).await?.first().is_some_and(|outcome| outcome.changed))
        })
        .await
    }

    /// Removes all instances with a listing that are on a node, and the node, unless it is the local one.
    ///
    /// # Errors
    ///
    /// When the engine does not take it; then nothing is removed.
    pub async fn remove_node(self, node: InstanceId) -> Result<(), EngineError> {
        let guard = self.commands.lock(LockKey::Node(node.clone())).await;
        self.to_the_end(guard, |mut write| async move { write.remove_node(node).await }).await
    }

    /// Runs a write to its end, with what it holds meanwhile.
    fn to_the_end<T, F>(
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
        self.commands.0.background.to_the_end(async move {
            let _guards = guards;
            write.await
        })
    }
}

#[cfg(test)]
#[path = "commands/tests.rs"]
mod tests;
