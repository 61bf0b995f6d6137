//! Wakes the streams and blocking queries that wait for changes.
//!
//! If a writer woke every watcher itself, a change would take 8 to 20 ms with 10,000 watchers. It only adds the name of the
//! changed service to the inbox of each worker that has a watcher of it, and wakes that worker's notifier once. The notifier
//! then wakes the streams on its own thread; changes in the meantime are in its next round. No timer delays the first
//! change.
//!
//! A round wakes each stream once, even if many services have changed. Its cost under the registrations' lock is one visit
//! for each stream that watches everything or a prefix, plus one for each pair of a changed service and a stream that names
//! it. Streams that ask for it also get the names of the changed services: see [`ChangedServices`].
//!
//! | file | holds |
//! |---|---|
//! | `worker` | the notifier of one worker: its inbox, its registrations, its rounds |
//! | `changes` | the changed services that a stream has not taken yet |

mod changes;
mod worker;

use std::{
    collections::BTreeSet,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use dashmap::DashMap;
use tokio::time::{MissedTickBehavior, interval};

use super::Connection;
use crate::{
    clock::Clock,
    model::{PolicyScope, Selector, ServiceName, topic_of_policies},
    registry::{ChangeListener, Event, MAX_HISTORY_BYTES, MAX_HISTORY_EVENTS},
    sync::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
};
pub use changes::ChangedServices;
use worker::{RegistrationId, Waiter, WorkerNotifier, wake};

/// Interval at which a notifier looks for streams that need a bookmark or whose connections reach their maximum age.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes by which the event log may grow before every stream is woken to keep up with it.
const CATCH_UP_BYTES: u64 = MAX_HISTORY_BYTES as u64 / 4;

/// Changes that a stream is woken for.
#[derive(Debug, Clone)]
pub enum Interest {
    /// Changes of these services.
    Changes(Arc<Selector>),
    /// No changes: the stream is woken only with all streams, by sweeps and by shutdown.
    Nothing,
}

impl Interest {
    /// Returns whether the interest lists this service by its name.
    fn names(&self, name: &ServiceName) -> bool {
        match self {
            Self::Changes(selector) => matches!(**selector, Selector::Names(_)) && selector.includes(name),
            Self::Nothing => false,
        }
    }
}

/// The notifiers of all workers, at most 64.
#[derive(Debug)]
pub struct Notifier {
    workers: Box<[WorkerNotifier]>,
    /// For each service that is watched by name, the number of registrations of each worker.
    watched_names: DashMap<ServiceName, Box<[u32]>>,
    /// Number of registrations for topics, which are not names of services. While it is zero, notifiers do not look for topics.
    topic_registrations: AtomicU32,
    /// Bytes by which the event log has grown. An event counts as at least the average size of an event in a log with
    /// the maximum number of events.
    logged_bytes: AtomicU64,
    shutting_down: AtomicBool,
}

impl Notifier {
    /// Creates a notifier for each worker.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| WorkerNotifier::default()).collect(),
            watched_names: DashMap::new(),
            topic_registrations: AtomicU32::new(0),
            logged_bytes: AtomicU64::new(0),
            shutting_down: AtomicBool::new(false),
        }
    }

    /// Registers a stream of this connection at the notifier of its worker.
    #[must_use]
    pub fn register(self: &Arc<Self>, connection: &Arc<Connection>, interest: Interest) -> WakeRegistration {
        self.register_waiter(Waiter::new(connection, false), interest)
    }

    /// Registers a stream that also gets the names of the changed services, by [`WakeRegistration::poll_changes`].
    #[must_use]
    pub fn register_for_names(self: &Arc<Self>, connection: &Arc<Connection>, interest: Interest) -> WakeRegistration {
        self.register_waiter(Waiter::new(connection, true), interest)
    }

    fn register_waiter(self: &Arc<Self>, waiter: Waiter, interest: Interest) -> WakeRegistration {
        let worker = waiter.connection.worker();
        let waiter = Arc::new(waiter);
        // Counted before the registration is inserted. A change in between wakes a notifier that does not find the stream
        // yet, but the stream reads the state afterwards.
        match &interest {
            Interest::Changes(selector) => match &**selector {
                Selector::Names(names) => names.iter().for_each(|name| self.count(name, worker)),
                Selector::Prefix(_) | Selector::Everything => self.workers[worker].count_wide(),
            },
            Interest::Nothing => {}
        }
        // Either the writer sees this interest, or the stream sees the change: see `service_changed`.
        fence(Ordering::SeqCst);
        let id = self.workers[worker].insert(&waiter, &interest);
        WakeRegistration { notifier: Arc::clone(self), id, interest, added: BTreeSet::new(), waiter }
    }

    /// Runs the notifier of this worker, on the worker's own thread, for as long as it is polled.
    pub async fn run(&self, worker: usize, clock: &Clock, bookmarks: Duration) {
        let notifier = &self.workers[worker];
        let mut sweeps = interval(SWEEP_INTERVAL);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_bookmarks = clock.since_start();
        loop {
            tokio::select! {
                () = poll_fn(|context| notifier.poll_woken(context)) => {
                    let (waiters, changes) = notifier.take_due();
                    wake(&waiters, &changes).await;
                }
                _ = sweeps.tick() => {
                    wake(&notifier.retiring(), &ChangedServices::none()).await;
                    if clock.since_start().saturating_sub(last_bookmarks) >= bookmarks {
                        last_bookmarks = clock.since_start();
                        wake(&notifier.everyone(), &ChangedServices::none()).await;
                    }
                }
            }
        }
    }

    /// Wakes all streams, so that they notify their peers that this process is shutting down.
    pub fn shut_down(&self) {
        self.shutting_down.store(true, Ordering::Release);
        self.wake_all();
    }

    /// Returns whether this process is shutting down.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Acquire)
    }

    /// Returns the number of registered streams.
    #[must_use]
    pub fn registration_count(&self) -> usize {
        self.workers.iter().map(WorkerNotifier::registration_count).sum()
    }

    /// Wakes all streams, because something has happened that concerns each of them.
    pub fn wake_all(&self) {
        self.workers.iter().for_each(WorkerNotifier::wake_all);
    }

    /// Wakes the streams that read a service, because its instances or their weights have changed.
    pub fn service_changed(&self, service: &ServiceName) {
        // The writer publishes and then looks for registrations; a stream registers and then looks for what is published.
        // Without the fences both may look before the other's write is visible, and a stream that resumes takes no lock that
        // would order them.
        fence(Ordering::SeqCst);
        // A registration for a name in lower case is also woken by its other spellings: readers over HTTP and DNS ignore case.
        let folded = service.folded();
        let by_folded_name = folded.as_ref().map_or(0, |folded| self.workers_watching(folded));
        let by_name = self.workers_watching(service);
        for (worker, notifier) in self.workers.iter().enumerate() {
            let folded = folded.as_ref().filter(|_| by_folded_name & 1 << worker != 0);
            let own = (by_name & 1 << worker != 0 || notifier.has_wide()).then_some(service);
            if folded.is_some() || own.is_some() {
                notifier.add_changed(folded.into_iter().chain(own));
            }
        }
    }

    fn count(&self, name: &ServiceName, worker: usize) {
        if name.is_reserved() {
            self.topic_registrations.fetch_add(1, Ordering::AcqRel);
        }
        let mut counts = self.watched_names.entry(name.clone()).or_insert_with(|| vec![0; self.workers.len()].into());
        counts[worker] += 1;
    }

    fn discount(&self, name: &ServiceName, worker: usize) {
        if name.is_reserved() {
            self.topic_registrations.fetch_sub(1, Ordering::AcqRel);
        }
        if let Some(mut counts) = self.watched_names.get_mut(name) {
            counts[worker] -= 1;
        }
        self.watched_names.remove_if(name, |_, counts| counts.iter().all(|count| *count == 0));
    }

    /// Wakes the streams that are registered for this name.
    fn wake_watching(&self, name: &ServiceName) {
        let watching = self.workers_watching(name);
        for (_, notifier) in self.workers.iter().enumerate().filter(|(worker, _)| watching & 1 << worker != 0) {
            notifier.add_changed([name].into_iter());
        }
    }

    /// Returns a bit for each worker that has a registration for this service by name.
    fn workers_watching(&self, name: &ServiceName) -> u64 {
        let bit = |(worker, count): (usize, &u32)| u64::from(*count > 0) << worker;
        self.watched_names.get(name).map_or(0, |counts| counts.iter().enumerate().map(bit).sum())
    }
}

