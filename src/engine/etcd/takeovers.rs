//! Take-over: instances that this replica begins to hold, because heartbeats arrive here or because their holder is gone.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{
    applier::AppliedBatch, committer::Committer, keys::RegistryKey, own_session::SESSION_TTL,
    session_table::RANK_DELAY, stored_keys::StoredKeys,
};
use crate::{
    metrics::EtcdMetrics,
    model::{InstanceId, LeaseId, ServiceName},
    registry::{ClockReading, Command, Entry, Registry, SessionEpoch},
};

/// Interval at which instances without a lease whose holder is gone are looked at.
const ADOPTION_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum time from the end of a holder's session until another replica expires a lease that the session held.
const MIN_ORPHAN_TIME: Duration = Duration::from_secs(15);
/// Minimum time between two claims of an instance whose holder is gone.
const MIN_CLAIM_INTERVAL: Duration = Duration::from_secs(1);
/// Time for which a claim is remembered.
const CLAIM_MEMORY: Duration = Duration::from_mins(1);
/// Service and id of an instance.
type InstanceKey = (ServiceName, InstanceId);

/// Claims of this replica, and the instances that are left to adopt.
#[derive(Debug)]
pub struct Takeovers {
    registry: Arc<Registry>,
    metrics: EtcdMetrics,
    /// Last claim of each instance: the holder before, and the time.
    claims: HashMap<InstanceKey, (SessionEpoch, Duration)>,
    /// Instances without a lease of each session that has ended.
    left: BTreeMap<SessionEpoch, LeftInstances>,
    next_adoption: Duration,
}

/// Instances without a lease that a session has left behind.
#[derive(Debug)]
struct LeftInstances {
    /// Time at which this replica observed the end of the session.
    since: Duration,
    instances: HashSet<InstanceKey>,
}

impl Takeovers {
    /// Creates the state of a replica that has claimed nothing.
    pub fn new(registry: Arc<Registry>, metrics: EtcdMetrics) -> Self {
        let (claims, left) = (HashMap::new(), BTreeMap::new());
        Self { registry, metrics, claims, left, next_adoption: Duration::ZERO }
    }

    /// Claims an instance, unless it was claimed a short time ago. A live holder loses it at most twice in a TTL: if the holder claims the
    /// instance back meanwhile, a further heartbeat that arrives here must lead to another claim before the lease expires there. A claim from
    /// a session that has ended since may have lost to another replica, so the next heartbeat leads to another claim at once.
    pub fn claim(
        &mut self,
        (service, id): InstanceKey,
        lease: Option<LeaseId>,
        stored: &StoredKeys,
        committer: &mut Committer,
        now: Duration,
    ) {
        let Some(entry) = self.registry.get(&service, id.as_str()) else { return };
        if self.registry.holds(&entry) {
            return;
        }
        let ttl = entry.lease.as_ref().map_or(SESSION_TTL, |lease| lease.terms().ttl());
        let interval = if stored.sessions.is_live(entry.holder) { ttl / 2 } else { MIN_CLAIM_INTERVAL };
        let key = (service, id);
        let counts = |from: SessionEpoch| from == entry.holder || stored.sessions.is_live(from);
        if self.claims.get(&key).is_some_and(|(from, last)| counts(*from) && now.saturating_sub(*last) < interval) {
            return;
        }
        self.metrics.takeovers.inc();
        self.claims.insert(key.clone(), (entry.holder, now));
        committer.push_command(Command::Claim { service: key.0, id: key.1, lease, from: entry.holder }, now);
    }

    /// Claims what an earlier session of this replica holds. Leases without a heartbeat for half of their TTL are orphans instead: their
    /// programs have gone to other replicas, which claim them at the next heartbeat.
    pub fn claim_all_of(
        &mut self,
        earlier: SessionEpoch,
        stored: &StoredKeys,
        committer: &mut Committer,
        now: ClockReading,
    ) {
        let misses = |entry: &Arc<Entry>| entry.lease.as_ref().is_some_and(|lease| lease.misses_heartbeat(now.lease));
        let (orphans, live): (Vec<_>, Vec<_>) = self.entries(|holder| holder == earlier).into_iter().partition(misses);
        self.orphan(&orphans, committer.session().epoch, stored, now);
        for entry in live {
            self.push_claim(&entry, committer, Duration::from_micros(now.monotonic_us));
        }
    }

    fn push_claim(&mut self, entry: &Entry, committer: &mut Committer, now: Duration) {
        let (service, id) = (entry.instance.service.clone(), entry.instance.id.clone());
        self.metrics.takeovers.inc();
        self.claims.insert((service.clone(), id.clone()), (entry.holder, now));
        let lease = entry.lease.as_ref().map(|lease| lease.id);
        committer.push_command(Command::Claim { service, id, lease, from: entry.holder }, now);
    }

