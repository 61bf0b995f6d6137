//! Engines turn commands into ordered events.
//!
//! An engine decides a command against the present state, assigns the next revision to the event, makes it durable, and applies it.
//! Every engine gives the registry the same: events with rising revisions.
//!
//! | engine | lost by a restart |
//! |---|---|
//! | [`Memory`] | everything |
//! | [`Etcd`] | nothing that was acknowledged; several replicas share it |
//! | [`Disk`] | nothing that was acknowledged; with [`Durability::Relaxed`], after a crash, up to the last second |
//!
//! The meaning of commands belongs to `registry`, and the permission to send them to the protocols.

pub mod disk;
pub mod etcd;
mod live_export;
mod memory;
mod policy_log;
pub mod record;
mod saved_check;
#[cfg(test)]
pub(crate) mod test_replicas;
mod write_request;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::oneshot;

pub use disk::{Disk, Durability};
pub use etcd::Etcd;
pub use live_export::LiveExport;
pub use memory::Memory;
pub use record::policy::{MAX_POLICY_BYTES, validate_policy_size};
pub use saved_check::{CheckKey, SavedCheck, SavedChecks, SavedResult};

use crate::{
    model::{Caller, Incarnation, InstanceId, LeaseId, Revision, ServerActor, ServiceName, UnixMillis},
    registry::{
        ClockReading, Command, CommandError, CommandOutcome, PolicyCommand, PolicyError, PolicyOutcome, Registry,
        SessionEpoch,
    },
};

/// Orders commands, and makes their results durable.
pub trait Engine: Send + Sync + fmt::Debug {
    /// Registry that the engine changes and readers read.
    fn registry(&self) -> &Registry;

    /// Submits a command, to be decided at `now` or later. It is executed even if the returned future is dropped. Once the future
    /// yields an outcome, every read sees it. The event keeps the caller.
    fn submit(&self, command: Command, caller: &Arc<Caller>, now: ClockReading) -> PendingCommand;

    /// Submits commands for different instances that belong together. All of them are decided against the same state, and if one is
    /// rejected, none is executed. They are durable together: after a crash, the store has all of them or none.
    fn submit_together(
        &self,
        commands: Vec<Command>,
        caller: &Arc<Caller>,
        now: ClockReading,
    ) -> PendingCommand<Vec<CommandOutcome>>;

    /// Submits a command about a policy, as [`Self::submit`] does. It has its place in the same order.
    fn submit_policy(
        &self,
        command: PolicyCommand,
        caller: &Arc<Caller>,
        now: ClockReading,
    ) -> PendingCommand<PolicyOutcome>;

    /// Saves check states for the next process, within about a second and when the engine is closed. `None` removes the state of a
    /// check that no longer exists. Returns at once. An engine without a store does nothing.
    fn save_checks(&self, states: Vec<(CheckKey, Option<SavedCheck>)>);

    /// Takes the check states that an earlier process saved, or that an export has. `None`: the engine has no store and no export.
    fn take_saved_checks(&self) -> Option<SavedChecks>;

    /// Makes this replica the holder of an entry, because a heartbeat for its lease or a report for its check has arrived here. Returns
    /// at once. `lease`: lease of the entry, so that another registration is not claimed. An engine without replicas does nothing.
    fn claim(&self, service: &ServiceName, id: &InstanceId, lease: Option<LeaseId>);

    /// Returns whether leases may expire now. An engine that cannot reach its store keeps all registrations.
    fn may_expire(&self) -> bool;

    /// Returns the time, since the start of the process, from which on the engine cannot reach its store: reads are answered from memory,
    /// and writes wait. `None`: it reaches its store, or has none.
    fn degraded_since(&self) -> Option<Duration>;

    /// Returns the time since this process last had all changes for certain. Zero for an engine that is the only writer of its store.
    fn state_age(&self) -> Duration {
        Duration::ZERO
    }

    /// Waits until reads include every write that was acknowledged before the call, at whichever replica. An engine without replicas
    /// always does that.
    fn synchronize(&self) -> PendingCommand<()> {
        PendingCommand::done(Ok(()))
    }

    /// Waits until the registry has applied a revision that another replica has shown to a reader. An engine without replicas gives no
    /// revision before it is applied.
    fn reach(&self, _: Revision) -> PendingCommand<()> {
        PendingCommand::done(Ok(()))
    }

    /// Returns the name of the replica with a session. `None` if it is unknown, or the engine has no replicas.
    fn replica_name(&self, _: SessionEpoch) -> Option<Arc<str>> {
        None
    }

    /// Stops the engine, and blocks until everything is where a restart finds it. Later commands are answered with
    /// [`EngineError::Stopped`].
    fn close(&self);
}

/// Start of a new incarnation of a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartPoint {
    /// Id that tells readers that their revisions and tokens of an earlier incarnation are void.
    pub incarnation: Incarnation,
    /// Revision before the first one.
    pub revision: Revision,
}

impl StartPoint {
    /// Lower bound of the first revisions of all registries: the first revision of one that starts in 2020, before Callboard existed.
    /// A smaller revision or index is not from an earlier incarnation, unless the clock of that machine was wrong by years.
    pub const MIN_REVISION: Revision = Revision(1_577_836_800 << 20);