impl ChangeListener for Notifier {
    fn changed(&self, event: &Event) {
        self.service_changed(event.service());
        // A reader without changes stays at its revision. Before the events after that revision are dropped from the log, the
        // reader is woken once and moves to the newest revision.
        let bytes = event.size().max(MAX_HISTORY_BYTES / MAX_HISTORY_EVENTS) as u64;
        let before = self.logged_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before / CATCH_UP_BYTES != (before + bytes) / CATCH_UP_BYTES {
            self.wake_all();
        }
    }

    fn topics_changed(&self, topics: &dyn Fn() -> BTreeSet<ServiceName>) {
        // Loaded after the fence of `service_changed`, as the watched names are.
        if self.topic_registrations.load(Ordering::Acquire) == 0 {
            return;
        }
        for topic in topics() {
            self.wake_watching(&topic);
        }
    }

    fn policy_changed(&self, scope: &PolicyScope) {
        // As in `service_changed`.
        fence(Ordering::SeqCst);
        let service = match scope {
            PolicyScope::Defaults => None,
            PolicyScope::Service(service) => Some(service.clone()),
        };
        // Readers over HTTP and DNS wait for the name in lower case.
        let folded = service.as_ref().and_then(ServiceName::folded);
        for name in [Some(topic_of_policies()), folded, service].into_iter().flatten() {
            self.wake_watching(&name);
        }
    }
}

