//! The engine with a store: one node that finds everything again after kill -9.
//!
//! ```text
//!   order() ─► queue ─► writer: decide ─► write, fsync ─► apply, announce ─► answer
//!                       one thread, one transaction for all that waits
//! ```
//!
//! The writer is the only one who changes the registry, so what it decided still holds when it is on the disk. Commands
//! for an instance that has one in the transaction at hand wait for the next.
//!
//! Heartbeats are never written: whoever is loaded gets a full time to live. States of checks ride along: they are written with the
//! next transaction, a part of them with each, and nobody waits for that.
//!
//! A disk that fails stops the engine, and with it the process: what is on it then is not known, and nothing that may not
//! be there is acknowledged.
//!
//! | file | holds |
//! |---|---|
//! | `record` | an instance as bytes |
//! | `export` | all of them as JSON Lines |
//! | `store` | the file |
//! | `load` | what is found in it |
//! | `directory` | where it is, and the lock on that |
//! | `presence` | whether a restart would find it |
//! | `writer` | the thread |

mod directory;
mod error;
pub mod export;
mod file_identity;
mod load;
pub mod record;
mod store;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, SendError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;

use super::{CheckKey, Engine, EngineError, PendingCommand, SavedCheck, SavedChecks, StartPoint};
use crate::{
    clock::Clock,
    metrics::StoreMetrics,
    model::{Caller, Incarnation},
    random,
    registry::{ChangeListener, ClockReading, Command, CommandOutcome, Registry},
};

pub use error::StoreError;
pub use load::{LoadedRecords, UnreadableRecord};
pub use record::{DecodeError, StoredInstance, StoredLease};
pub use store::{RecordChange, Store};

use writer::{Unsaved, WriteRequest, Writer, WriterMessage};

/// Most commands that wait for the disk; more are refused. Seconds of work.
const MOST_WAITING: usize = 32_768;
/// When whoever was refused should try again.
const RETRY: Duration = Duration::from_secs(1);
/// Time before a crash whose states of checks may not be on the disk: they are collected once a second, and flushed within another.
const UNSAVED: Duration = Duration::from_secs(2);
/// Number of unreadable records that the log names one by one.
const MAX_NAMED: usize = 20;

/// When an acknowledged change is on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// Before it is acknowledged.
    #[default]
    Durable,
    /// Within a second. After a crash of the machine or kill -9, what was acknowledged last may be lost, and all readers start over.
    Relaxed,
}

/// Called once, when the disk has failed.
pub type OnFailure = Box<dyn FnOnce(StoreError) + Send>;

/// What a disk engine needs beside its directory.
#[derive(Debug)]
pub struct DiskDependencies {
    /// What time it is.
    pub clock: Arc<Clock>,
    /// Who hears of changes.
    pub audience: Arc<dyn ChangeListener>,
    /// What it counts.
    pub metrics: StoreMetrics,
    /// The life that begins where none can be gone on with.
    pub fresh: StartPoint,
}

/// Orders commands and keeps what comes of them in a file.
#[derive(Debug)]
pub struct Disk {
    registry: Arc<Registry>,
    /// `None` once it is closed.
    inbox: Mutex<Option<mpsc::Sender<WriterMessage>>>,
    /// States of checks that the writer has not taken yet.
    unsaved: Arc<Mutex<Unsaved>>,
    /// States of checks that were found, until they are taken.
    saved: Mutex<Option<SavedChecks>>,
    /// Commands that wait.
    waiting: Arc<AtomicUsize>,
    writer: Mutex<Option<JoinHandle<()>>>,
    lossy: bool,
}

impl Disk {
    /// Opens or makes the store in a directory, loads it and starts the writer.
    ///
    /// # Errors
    ///
    /// When the store cannot be used, or the system gives no thread.
    pub fn open(
        directory: &Path,
        durability: Durability,
        surroundings: DiskDependencies,
        on_failure: OnFailure,
    ) -> Result<Self, StoreError> {
        let (store, found) = Store::open(directory, durability, surroundings.fresh)?;
        Self::start(store, found, durability, surroundings, on_failure)
    }

