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

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::oneshot;

pub use disk::{Disk, Durability};
pub use memory::Memory;

use crate::{
    model::{Incarnation, Revision, WallTime, node_id, nodes},
    registry::{Command, Holder, Now, Outcome, Refusal, Registry},
};

/// Orders commands.
pub trait Engine: Send + Sync + fmt::Debug {
    /// What readers read.
    fn registry(&self) -> &Registry;

    /// Has a command done, as of now or a later time. It is done also if nobody waits for the answer; once there is one, every
    /// read sees it.
    fn order(&self, command: Command, now: Now) -> Submission;

    /// Takes no more commands, and returns when all is where a restart finds it. Blocks.
    fn close(&self);
}

/// Where a new life of a registry begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// What tells readers that what they knew of an earlier one is void.
    pub incarnation: Incarnation,
    /// The revision before its first.
    pub revision: Revision,
}

impl Beginning {
    /// Revisions begin at the seconds since 1970, times 2^20: so they rise through lives, unless one had more than a million
    /// writes a second.
    #[must_use]
    pub fn new(incarnation: Incarnation, now: Now) -> Self {
        let WallTime(millis) = now.wall;
        Self { incarnation, revision: Revision((millis / 1_000) << 20) }
    }
}

/// Why an engine did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// It cannot be done as things are.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// More commands wait than the disk can take in a reasonable time.
    #[error("{waiting} writes wait for the disk already: try again in {}", humantime::format_duration(*retry))]
    Overloaded {
        /// How many wait.
        waiting: usize,
        /// When to try again.
        retry: Duration,
    },
    /// The engine has stopped, or stopped before it could say what became of the command.
    #[error("the registry is stopping, and whether this was done is not known: repeat it, here in a moment")]
    Stopped,
}

/// A command on its way: a future of what became of it.
#[derive(Debug)]
pub struct Submission(State);

/// Sends what the leases' time asks for, and returns the removals among it, on their way. Whoever reads the lease clock must not
/// wait for them: a slow disk would look like a pause of the process.
pub fn expire(engine: &dyn Engine, now: Now) -> Vec<Submission> {
    let commands = engine.registry().sweep(now);
    let sent = commands.into_iter().map(|command| {
        let removal = matches!(command, Command::Expire(_));
        let submission = engine.order(command, now);
        removal.then_some(submission)
    });
    sent.flatten().collect()
}

/// Has those who are on a node feel how it is: after the node was drained, or one of its checks said something else. `node`: its id
/// among the nodes. What they feel is found out when each is decided, so it does not matter what happens meanwhile.
///
/// # Errors
///
/// When the engine stops.
pub async fn feel_node(engine: &dyn Engine, node: &str, now: Now) -> Result<(), EngineError> {
    let registry = engine.registry();
    // On the local node, whoever names no address may be where it registered from.
    let host = registry.get(&nodes(), node).filter(|_| *node != *node_id(""));
    let host = host.and_then(|node| node.instance.addresses.first().map(|address| address.host.clone()));
    let restate = |(id, service)| engine.order(Command::Restate { service, id, host: host.clone() }, now);
    let sent: Vec<_> = registry.catalog().on_node(node).into_iter().map(restate).collect();
    for submission in sent {
        match submission.await {
            // It is gone.
            Ok(_) | Err(EngineError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Takes away what moved to another service under its id when the process was killed.
///
/// # Errors
///
/// When the engine does not take it.
pub async fn finish_moves(engine: &dyn Engine, now: Now) -> Result<(), EngineError> {
    let registry = engine.registry();
    for entry in registry.each_service().flat_map(|summary| registry.page(&summary.name, "", usize::MAX)) {
        let instance = &entry.instance;
        if registry.listed_as(instance).is_some_and(|meant| meant.instance.service != instance.service) {
            let (service, id) = (instance.service.clone(), instance.id.clone());
            match engine.order(Command::Deregister { service, id, of: Holder::Anyone }, now).await {
                Ok(_) | Err(EngineError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// How many of these changed anything.
pub async fn count_changes(sent: Vec<Submission>) -> usize {
    let mut changed = 0;
    for submission in sent {
        changed += usize::from(submission.await.is_ok_and(|outcome| outcome.changed));
    }
    changed
}

#[derive(Debug)]
enum State {
    Done(Option<Result<Outcome, EngineError>>),
    Waiting(oneshot::Receiver<Result<Outcome, EngineError>>),
}

impl Submission {
    /// What became of a command that did not have to wait.
    #[must_use]
    pub fn done(outcome: Result<Outcome, EngineError>) -> Self {
        Self(State::Done(Some(outcome)))
    }

    /// A command that waits, and where its outcome is to be sent.
    #[must_use]
    pub fn waiting() -> (oneshot::Sender<Result<Outcome, EngineError>>, Self) {
        let (answer, waiting) = oneshot::channel();
        (answer, Self(State::Waiting(waiting)))
    }
}

impl Future for Submission {
    type Output = Result<Outcome, EngineError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Done(outcome) => Poll::Ready(outcome.take().unwrap_or(Err(EngineError::Stopped))),
            State::Waiting(waiting) => {
                Pin::new(waiting).poll(context).map(|outcome| outcome.unwrap_or(Err(EngineError::Stopped)))
            }
        }
    }
}
