//! Notifier of one worker.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    ops::Bound,
    sync::{Arc, atomic},
    task::{Context, Poll},
};

use tokio::task::yield_now;

use super::{ChangedServices, Interest};
use crate::{
    model::{Selector, ServiceName},
    sync::{AtomicBool, AtomicU32, Mutex, Ordering},
    transport::{Connection, wake_flag::WakeFlag},
};

/// Number of streams that are woken together: enough that one write to a socket carries the messages of many.
const WAKE_BATCH: usize = 256;
/// Maximum number of changed services in one round. With more, the round wakes all streams.
const MAX_INBOX_NAMES: usize = 4_096;

/// Notifier of one worker.
#[derive(Debug, Default)]
pub(super) struct WorkerNotifier {
    /// Services that have changed since the last round.
    inbox: Mutex<BTreeSet<ServiceName>>,
    pub(super) flag: WakeFlag,
    /// The next round wakes all streams.
    all: AtomicBool,
    /// Used by the worker's own thread, except when streams are dropped on other threads, so it is rarely contended.
    registrations: Mutex<WakeRegistrations>,
    /// Number of registrations for a prefix or for everything.
    wide: AtomicU32,
}

/// Identity of a registration: the address of its connection, and a number. The registrations of a connection are
/// adjacent in this order.
pub(super) type RegistrationId = (usize, u64);

#[derive(Debug, Default)]
struct WakeRegistrations {
    next: u64,
    round: u64,
    all: BTreeMap<RegistrationId, Arc<Waiter>>,
    by_service: HashMap<ServiceName, BTreeMap<RegistrationId, Arc<Waiter>>>,
    wide: BTreeMap<RegistrationId, (Arc<Selector>, Arc<Waiter>)>,
    /// Number of entries that were inserted, removed or visited. Tests use it to bound the work of a round.
    visited: usize,
}

/// The stream of a registration, as a notifier wakes it.
#[derive(Debug)]
pub(super) struct Waiter {
    flag: WakeFlag,
    pub(super) connection: Arc<Connection>,
    /// Changed services that the stream has not taken yet. `None`: it does not ask for them.
    changes: Option<Mutex<ChangedServices>>,
    /// Last round that woke the stream. Used under the lock of the registrations.
    round: atomic::AtomicU64,
}

impl Waiter {
    pub(super) fn new(connection: &Arc<Connection>, takes_names: bool) -> Self {
        Self {
            flag: WakeFlag::default(),
            connection: Arc::clone(connection),
            changes: takes_names.then(|| Mutex::new(ChangedServices::none())),
            round: atomic::AtomicU64::new(0),
        }
    }

    pub(super) fn takes_names(&self) -> bool {
        self.changes.is_some()
    }

    pub(super) fn wake(&self, changed: &ChangedServices) {
        if let Some(changes) = &self.changes {
            changes.lock().merge(changed);
        }
        self.flag.set();
    }

    pub(super) fn poll_woken(&self, context: &Context<'_>) -> Poll<()> {
        self.flag.poll(context)
    }

    /// Takes the changed services. A stream that did not ask for them has to check everything.
    pub(super) fn take_changes(&self, concerns: impl Fn(&ServiceName) -> bool) -> ChangedServices {
        match &self.changes {
            Some(changes) => mem::replace(&mut *changes.lock(), ChangedServices::none()).retain(concerns),
            None => ChangedServices::All,
        }
    }
}

impl WorkerNotifier {
    pub(super) fn poll_woken(&self, context: &Context<'_>) -> Poll<()> {
        self.flag.poll(context)
    }