    fn start(
        store: Store,
        found: LoadedRecords,
        durability: Durability,
        surroundings: DiskDependencies,
        on_failure: OnFailure,
    ) -> Result<Self, StoreError> {
        let DiskDependencies { clock, audience, metrics, .. } = surroundings;
        let now = clock.now();
        let registry = Arc::new(Registry::new(store.incarnation(), store.revision(), now, audience));
        let mut order = registry.order();
        for stored in found.instances {
            let lease = stored.revive(now.lease);
            order.restore(stored.instance, lease);
        }
        drop(order);
        report(store.path(), &found.unreadable);
        let unreadable: HashSet<_> = found.unreadable.iter().map(|record| (&*record.service, &*record.id)).collect();
        // Those of a record that cannot be used stay with it.
        let usable = |(service, id, _): &CheckKey| !unreadable.contains(&(service.as_str(), id.as_str()));
        let states = found.check_states.into_iter().filter(|(key, _)| usable(key)).collect();
        let uncertain = if found.killed { UNSAVED } else { Duration::ZERO };
        let unsaved = Arc::new(Mutex::new(Unsaved::default()));
        let (inbox, requests) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let path = store.path().to_owned();
        let queues = (Arc::clone(&waiting), Arc::clone(&unsaved));
        let writer = Writer::new(Arc::clone(&registry), store, durability, clock, metrics, queues);
        let writer = thread::Builder::new()
            .name("callboard-store".to_owned())
            .spawn(move || writer.run(requests, on_failure))
            .map_err(StoreError::io("start the writer of", &path))?;
        let (inbox, writer) = (Mutex::new(Some(inbox)), Mutex::new(Some(writer)));
        let saved = Mutex::new(Some(SavedChecks { states, uncertain }));
        Ok(Self { registry, inbox, unsaved, saved, waiting, writer, lossy: found.lossy })
    }

    /// Sends a request to the writer. Where that has ended, nothing is done, and the answer says so.
    fn send(&self, request: WriteRequest) {
        let inbox = self.inbox.lock();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let refused = match &*inbox {
            Some(inbox) => match inbox.send(WriterMessage::Request(request)) {
                Err(SendError(WriterMessage::Request(request))) => Some(request),
                Ok(()) | Err(SendError(WriterMessage::Save)) => None,
            },
            None => Some(request),
        };
        if let Some(request) = refused {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            request.refuse(EngineError::Stopped);
        }
    }

    /// Whether some that was acknowledged before it was opened may be missing.
    #[must_use]
    pub fn is_lossy(&self) -> bool {
        self.lossy
    }
}

/// Tells an operator which records cannot be used.
fn report(path: &Path, unreadable: &[UnreadableRecord]) {
    for record in unreadable.iter().take(MAX_NAMED) {
        let UnreadableRecord { service, id, problem } = record;
        tracing::error!(
            service,
            id,
            reason = %problem,
            "a record of {} cannot be used: the registry starts without this instance and leaves the record as it is; register the \
             instance again, which replaces it, or run a version that can read it",
            path.display()
        );
    }
    if unreadable.len() > MAX_NAMED {
        let records = unreadable.len();
        tracing::error!(
            records,
            "only {MAX_NAMED} of the records that cannot be used are named: `callboard export` names all"
        );
    }
}

/// Makes a store of what was exported, in a directory that has none. It begins a new life, in which no revision is one of those.
///
/// # Errors
///
/// When it cannot be written, or the directory holds a store.
pub fn import(directory: &Path, exported: &LoadedRecords, now: ClockReading) -> Result<(), StoreError> {
    let fresh = StartPoint::new(Incarnation(random::u64()), now);
    Store::make(directory, StartPoint { revision: fresh.revision.max(exported.revision), ..fresh }, exported)
}

impl Engine for Disk {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The time is that at which the writer comes to it.
    fn submit(&self, command: Command, caller: &Arc<Caller>, _: ClockReading) -> PendingCommand {
        let waiting = self.waiting.load(Ordering::Relaxed);
        // What the registry itself has found out cannot be told to come back later.
        if waiting >= MOST_WAITING
            && !matches!(
                command,
                Command::Expire(_) | Command::Suspect(_) | Command::Recover(_) | Command::RefreshNodeStatus { .. }
            )
        {
            return PendingCommand::done(Err(EngineError::Overloaded { waiting, retry: RETRY }));
        }
        let (answer, submission) = PendingCommand::waiting();
        self.send(WriteRequest::One(command, Arc::clone(caller), answer));
        submission
    }

    fn submit_together(
        &self,
        commands: Vec<Command>,
        caller: &Arc<Caller>,
        _: ClockReading,
    ) -> PendingCommand<Vec<CommandOutcome>> {
        let waiting = self.waiting.load(Ordering::Relaxed);
        if waiting >= MOST_WAITING {
            return PendingCommand::done(Err(EngineError::Overloaded { waiting, retry: RETRY }));
        }
        let (answer, submission) = PendingCommand::waiting();
        self.send(WriteRequest::Together(commands, Arc::clone(caller), answer));
        submission
    }

    fn save_checks(&self, states: Vec<(CheckKey, Option<SavedCheck>)>) {
        self.unsaved.lock().extend(states);
        if let Some(inbox) = &*self.inbox.lock() {
            // A writer that has ended saves nothing.
            let _ = inbox.send(WriterMessage::Save);
        }
    }

    fn take_saved_checks(&self) -> Option<SavedChecks> {
        Some(self.saved.lock().take().unwrap_or_default())
    }

    fn close(&self) {
        // Without a sender, the writer ends once it has done what waits.
        self.inbox.lock().take();
        if let Some(writer) = self.writer.lock().take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the store panicked");
        }
    }
}