    /// Makes the leases of a session that has ended expire here, after the time in which their programs can reach another replica.
    /// `own`: session of this replica.
    pub fn session_ended(&mut self, epoch: SessionEpoch, own: SessionEpoch, stored: &StoredKeys, now: ClockReading) {
        let orphans = self.entries(|holder| holder == epoch);
        self.orphan(&orphans, own, stored, now);
    }

    /// Makes the leases of all sessions that are not live expire here: these sessions ended while this replica did not watch.
    pub fn sessions_ended_unseen(&mut self, own: SessionEpoch, stored: &StoredKeys, now: ClockReading) {
        let orphans = self.entries(|holder| holder != own && !stored.sessions.is_live(holder));
        let unseen: Vec<_> = orphans.into_iter().filter(|entry| !self.left.contains_key(&entry.holder)).collect();
        self.orphan(&unseen, own, stored, now);
    }

    /// Takes note of the instances of a batch whose holder ended before the batch: a release to a session that has just ended.
    pub fn take_applied(&mut self, applied: &AppliedBatch, own: SessionEpoch, stored: &StoredKeys, now: ClockReading) {
        let entries = applied.changed.values().filter_map(|(entry, _)| entry.as_ref());
        let has_no_holder = |entry: &Entry| entry.holder != own && !stored.sessions.is_live(entry.holder);
        let orphans: Vec<_> = entries.filter(|entry| has_no_holder(entry) && !self.is_orphan(entry)).cloned().collect();
        self.orphan(&orphans, own, stored, now);
    }

    /// Returns whether the lease of an entry expires here or, if it has none, whether the entry is left to adopt.
    fn is_orphan(&self, entry: &Entry) -> bool {
        if let Some(lease) = &entry.lease {
            return lease.expires_here();
        }
        let key = (entry.instance.service.clone(), entry.instance.id.clone());
        self.left.get(&entry.holder).is_some_and(|left| left.instances.contains(&key))
    }

    fn orphan(&mut self, orphans: &[Arc<Entry>], own: SessionEpoch, stored: &StoredKeys, now: ClockReading) {
        if orphans.is_empty() {
            return;
        }
        let registry = Arc::clone(&self.registry);
        let mut guard = registry.order();
        for entry in orphans {
            if let Some(lease) = &entry.lease {
                let rank = stored.sessions.rank(own, &key_of(entry));
                let delay = MIN_ORPHAN_TIME.saturating_sub(lease.terms().ttl()) + RANK_DELAY * rank;
                guard.expire_here(entry, delay, now);
            } else {
                let since = Duration::from_micros(now.monotonic_us);
                let left = self.left.entry(entry.holder);
                let left = left.or_insert_with(|| LeftInstances { since, instances: HashSet::new() });
                left.instances.insert((entry.instance.service.clone(), entry.instance.id.clone()));
            }
        }
        drop(guard);
        tracing::info!(instances = orphans.len(), "instances have lost their holder");
    }

    /// Claims the instances without a lease whose holder is gone, in the order of the ranks, and forgets old claims. Called many times a
    /// second; looks at the instances once a second.
    pub fn adopt(&mut self, stored: &StoredKeys, committer: &mut Committer, now: Duration) {
        if now < self.next_adoption {
            return;
        }
        self.next_adoption = now + ADOPTION_INTERVAL;
        self.claims.retain(|_, (_, last)| now.saturating_sub(*last) < CLAIM_MEMORY);
        let own = committer.session().epoch;
        let mut due = Vec::new();
        for (epoch, LeftInstances { since, instances }) in &mut self.left {
            instances.retain(|key| {
                let entry = self.registry.get(&key.0, key.1.as_str());
                let Some(entry) = entry.filter(|entry| entry.holder == *epoch && entry.lease.is_none()) else {
                    return false;
                };
                let claimed = self.claims.get(key).is_some_and(|(_, last)| now.saturating_sub(*last) < SESSION_TTL);
                if !claimed && now >= *since + RANK_DELAY * stored.sessions.rank(own, &key_of(&entry)) {
                    due.push(entry);
                }
                true
            });
        }
        self.left.retain(|_, left| !left.instances.is_empty());
        for entry in due {
            self.push_claim(&entry, committer, now);
        }
    }

    /// Returns the entries whose holder is wanted, nodes included. Reads the whole registry.
    fn entries(&self, is_wanted: impl Fn(SessionEpoch) -> bool) -> Vec<Arc<Entry>> {
        let mut found = Vec::new();
        self.registry.for_each_entry(|entry| {
            if is_wanted(entry.holder) {
                found.push(Arc::clone(entry));
            }
        });
        found
    }
}

fn key_of(entry: &Entry) -> RegistryKey {
    RegistryKey::Instance(entry.instance.service.clone(), entry.instance.id.clone())
}