    /// Start at the revision of this time: the seconds since 1970, times 2^20. So revisions rise from one incarnation to the next,
    /// unless one of them had more than a million writes a second.
    #[must_use]
    pub fn new(incarnation: Incarnation, now: ClockReading) -> Self {
        let UnixMillis(millis) = now.wall;
        Self { incarnation, revision: Revision((millis / 1_000) << 20) }
    }
}

/// Error of a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The present state does not permit the command.
    #[error(transparent)]
    Rejected(#[from] CommandError),
    /// The present state does not permit the policy.
    #[error(transparent)]
    PolicyRejected(#[from] PolicyError),
    /// The queue of the store is full.
    #[error(
        "{waiting} writes wait for the store, so this one was not done: try again in {}",
        humantime::format_duration(*retry)
    )]
    Overloaded {
        /// Number of requests in the queue.
        waiting: usize,
        /// Time after which to try again.
        retry: Duration,
    },
    /// The engine cannot reach its store, and the command was not executed.
    #[error("{reason}, so the write was not done: try again in {}", humantime::format_duration(*retry))]
    Unavailable {
        /// Reason, with the store.
        reason: String,
        /// Time after which to try again.
        retry: Duration,
    },
    /// The state of this process was not confirmed to be current in time.
    #[error("{reason}: ask another replica, or try again in {}", humantime::format_duration(*retry))]
    NotCurrent {
        /// Reason, with the store.
        reason: String,
        /// Time after which to try again.
        retry: Duration,
    },
    /// The write is larger than the store accepts.
    #[error("{reason}, so the write was not done")]
    TooLarge {
        /// Reason, with the store and the remedy.
        reason: String,
    },
    /// The store did not confirm the command in time. It may have executed the command, or may still do so.
    #[error(
        "{reason}, so it is not known whether the write was done: repeat it, which is safe unless it deregisters without a lease or \
         boot id"
    )]
    Unconfirmed {
        /// Reason, with the store.
        reason: String,
    },
    /// The engine had stopped before it received the command.
    #[error("the registry is stopping, and the write was not done: repeat it in a moment")]
    Stopped,
    /// The engine stopped while it executed the command.
    #[error(
        "the registry is stopping, and it is not known whether the write was done: repeat it in a moment, which is safe \
         unless it deregisters without a lease or boot id"
    )]
    OutcomeUnknown,
}

/// Submitted command, or several that belong together: a future of the outcome.
#[derive(Debug)]
pub struct PendingCommand<T = CommandOutcome>(PendingState<T>);

/// Sweeps the leases and submits the resulting commands. Returns the pending removals.
///
/// The thread that reads the lease clock must not wait for them, because a slow disk would look like a pause of the process.
pub fn expire(engine: &dyn Engine, now: ClockReading) -> Vec<PendingCommand> {
    if !engine.may_expire() {
        return Vec::new();
    }
    let commands = engine.registry().sweep(now);
    let submitted = commands.into_iter().map(|command| {
        let removal = matches!(command, Command::Expire(_));
        let caller = sweep_actor(&command).caller();
        let pending = engine.submit(command, caller, now);
        removal.then_some(pending)
    });
    submitted.flatten().collect()
}

/// Returns the part of the server that a command of a sweep belongs to: expiry for a removal, self-preservation for a suspect
/// mark.
fn sweep_actor(command: &Command) -> ServerActor {
    if matches!(command, Command::Expire(_)) { ServerActor::Expiry } else { ServerActor::SelfPreservation }
}

/// Waits for commands, and returns the number of those that changed something.
pub async fn count_changes(pending: Vec<PendingCommand>) -> usize {
    let mut changed = 0;
    for command in pending {
        changed += usize::from(command.await.is_ok_and(|outcome| outcome.changed));
    }
    changed
}

/// Sender of the outcome of a [`PendingCommand`].
pub type OutcomeSender<T = CommandOutcome> = oneshot::Sender<Result<T, EngineError>>;

#[derive(Debug)]
enum PendingState<T> {
    Done(Option<Result<T, EngineError>>),
    Waiting(oneshot::Receiver<Result<T, EngineError>>),
}

impl<T> PendingCommand<T> {
    /// A command whose outcome is known.
    #[must_use]
    pub fn done(outcome: Result<T, EngineError>) -> Self {
        Self(PendingState::Done(Some(outcome)))
    }

    /// A command that is executed by another thread, and the sender of its outcome.
    #[must_use]
    pub fn waiting() -> (OutcomeSender<T>, Self) {
        let (sender, waiting) = oneshot::channel();
        (sender, Self(PendingState::Waiting(waiting)))
    }

    /// Blocks until the outcome is known. Must not be called on a thread that runs tasks.
    ///
    /// # Errors
    ///
    /// When the command is rejected, or the engine stops.
    pub fn wait(self) -> Result<T, EngineError> {
        let outcome = match self.0 {
            PendingState::Done(outcome) => outcome,
            PendingState::Waiting(waiting) => waiting.blocking_recv().ok(),
        };
        outcome.unwrap_or(Err(EngineError::OutcomeUnknown))
    }
}

impl<T: Unpin> Future for PendingCommand<T> {
    type Output = Result<T, EngineError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            PendingState::Done(outcome) => Poll::Ready(outcome.take().unwrap_or(Err(EngineError::Stopped))),
            PendingState::Waiting(waiting) => {
                Pin::new(waiting).poll(context).map(|outcome| outcome.unwrap_or(Err(EngineError::OutcomeUnknown)))
            }
        }
    }
}
