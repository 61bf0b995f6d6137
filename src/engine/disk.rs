//! Engine with a store on the disk: a single node that survives kill -9.
//!
//! ```text
//!   submit() ─► queue ─► writer: decide ─► write, fsync ─► apply, notify ─► answer
//!                        one thread, one transaction for all queued commands
//! ```
//!
//! Only the writer changes the registry, so a decision still holds when its transaction is on the disk. A command for an instance
//! that has a change in the current transaction waits for the next one.
//!
//! Policies are changed in the same order and the same transactions as instances. One transaction has at most one change of them,
//! because each is decided against the others.
//!
//! Heartbeats are not written: a loaded lease has its full TTL. Check states are written with the transactions of commands, some
//! with each, and no command waits for them.
//!
//! A failure of the disk stops the engine and the process. The content of the disk is unknown then, and the engine acknowledges
//! nothing that may be missing from it.
//!
//! | module | content |
//! |---|---|
//! | `signer` | tags of records |
//! | `export` | export and import as JSON Lines |
//! | `store` | the database file |
//! | `header` | the number of its records and their digest |
//! | `load` | reading all records |
//! | `directory` | the data directory and its lock |
//! | `file_identity` | detection of a file that was removed or replaced |
//! | `writer` | the thread |

mod directory;
mod error;
pub mod export;
mod file_identity;
mod header;
mod load;
pub mod signer;
mod store;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, SendError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    CheckKey, Engine, EngineError, PendingCommand, SavedCheck, SavedChecks, StartPoint, record::policy::SkippedRevision,
};
use crate::{
    clock::Clock,
    metrics::StoreMetrics,
    model::{Caller, Incarnation, InstanceId, LeaseId, ServiceName},
    random,
    registry::{ChangeListener, ClockReading, Command, CommandOutcome, PolicyCommand, PolicyOutcome, Registry},
};

pub use error::StoreError;
pub use load::{LoadedRecords, RecordKey, UnreadableRecord};
pub use store::{RecordChange, Store};

use super::write_request::WriteRequest;
use writer::{Writer, WriterMessage, WriterQueues};

/// Maximum number of requests that wait for the disk; further ones are rejected. Writing them takes seconds.
const MAX_WAITING: usize = 32_768;
/// Time after which a rejected caller should try again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Length of the time before a crash from which check states may be missing: they are collected once a second, and
/// flushed within another second.
const UNSAVED_WINDOW: Duration = Duration::from_secs(2);
/// Maximum number of unreadable records that the log names.
const MAX_NAMED_RECORDS: usize = 20;

/// Time at which an acknowledged change is on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// Before the change is acknowledged.
    #[default]
    Durable,
    /// Within a second. A crash of the machine or kill -9 may lose the changes of that second, and all readers start over.
    Relaxed,
}

/// Callback for a failure of the disk. It is called at most once.
pub type OnFailure = Box<dyn FnOnce(StoreError) + Send>;

/// Dependencies of a disk engine.
#[derive(Debug)]
pub struct DiskDependencies {
    /// Clock of the process.
    pub clock: Arc<Clock>,
    /// Listener that is notified of changes.
    pub listener: Arc<dyn ChangeListener>,
    /// Metrics of the store.
    pub metrics: StoreMetrics,
    /// Start of a new incarnation, for a directory without a store and for a store that lacks changes.
    pub start: StartPoint,
}

/// Engine that orders commands and stores their results in a file.
#[derive(Debug)]
pub struct Disk {
    registry: Arc<Registry>,
    /// `None` once the engine is closed.
    requests: Mutex<Option<mpsc::Sender<WriterMessage>>>,
    queues: WriterQueues,
    /// Check states that were loaded, until they are taken.
    loaded_states: Mutex<Option<SavedChecks>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    lossy: bool,
}

impl Disk {
    /// Opens or creates the store in a directory, loads it and starts the writer.
    ///
    /// # Errors
    ///
    /// When the store cannot be used, or the operating system cannot start a thread.
    pub fn open(
        directory: &Path,
        durability: Durability,
        dependencies: DiskDependencies,
        on_failure: OnFailure,
    ) -> Result<Self, StoreError> {
        let (store, loaded) = Store::open(directory, durability, dependencies.start)?;
        Self::start(store, loaded, durability, dependencies, on_failure)
    }

    fn start(
        store: Store,
        mut loaded: LoadedRecords,
        durability: Durability,
        dependencies: DiskDependencies,
        on_failure: OnFailure,
    ) -> Result<Self, StoreError> {
        let DiskDependencies { clock, listener, metrics, .. } = dependencies;
        let now = clock.now();
        let registry = Arc::new(Registry::new(store.incarnation(), store.revision(), now, listener));
        log_skipped(store.path(), loaded.skipped_revisions());
        loaded.restore(&registry, now);
        log_unreadable(store.path(), &loaded.unreadable);
        let unreadable: HashSet<_> = loaded.unreadable.iter().filter_map(UnreadableRecord::instance).collect();
        // The check states of an unreadable record stay in the store with it.
        let usable = |(service, id, _): &CheckKey| !unreadable.contains(&(service.as_str(), id.as_str()));
        let states = loaded.check_states.into_iter().filter(|(key, _)| usable(key)).collect();
        let unsaved_window = if loaded.unclean { UNSAVED_WINDOW } else { Duration::ZERO };
        let queues = WriterQueues::default();
        let (sender, requests) = mpsc::channel();
        let path = store.path().to_owned();
        let writer = Writer::new(Arc::clone(&registry), store, durability, clock, metrics, queues.clone());
        let writer = thread::Builder::new()
            .name("callboard-store".to_owned())
            .spawn(move || writer.run(requests, on_failure))
            .map_err(StoreError::io("start the writer of", &path))?;
        let (requests, writer) = (Mutex::new(Some(sender)), Mutex::new(Some(writer)));
        let loaded_states = Mutex::new(Some(SavedChecks { states, unsaved_window }));
        Ok(Self { registry, requests, queues, loaded_states, writer, lossy: loaded.lossy })
    }

