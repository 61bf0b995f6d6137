//! Who watches, and how far each has come.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use dashmap::DashMap;

use super::encode;
use crate::{
    model::{InstanceFilter, Revision, Selector, UnixMillis},
    pb::callboard::v1 as pb,
    registry::{ClockReading, PendingVisits, Registry},
    transport::Connection,
};

/// Longest `user-agent` that is remembered, in characters.
const LONGEST_AGENT: usize = 128;

/// All open watches.
#[derive(Debug, Default)]
pub struct Watchers {
    open: Arc<DashMap<u64, Arc<Watcher>>>,
    next: AtomicU64,
}

/// One open watch.
#[derive(Debug)]
pub(super) struct Watcher {
    connection: Arc<Connection>,
    user_agent: Box<str>,
    selection: Arc<Selector>,
    filter: Option<Arc<InstanceFilter>>,
    connected_at: UnixMillis,
    /// The revision it was last told.
    pub sent: AtomicU64,
    /// When it last had nothing more to be told, in milliseconds since 1970; 0: never yet.
    pub synced_at: AtomicU64,
    /// How often it had to start over.
    pub resets: AtomicU32,
    /// It waits until the registry has settled.
    pub waiting: AtomicBool,
}

/// A watch's line in the list. Dropping it strikes it out.
#[derive(Debug)]
pub(super) struct WatcherGuard {
    open: Arc<DashMap<u64, Arc<Watcher>>>,
    id: u64,
    /// What the list says of it.
    pub line: Arc<Watcher>,
}

impl Drop for WatcherGuard {
    fn drop(&mut self) {
        self.open.remove(&self.id);
    }
}

impl Watchers {
    /// Enters a watch.
    pub(super) fn enter(
        &self,
        connection: &Arc<Connection>,
        user_agent: &str,
        selection: &Arc<Selector>,
        filter: Option<&Arc<InstanceFilter>>,
        now: ClockReading,
    ) -> WatcherGuard {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let line = Arc::new(Watcher {
            connection: Arc::clone(connection),
            user_agent: user_agent.chars().take(LONGEST_AGENT).collect(),
            selection: Arc::clone(selection),
            filter: filter.cloned(),
            connected_at: now.wall,
            sent: AtomicU64::new(0),
            synced_at: AtomicU64::new(0),
            resets: AtomicU32::new(0),
            waiting: AtomicBool::new(false),
        });
        self.open.insert(id, Arc::clone(&line));
        WatcherGuard { open: Arc::clone(&self.open), id, line }
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// How many wait until the registry has settled.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.open.iter().filter(|line| line.waiting.load(Ordering::Relaxed)).count()
    }

    /// Up to `limit` watches with ids after this one that would hear of a service, or all, by id.
    pub(super) fn page(
        &self,
        after: u64,
        limit: usize,
        wanted: impl Fn(&Selector) -> bool,
    ) -> Vec<(u64, Arc<Watcher>)> {
        let mut found: Vec<_> = self
            .open
            .iter()
            .filter(|line| *line.key() > after && wanted(&line.selection))
            .map(|line| (*line.key(), Arc::clone(line.value())))
            .collect();
        found.sort_unstable_by_key(|(id, _)| *id);
        found.truncate(limit);
        found
    }
}

impl Watcher {
    /// As operators see it.
    pub(super) fn to_proto(&self, id: u64, registry: &Registry, now: ClockReading) -> pb::Subscriber {
        let sent = Revision(self.sent.load(Ordering::Relaxed));
        let synced = UnixMillis(self.synced_at.load(Ordering::Relaxed));
        let waiting = self.waiting.load(Ordering::Relaxed);
        // What it will be told is a new set, of which nobody knows yet how much differs from what it has.
        let pending = if waiting { PendingVisits::default() } else { registry.pending(&self.selection, sent) };
        let (services, prefix, everything) = match &*self.selection {
            Selector::Names(names) => (names.iter().map(ToString::to_string).collect(), String::new(), false),
            Selector::Prefix(prefix) => (vec![], prefix.to_string(), false),
            Selector::Everything => (vec![], String::new(), true),
        };
        pb::Subscriber {
            id,
            peer: self.connection.peer().to_string(),
            user_agent: self.user_agent.to_string(),
            services,
            prefix,
            everything,
            filter: self.filter.as_ref().map(|filter| filter.as_str().to_owned()).unwrap_or_default(),
            connected_at: Some(encode::timestamp(self.connected_at)),
            synced_at: (synced > UnixMillis(0)).then(|| encode::timestamp(synced)),
            sent_revision: sent.0,
            pending_changes: u32::try_from(pending.changes).unwrap_or(u32::MAX),
            lag: pending.oldest.and_then(|oldest| encode::span(encode::since(oldest, now))),
            identity: self.connection.identity().map(ToString::to_string).unwrap_or_default(),
            resets: self.resets.load(Ordering::Relaxed),
            waiting,
        }
    }
}
