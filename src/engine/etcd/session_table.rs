//! Sessions of all replicas, and the order in which they take over what a lost replica held.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hasher,
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use siphasher::sip::SipHasher13;

use super::{
    keys::RegistryKey,
    replica_session::{ReplicaSession, SessionId},
};
use crate::registry::SessionEpoch;

/// Time that each further replica leaves the ones before it to take over an instance.
pub const RANK_DELAY: Duration = Duration::from_secs(5);

/// Maximum number of sessions whose replicas are named.
const MAX_NAMED_SESSIONS: usize = 1_024;

/// Names of the replicas with the newest sessions, also ended ones, for readers on other threads.
#[derive(Debug, Default)]
pub struct ReplicaNames(RwLock<BTreeMap<SessionEpoch, Arc<str>>>);

impl ReplicaNames {
    /// Returns the name of the replica with a session, if it is remembered.
    pub fn get(&self, session: SessionEpoch) -> Option<Arc<str>> {
        self.0.read().get(&session).cloned()
    }

    fn insert(&self, session: SessionEpoch, name: &str) {
        let mut names = self.0.write();
        names.insert(session, name.into());
        while names.len() > MAX_NAMED_SESSIONS {
            names.pop_first();
        }
    }
}

/// Live sessions.
#[derive(Debug, Default)]
pub struct SessionTable {
    live: BTreeMap<SessionEpoch, ReplicaSession>,
    ids: HashMap<SessionId, SessionEpoch>,
    names: Arc<ReplicaNames>,
}

impl SessionTable {
    /// Creates an empty table that publishes the names of the replicas.
    pub fn new(names: Arc<ReplicaNames>) -> Self {
        Self { names, ..Self::default() }
    }

    /// Names of the replicas.
    pub fn names(&self) -> Arc<ReplicaNames> {
        Arc::clone(&self.names)
    }

    /// Adds a session.
    pub fn begin(&mut self, id: SessionId, epoch: SessionEpoch, session: ReplicaSession) {
        self.names.insert(epoch, &session.replica);
        self.ids.insert(id, epoch);
        self.live.insert(epoch, session);
    }

    /// Ends a session, and returns its epoch, if it was live.
    pub fn end(&mut self, id: SessionId) -> Option<(SessionEpoch, ReplicaSession)> {
        let epoch = self.ids.remove(&id)?;
        let session = self.live.remove(&epoch)?;
        Some((epoch, session))
    }

    /// Ids of the live sessions.
    pub fn live_ids(&self) -> Vec<SessionId> {
        self.ids.keys().copied().collect()
    }

    /// Returns whether a session is live.
    pub fn is_live(&self, epoch: SessionEpoch) -> bool {
        self.live.contains_key(&epoch)
    }

    /// Returns the epoch of a live session.
    pub fn epoch_of(&self, id: SessionId) -> Option<SessionEpoch> {
        self.ids.get(&id).copied()
    }

    /// Live session with this epoch.
    pub fn get(&self, epoch: SessionEpoch) -> Option<&ReplicaSession> {
        self.live.get(&epoch)
    }

    /// Returns the number of live sessions that come before `own` in taking over what belongs to this key.
    ///
    /// Rendezvous hashing (Thaler and Ravishankar, 1998): each replica computes the same order without talking to the others, and a
    /// session that comes or goes changes the first place of few keys.
    pub fn rank(&self, own: SessionEpoch, key: &RegistryKey) -> u32 {
        let score = |epoch: SessionEpoch| {
            let mut hasher = SipHasher13::new();
            hasher.write_u64(epoch.0);
            hasher.write(key.to_string().as_bytes());
            (hasher.finish(), epoch)
        };
        let mine = score(own);
        let before = self.live.keys().filter(|epoch| **epoch != own && score(**epoch) > mine).count();
        u32::try_from(before).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::UnixMillis,
        registry::test_support::{id, name},
    };

    fn session() -> ReplicaSession {
        ReplicaSession {
            replica: "a".into(),
            version: "1".into(),
            started_at: UnixMillis(0),
            grpc_listener: "".into(),
            grpc_address: "".into(),
            http_listener: None,
        }
    }

    fn table(epochs: impl Iterator<Item = u64>) -> SessionTable {
        let mut table = SessionTable::default();
        for epoch in epochs {
            table.begin(SessionId(epoch), SessionEpoch(epoch), session());
        }
        table
    }

    fn key(number: u32) -> RegistryKey {
        RegistryKey::Instance(name("web"), id(&format!("i{number}")))
    }

    #[test]
    fn each_replica_has_a_rank_of_its_own_for_each_key() {
        let table = table(1..=3);
        let mut first = [0; 3];
        for number in 0..300 {
            let ranks: Vec<_> = (1..=3).map(|epoch| table.rank(SessionEpoch(epoch), &key(number))).collect();
            let mut sorted = ranks.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2]);
            first[ranks.iter().position(|rank| *rank == 0).unwrap()] += 1;
        }
        assert!(first.iter().all(|keys| (60..140).contains(keys)), "{first:?}");
    }

    #[test]
    fn end_of_a_session_changes_the_first_place_of_its_keys_only() {
        let (before, mut after) = (table(1..=3), table(1..=3));
        after.end(SessionId(3)).unwrap();
        for number in 0..300 {
            for epoch in [SessionEpoch(1), SessionEpoch(2)] {
                if before.rank(epoch, &key(number)) == 0 {
                    assert_eq!(after.rank(epoch, &key(number)), 0);
                }
            }
        }
    }

    #[test]
    fn session_ends_once() {
        let mut table = table(1..=2);
        assert_eq!(table.end(SessionId(1)).unwrap().0, SessionEpoch(1));
        assert!(table.end(SessionId(1)).is_none());
        assert!(!table.is_live(SessionEpoch(1)) && table.is_live(SessionEpoch(2)));
    }

    #[test]
    fn names_of_the_newest_replicas_are_remembered_after_their_end() {
        let names = Arc::<ReplicaNames>::default();
        let mut table = SessionTable::new(Arc::clone(&names));
        for epoch in 1..=MAX_NAMED_SESSIONS as u64 + 1 {
            table.begin(SessionId(epoch), SessionEpoch(epoch), session());
            table.end(SessionId(epoch)).unwrap();
        }
        assert_eq!(names.get(SessionEpoch(1)), None);
        assert_eq!(names.get(SessionEpoch(2)).as_deref(), Some("a"));
    }
}