    /// Sends a request to the writer. If the writer has ended, nothing is done, and the answer is [`EngineError::Stopped`].
    fn send(&self, request: WriteRequest) {
        let waiting = self.queues.waiting.load(Ordering::Relaxed);
        if waiting >= MAX_WAITING && !request.is_internal() {
            return request.reject(EngineError::Overloaded { waiting, retry: RETRY_DELAY });
        }
        let sender = self.requests.lock();
        self.queues.waiting.fetch_add(1, Ordering::Relaxed);
        let unsent = match &*sender {
            Some(sender) => match sender.send(WriterMessage::Request(request)) {
                Err(SendError(WriterMessage::Request(request))) => Some(request),
                Ok(()) | Err(SendError(WriterMessage::Save)) => None,
            },
            None => Some(request),
        };
        if let Some(request) = unsent {
            self.queues.waiting.fetch_sub(1, Ordering::Relaxed);
            request.reject(EngineError::Stopped);
        }
    }

    /// Returns whether changes that were acknowledged before the store was opened may be missing.
    #[must_use]
    pub fn is_lossy(&self) -> bool {
        self.lossy
    }
}

/// Logs the records that this version cannot use.
fn log_unreadable(path: &Path, unreadable: &[UnreadableRecord]) {
    for UnreadableRecord { key, error } in unreadable.iter().take(MAX_NAMED_RECORDS) {
        let (missing, remedy) = match key {
            RecordKey::Instance { .. } => ("instance", "register the instance again"),
            RecordKey::Policy { .. } => ("policy", "set the policy again"),
        };
        tracing::error!(
            reason = %error,
            "{key} in {} cannot be used: the registry starts without this {missing} and leaves the record as it is; {remedy}, which \
             replaces it, or run a version that can read it",
            path.display()
        );
    }
    if unreadable.len() > MAX_NAMED_RECORDS {
        let records = unreadable.len();
        tracing::error!(
            records,
            "only {MAX_NAMED_RECORDS} of the records that cannot be used are named: `callboard export` names all"
        );
    }
}

/// Logs the earlier revisions of policies that this version cannot use.
fn log_skipped<'a>(path: &Path, mut skipped: impl Iterator<Item = &'a SkippedRevision>) {
    for skipped in skipped.by_ref().take(MAX_NAMED_RECORDS) {
        tracing::warn!(
            "{skipped}: the present policy is in effect, and the revision leaves {} when the policy is set again",
            path.display()
        );
    }
    let more = skipped.count();
    if more > 0 {
        tracing::warn!(
            more,
            "further revisions of policies are left out of their history: `callboard export` names them"
        );
    }
}

/// Creates a store with the contents of an export in a directory that has none. The store begins a new incarnation with revisions
/// above those of the export.
///
/// # Errors
///
/// When the store cannot be written, or the directory holds one.
pub fn import(directory: &Path, exported: &LoadedRecords, now: ClockReading) -> Result<(), StoreError> {
    let start = StartPoint::new(Incarnation(random::u64()), now);
    Store::create(directory, StartPoint { revision: start.revision.max(exported.revision), ..start }, exported)
}

impl Engine for Disk {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The command is decided at the time at which the writer processes it.
    fn submit(&self, command: Command, caller: &Arc<Caller>, _: ClockReading) -> PendingCommand {
        let (request, pending) = WriteRequest::one(command, caller);
        self.send(request);
        pending
    }

    fn submit_together(
        &self,
        commands: Vec<Command>,
        caller: &Arc<Caller>,
        _: ClockReading,
    ) -> PendingCommand<Vec<CommandOutcome>> {
        let (request, pending) = WriteRequest::together(commands, caller);
        self.send(request);
        pending
    }

    fn submit_policy(
        &self,
        command: PolicyCommand,
        caller: &Arc<Caller>,
        _: ClockReading,
    ) -> PendingCommand<PolicyOutcome> {
        let (request, pending) = WriteRequest::policy(command, caller);
        self.send(request);
        pending
    }

    fn save_checks(&self, states: Vec<(CheckKey, Option<SavedCheck>)>) {
        self.queues.unsaved.lock().extend(states);
        if let Some(sender) = &*self.requests.lock() {
            // Sending fails if the writer has ended, and then nothing can be saved.
            let _ = sender.send(WriterMessage::Save);
        }
    }

    fn take_saved_checks(&self) -> Option<SavedChecks> {
        Some(self.loaded_states.lock().take().unwrap_or_default())
    }

    fn claim(&self, _: &ServiceName, _: &InstanceId, _: Option<LeaseId>) {}

    fn may_expire(&self) -> bool {
        true
    }

    fn degraded_since(&self) -> Option<Duration> {
        None
    }

    fn close(&self) {
        // The writer ends when the sender is dropped and the queue is empty.
        self.requests.lock().take();
        if let Some(writer) = self.writer.lock().take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the store panicked");
        }
    }
}
