//! Who watches, and how far each has come.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use dashmap::DashMap;

use crate::{
    model::{InstanceFilter, Selector, UnixMillis},
    registry::ClockReading,
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
pub struct Watcher {
    /// Connection that carries it.
    pub connection: Arc<Connection>,
    /// `user-agent` of its client, cut to 128 characters.
    pub user_agent: Box<str>,
    /// Services that it watches.
    pub selection: Arc<Selector>,
    /// Filter of its instances.
    pub filter: Option<Arc<InstanceFilter>>,
    /// Time at which it was opened.
    pub connected_at: UnixMillis,
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
pub struct WatcherGuard {
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
    pub fn enter(
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
    pub fn page(&self, after: u64, limit: usize, wanted: impl Fn(&Selector) -> bool) -> Vec<(u64, Arc<Watcher>)> {
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