/// Registration of a stream at the notifier of its worker. Dropping it ends the registration.
#[derive(Debug)]
pub struct WakeRegistration {
    notifier: Arc<Notifier>,
    id: RegistrationId,
    interest: Interest,
    /// Names that were added one by one. The interest may include them too.
    added: BTreeSet<ServiceName>,
    waiter: Arc<Waiter>,
}

impl WakeRegistration {
    /// Ready if the stream was woken since the last call, once or several times.
    pub fn poll_woken(&self, context: &Context<'_>) -> Poll<()> {
        self.waiter.poll_woken(context)
    }

    /// Ready when the stream was woken, with the services that have changed since the last call as far as they concern it. The
    /// names are a hint: a stream may read a change before it is woken for it.
    pub fn poll_changes(&self, context: &Context<'_>) -> Poll<ChangedServices> {
        self.waiter.poll_woken(context).map(|()| self.waiter.take_changes(|name| self.concerns(name)))
    }

    fn concerns(&self, name: &ServiceName) -> bool {
        let selected = match &self.interest {
            Interest::Changes(selector) => selector.includes(name),
            Interest::Nothing => false,
        };
        selected || self.added.contains(name)
    }

    /// Adds a service to those that wake the stream, at a cost that does not depend on how many there are, and returns whether it was
    /// not added before. It stays added, independently of the interest. The stream must read the service's earlier changes after this
    /// call.
    pub fn add(&mut self, name: &ServiceName) -> bool {
        if !self.added.insert(name.clone()) {
            return false;
        }
        let worker = self.waiter.connection.worker();
        self.notifier.count(name, worker);
        // As in `register_waiter`.
        fence(Ordering::SeqCst);
        self.notifier.workers[worker].insert_name(self.id, name, &self.waiter);
        true
    }

    /// Removes a service that was added, and returns whether it was. The interest that the stream was registered with stays.
    pub fn remove(&mut self, name: &ServiceName) -> bool {
        let was_added = self.added.remove(name);
        if was_added {
            let worker = self.waiter.connection.worker();
            if !self.interest.names(name) {
                self.notifier.workers[worker].remove_name(self.id, name);
            }
            self.notifier.discount(name, worker);
        }
        was_added
    }

    /// Replaces the interest that the stream was registered with. The stream must read earlier changes after this call.
    pub fn set_interest(&mut self, interest: Interest) {
        let waiter = Waiter::new(&self.waiter.connection, self.waiter.takes_names());
        let mut other = self.notifier.register_waiter(waiter, interest);
        for name in &self.added {
            other.add(name);
        }
        *self = other;
    }

    /// Returns whether the stream has to end, with a notice to its peer, because the process is shutting down or the
    /// connection is retiring.
    #[must_use]
    pub fn must_end(&self) -> bool {
        self.notifier.is_shutting_down() || self.waiter.connection.is_retiring()
    }
}

impl Drop for WakeRegistration {
    fn drop(&mut self) {
        let worker = self.waiter.connection.worker();
        let notifier = &self.notifier.workers[worker];
        notifier.remove(self.id, &self.interest, &self.added);
        self.added.iter().for_each(|name| self.notifier.discount(name, worker));
        if let Interest::Changes(selector) = &self.interest {
            match &**selector {
                Selector::Names(names) => names.iter().for_each(|name| self.notifier.discount(name, worker)),
                Selector::Prefix(_) | Selector::Everything => notifier.discount_wide(),
            }
        }
    }
}

#[cfg(test)]
#[cfg(loom)]
mod models;

#[cfg(test)]
mod tests;
