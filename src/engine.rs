//! Engines turn commands into ordered events.
//!
//! An engine decides a command against what is there, gives the event its revision, makes it as durable as it promises,
//! and applies it. The registry sees the same from every engine: events with rising revisions.
//!
//! | engine | a restart |
//! |---|---|
//! | [`Memory`] | forgets everything |
//! | [`Disk`] | forgets nothing that was acknowledged; with [`Durability::Relaxed`], after a crash, up to a second of it |
//!
//! What is not here: what a command means (`registry`), who may send one (doors).

pub mod disk;
mod memory;
mod saved_check;

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
pub use memory::Memory;
pub use saved_check::{CheckKey, SavedCheck, SavedChecks, SavedResult};

use crate::{
    model::{Caller, Incarnation, Revision, ServerActor, UnixMillis},
    registry::{ClockReading, Command, CommandError, CommandOutcome, Registry},
};

/// Orders commands.
pub trait Engine: Send + Sync + fmt::Debug {
    /// What readers read.
    fn registry(&self) -> &Registry;

    /// Has a command done, as of now or a later time. It is done also if nobody waits for the answer; once there is one, every
    /// read sees it. The event keeps the caller.
    fn submit(&self, command: Command, caller: &Arc<Caller>, now: ClockReading) -> PendingCommand;

    /// Submits commands about different instances that belong together. All of them are decided against the same state; when one is
    /// refused, none is done. They are durable together: after a crash all of them are there, or none.
    fn submit_together(
        &self,
        commands: Vec<Command>,
        caller: &Arc<Caller>,
        now: ClockReading,
    ) -> PendingCommand<Vec<CommandOutcome>>;

    /// Saves states of checks for the next process, within about a second and when the engine is closed. `None`: the check is
    /// gone. Returns at once. An engine without a store does nothing.
    fn save_checks(&self, states: Vec<(CheckKey, Option<SavedCheck>)>);

    /// Takes the states that an earlier process saved. `None`: this engine saves none.
    fn take_saved_checks(&self) -> Option<SavedChecks>;

    /// Takes no more commands, and returns when all is where a restart finds it. Blocks.
    fn close(&self);
}

/// Where a new life of a registry begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartPoint {
    /// What tells readers that what they knew of an earlier one is void.
    pub incarnation: Incarnation,
    /// The revision before its first.
    pub revision: Revision,
}

impl StartPoint {
    /// Lower bound of the first revisions of all registries: that of one which started in 2020, before there was any.
    /// A smaller revision or index comes from no earlier life, unless the clock of its machine was wrong by years.
    pub const EARLIEST: Revision = Revision(1_577_836_800 << 20);

    /// Revisions begin at the seconds since 1970, times 2^20: so they rise through lives, unless one had more than a million
    /// writes a second.
    #[must_use]
    pub fn new(incarnation: Incarnation, now: ClockReading) -> Self {
        let UnixMillis(millis) = now.wall;
        Self { incarnation, revision: Revision((millis / 1_000) << 20) }
    }
}

/// Why an engine did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// It cannot be done as things are.
    #[error(transparent)]
    Rejected(#[from] CommandError),
    /// More commands wait than the disk can take in a reasonable time.
    #[error(
        "{waiting} writes wait for the disk already, so nothing was done: try again in {}",
        humantime::format_duration(*retry)
    )]
    Overloaded {
        /// How many wait.
        waiting: usize,
        /// When to try again.
        retry: Duration,
    },
    /// The engine had stopped before the command came.
    #[error("the registry is stopping, and nothing was done: repeat it, here in a moment")]
    Stopped,
    /// The engine stopped before it could tell what became of the command.
    #[error(
        "the registry is stopping, and whether this was done is not known: repeat it, which is safe, here in a moment"
    )]
    OutcomeUnknown,
}

/// A command on its way, or several that belong together: a future of what became of it.
#[derive(Debug)]
pub struct PendingCommand<T = CommandOutcome>(PendingState<T>);

/// Sends what the leases' time asks for, and returns the removals among it, on their way. Whoever reads the lease clock must not
/// wait for them: a slow disk would look like a pause of the process.
pub fn expire(engine: &dyn Engine, now: ClockReading) -> Vec<PendingCommand> {
    let commands = engine.registry().sweep(now);
    let sent = commands.into_iter().map(|command| {
        let removal = matches!(command, Command::Expire(_));
        let caller = sweep_actor(&command).caller();
        let submission = engine.submit(command, caller, now);
        removal.then_some(submission)
    });
    sent.flatten().collect()
}

/// Returns the part of the server that a command of a sweep belongs to: it removes an instance, or changes what is suspected.
fn sweep_actor(command: &Command) -> ServerActor {
    if matches!(command, Command::Expire(_)) { ServerActor::Expiry } else { ServerActor::SelfPreservation }
}

/// How many of these changed anything.
pub async fn count_changes(sent: Vec<PendingCommand>) -> usize {
    let mut changed = 0;
    for submission in sent {
        changed += usize::from(submission.await.is_ok_and(|outcome| outcome.changed));
    }
    changed
}

/// Sends the outcome of a command to whoever waits for it.
pub type OutcomeSender<T = CommandOutcome> = oneshot::Sender<Result<T, EngineError>>;

#[derive(Debug)]
enum PendingState<T> {
    Done(Option<Result<T, EngineError>>),
    Waiting(oneshot::Receiver<Result<T, EngineError>>),
}

impl<T> PendingCommand<T> {
    /// What became of a command that did not have to wait.
    #[must_use]
    pub fn done(outcome: Result<T, EngineError>) -> Self {
        Self(PendingState::Done(Some(outcome)))
    }

    /// A command that waits, and where its outcome is to be sent.
    #[must_use]
    pub fn waiting() -> (OutcomeSender<T>, Self) {
        let (answer, waiting) = oneshot::channel();
        (answer, Self(PendingState::Waiting(waiting)))
    }

    /// Waits for the outcome. Blocks, so it is not for threads that run tasks.
    ///
    /// # Errors
    ///
    /// When the command is refused, or the engine stops.
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