    /// Adds changed services to the next round.
    pub(super) fn add_changed<'a>(&self, names: impl Iterator<Item = &'a ServiceName>) {
        let mut inbox = self.inbox.lock();
        for name in names {
            if !inbox.contains(name) {
                inbox.insert(name.clone());
            }
        }
        let overflow = (inbox.len() > MAX_INBOX_NAMES).then(|| mem::take(&mut *inbox));
        if overflow.is_some() {
            self.all.store(true, Ordering::Release);
        }
        drop(inbox);
        self.flag.set();
    }

    pub(super) fn wake_all(&self) {
        self.all.store(true, Ordering::Release);
        self.flag.set();
    }

    pub(super) fn count_wide(&self) {
        self.wide.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn discount_wide(&self) {
        self.wide.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn has_wide(&self) -> bool {
        self.wide.load(Ordering::Acquire) > 0
    }

    pub(super) fn registration_count(&self) -> usize {
        self.registrations.lock().all.len()
    }

    pub(super) fn insert(&self, waiter: &Arc<Waiter>, interest: &Interest) -> RegistrationId {
        self.registrations.lock().insert(waiter, interest)
    }

    pub(super) fn remove(&self, id: RegistrationId, interest: &Interest, added: &BTreeSet<ServiceName>) {
        self.registrations.lock().remove(id, interest, added);
    }

    pub(super) fn insert_name(&self, id: RegistrationId, name: &ServiceName, waiter: &Arc<Waiter>) {
        self.registrations.lock().insert_name(id, name, waiter);
    }

    pub(super) fn remove_name(&self, id: RegistrationId, name: &ServiceName) {
        self.registrations.lock().remove_name(id, name);
    }

    /// Takes the streams that are to be woken for what has changed since the last call, each once, and the changes. Changes in
    /// the meantime are in the next round.
    pub(super) fn take_due(&self) -> (Vec<Arc<Waiter>>, ChangedServices) {
        if self.all.swap(false, Ordering::AcqRel) {
            // Freed after the lock is released, since writers wait for it.
            let outdated = mem::take(&mut *self.inbox.lock());
            drop(outdated);
            return (self.everyone(), ChangedServices::All);
        }
        let changed = mem::take(&mut *self.inbox.lock());
        let due = self.registrations.lock().due(&changed);
        (due, ChangedServices::of_round(&changed))
    }

    pub(super) fn everyone(&self) -> Vec<Arc<Waiter>> {
        self.registrations.lock().all.values().cloned().collect()
    }

    /// Returns the streams of connections whose peers are asked to reconnect.
    pub(super) fn retiring(&self) -> Vec<Arc<Waiter>> {
        let is_retiring = |waiter: &&Arc<Waiter>| waiter.connection.is_retiring();
        self.registrations.lock().all.values().filter(is_retiring).cloned().collect()
    }

    /// Returns the number of registrations that were visited since the last call.
    #[cfg(test)]
    pub(super) fn take_visited(&self) -> usize {
        mem::take(&mut self.registrations.lock().visited)
    }
}

/// Wakes streams in batches. After each batch, the tasks that have become ready in the meantime run before the next batch. So a
/// heartbeat does not wait until thousands of watches are written, and changes in the meantime are reported together.
pub(super) async fn wake(waiters: &[Arc<Waiter>], changes: &ChangedServices) {
    for batch in waiters.chunks(WAKE_BATCH) {
        for waiter in batch {
            waiter.wake(changes);
        }
        yield_now().await;
    }
}

impl WakeRegistrations {
    fn insert(&mut self, waiter: &Arc<Waiter>, interest: &Interest) -> RegistrationId {
        let id = (Arc::as_ptr(&waiter.connection) as usize, self.next);
        self.next += 1;
        self.all.insert(id, Arc::clone(waiter));
        if let Interest::Changes(selector) = interest {
            match &**selector {
                Selector::Names(names) => names.iter().for_each(|name| self.insert_name(id, name, waiter)),
                Selector::Prefix(_) | Selector::Everything => {
                    self.wide.insert(id, (Arc::clone(selector), Arc::clone(waiter)));
                }
            }
        }
        id
    }

    fn remove(&mut self, id: RegistrationId, interest: &Interest, added: &BTreeSet<ServiceName>) {
        self.all.remove(&id);
        self.wide.remove(&id);
        for name in added {
            self.remove_name(id, name);
        }
        if let Interest::Changes(selector) = interest
            && let Selector::Names(names) = &**selector
        {
            names.iter().for_each(|name| self.remove_name(id, name));
        }
    }

    fn insert_name(&mut self, id: RegistrationId, name: &ServiceName, waiter: &Arc<Waiter>) {
        self.visit();
        self.by_service.entry(name.clone()).or_default().insert(id, Arc::clone(waiter));
    }

    fn remove_name(&mut self, id: RegistrationId, name: &ServiceName) {
        self.visit();
        if let Some(waiters) = self.by_service.get_mut(name) {
            waiters.remove(&id);
            if waiters.is_empty() {
                self.by_service.remove(name);
            }
        }
    }

    /// Returns the streams that these changes concern, each once.
    fn due(&mut self, changed: &BTreeSet<ServiceName>) -> Vec<Arc<Waiter>> {
        self.round += 1;
        let round = self.round;
        let mut visited = 0;
        let mut due = Vec::new();
        // The lock orders reads and writes of the round.
        let mut take = |waiter: &Arc<Waiter>| {
            if waiter.round.load(atomic::Ordering::Relaxed) != round {
                waiter.round.store(round, atomic::Ordering::Relaxed);
                due.push(Arc::clone(waiter));
            }
        };
        for name in changed {
            if let Some(named) = self.by_service.get(name) {
                visited += named.len();
                named.values().for_each(&mut take);
            }
        }
        // Topics are not services: a watch of a prefix or of everything does not include them.
        let any_service = changed.iter().any(|name| !name.is_reserved());
        if any_service {
            visited += self.wide.len();
            self.wide.values().filter(|(selector, _)| includes_any(selector, changed)).for_each(|(_, w)| take(w));
        }
        self.visited += visited;
        due
    }

    fn visit(&mut self) {
        self.visited += 1;
    }
}

/// Returns whether a selector for a prefix or for everything includes one of the changed names, without checking each of them.
/// At least one of the names is a service.
fn includes_any(selector: &Selector, changed: &BTreeSet<ServiceName>) -> bool {
    match selector {
        Selector::Everything => true,
        Selector::Prefix(prefix) => {
            let first = changed.range::<str, _>((Bound::Included(&**prefix), Bound::Unbounded)).next();
            first.is_some_and(|name| name.as_str().starts_with(&**prefix))
        }
        Selector::Names(names) => names.iter().any(|name| changed.contains(name)),
    }
}
