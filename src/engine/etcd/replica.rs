//! Replica: the task that owns everything the engine has, and waits for requests, for the watch, for etcd's replies and for time.

use std::{
    collections::{BTreeSet, HashMap},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc::{self, UnboundedReceiver},
    task::JoinHandle,
    time::{Interval, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_stream::{StreamExt, StreamMap};

use super::{
    EtcdDependencies, EtcdEngineError, EtcdSettings,
    applier::{AppliedBatch, Applier, each_entry},
    committer::Committer,
    follower::{Followed, MAX_FOLLOWED, follow, until_answered},
    keys::{KeySpace, RegistryKey},
    own_session::{OwnSession, RENEWAL_INTERVAL, SESSION_TTL},
    position::CommitPosition,
    registry_meta::RegistryMeta,
    session_table::RANK_DELAY,
    snapshot::KeySnapshot,
    status::ReplicaStatus,
    stored_keys::StoredKeys,
};
use crate::{
    clock::Clock,
    engine::write_request::WriteRequest,
    etcd::{
        EtcdClient, EtcdCompare, EtcdError, EtcdErrorKind, EtcdOperation, EtcdRange, EtcdResponse, EtcdTransaction,
        EtcdTransactionResult,
    },
    metrics::EtcdMetrics,
    model::{Incarnation, InstanceId, LeaseId, ServiceName},
    registry::{ClockReading, Entry, Registry, SessionEpoch},
};

/// Time in which etcd has to answer at the start of a replica.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Number of revisions of etcd that a starting replica replays.
const REPLAYED_REVISIONS: u64 = 4_096;
/// Interval at which time-outs and orphans are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Interval at which instances without a lease whose holder is gone are looked for.
const ADOPTION_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum time that an orphan keeps after the session of its holder has ended.
const MIN_ORPHAN_TIME: Duration = Duration::from_secs(15);
/// Time after which a batch whose reply was lost is sent again.
const RESEND_DELAY: Duration = Duration::from_millis(100);
/// Minimum time between two claims of an instance whose holder is gone.
const MIN_CLAIM_INTERVAL: Duration = Duration::from_secs(1);
/// Time for which a claim is remembered.
const CLAIM_MEMORY: Duration = Duration::from_mins(1);
/// Time that a closing replica has for the batches in flight.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Time that a closing replica has to end its session.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(1);

/// Message of other threads.
#[derive(Debug)]
pub enum ReplicaMessage {
    /// Request to write.
    Write(WriteRequest),
    /// A heartbeat or a report for an instance has arrived that another replica holds.
    Claim(ServiceName, InstanceId, Option<LeaseId>),
}

/// Reply to a batch, with its lane and its session.
type BatchReply = (usize, SessionEpoch, Result<EtcdTransactionResult, EtcdError>);
type Reply<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Owner of the engine's state.
#[derive(Debug)]
pub struct EtcdReplica {
    client: EtcdClient,
    settings: EtcdSettings,
    keys: KeySpace,
    registry: Arc<Registry>,
    clock: Arc<Clock>,
    status: Arc<ReplicaStatus>,
    stored: StoredKeys,
    applier: Applier,
    committer: Committer,
    metrics: EtcdMetrics,
    /// Member of etcd that requests went to at the last tick.
    endpoint: String,
    /// Last error of etcd since a batch succeeded.
    last_error: Option<EtcdError>,
    followed: mpsc::Receiver<Followed>,
    following: JoinHandle<()>,
    /// Time of the last claim of each instance.
    claims: HashMap<(ServiceName, InstanceId), Duration>,
    next_adoption: Duration,
    is_session_lost: bool,
}

impl Drop for EtcdReplica {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl EtcdReplica {
    /// Reads the registry from etcd and begins a session.
    pub async fn start(
        settings: EtcdSettings,
        dependencies: EtcdDependencies,
        status: Arc<ReplicaStatus>,
    ) -> Result<Self, EtcdEngineError> {
        let EtcdDependencies { clock, listener, metrics, incarnation } = dependencies;
        let client = EtcdClient::new(settings.options.clone())?;
        let keys = KeySpace::new(&settings.cluster);
        let meta = until_answered(START_TIMEOUT, || read_meta(&client, &keys, incarnation)).await?;
        let meta = RegistryMeta::decode(&meta)?;
        let began = clock.since_start();
        let session =
            until_answered(START_TIMEOUT, || OwnSession::begin(&client, &keys, &settings.session, None)).await?;
        status.confirm_session(began);
        let snapshot = until_answered(START_TIMEOUT, || read_earlier(&client, &keys, session.epoch)).await?;
        status.confirm_watch(clock.since_start());
        let now = clock.now();
        let revision = snapshot.revision;
        let start = CommitPosition::complete(revision);
        let registry = Arc::new(Registry::new(meta.incarnation, start, now, listener));
        registry.order().set_session(session.epoch);
        let mut stored = StoredKeys::default();
        let mut applier = Applier::new(Arc::clone(&registry), keys.clone(), meta);
        applier.restore(snapshot, &mut stored, now);
        let (sender, followed) = mpsc::channel(MAX_FOLLOWED);
        let following = tokio::spawn(follow(client.clone(), keys.clone(), revision + 1, sender));
        let replica = settings.session.replica.clone();
        let committer =
            Committer::new(Arc::clone(&registry), keys.clone(), Arc::clone(&status), metrics.clone(), replica, session);
        let endpoint = client.current_endpoint().to_owned();
        let mut replica = Self {
            client,
            settings,
            keys,
            registry,
            clock,
            status,
            stored,
            applier,
            committer,
            metrics,
            endpoint,
            last_error: None,
            followed,
            following,
            claims: HashMap::new(),
            next_adoption: Duration::ZERO,
            is_session_lost: false,
        };
        replica.catch_up().await?;
        replica.orphan_all_of_ended_sessions(replica.clock.now());
        Ok(replica)
    }

    /// Applies the changes up to the beginning of the session.
    async fn catch_up(&mut self) -> Result<(), EtcdEngineError> {
        let goal = CommitPosition::complete(self.committer.session().epoch.0);
        let following = async {
            while self.registry.applied() < goal {
                let Some(followed) = self.followed.recv().await else { return Err(EtcdEngineError::Panicked) };
                self.take_followed(followed).map_err(EtcdEngineError::Replaced)?;
            }
            Ok(())
        };
        timeout(START_TIMEOUT, following).await.unwrap_or(Err(EtcdEngineError::CatchUp))
    }

    /// Registry of the replica.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Works until all senders are dropped, or etcd's contents are replaced.
    pub async fn run(mut self, mut inbox: UnboundedReceiver<ReplicaMessage>) -> Result<(), String> {
        let mut replies: StreamMap<usize, Pin<Box<dyn tokio_stream::Stream<Item = BatchReply> + Send>>> =
            StreamMap::new();
        let mut renewal: Option<Reply<Result<bool, EtcdError>>> = None;
        let mut new_session: Option<Reply<Result<OwnSession, EtcdError>>> = None;
        let mut ticks = ticking(TICK);
        let mut renewals = ticking(RENEWAL_INTERVAL);
        let mut closing: Option<Duration> = None;
        loop {
            if !self.is_session_lost {
                for (lane, transaction) in self.committer.fill(&self.stored, self.clock.now()) {
                    replies.insert(lane, self.send(lane, transaction, Duration::ZERO));
                }
            }
            if let Some(end) = closing
                && (self.committer.is_idle() || self.clock.since_start() > end)
            {
                self.committer.stop();
                // Others take over at once what this replica held. Without an answer, they do once the session has expired.
                let _ = timeout(REVOKE_TIMEOUT, self.client.revoke_lease(self.committer.session().lease)).await;
                return Ok(());
            }
            tokio::select! {
                biased;
                followed = self.followed.recv() => match followed {
                    Some(followed) => self.take_followed(followed)?,
                    None => return Err("the task that watches etcd has ended".to_owned()),
                },
                Some((lane, (_, epoch, reply))) = replies.next(), if !replies.is_empty() => {
                    if epoch == self.committer.session().epoch
                        && let Some(again) = self.take_reply(lane, reply)
                    {
                        replies.insert(lane, again);
                    }
                }
                message = inbox.recv(), if closing.is_none() => match message {
                    Some(message) => self.take_message(message),
                    None => closing = Some(self.clock.since_start() + CLOSE_TIMEOUT),
                },
                renewed = wait_for(&mut renewal) => {
                    renewal = None;
                    self.take_renewal(renewed);
                }
                session = wait_for(&mut new_session) => {
                    new_session = None;
                    if let Ok(session) = session {
                        self.begin_session(session);
                    }
                }
                _ = renewals.tick() => {
                    if self.is_session_lost && new_session.is_none() {
                        new_session = Some(self.request_session());
                    } else if renewal.is_none() && !self.is_session_lost {
                        renewal = Some(self.renew());
                    }
                }
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    fn take_message(&mut self, message: ReplicaMessage) {
        let now = self.clock.since_start();
        match message {
            ReplicaMessage::Write(request) => self.committer.push(request, now),
            ReplicaMessage::Claim(service, id, lease) => self.claim(service, id, lease, now),
        }
    }

    /// Claims an instance, unless it was claimed a short time ago. A live holder loses it at most once in a TTL.
    fn claim(&mut self, service: ServiceName, id: InstanceId, lease: Option<LeaseId>, now: Duration) {
        let Some(entry) = self.registry.get(&service, id.as_str()) else { return };
        if self.registry.holds(&entry) {
            return;
        }
        let ttl = entry.lease.as_ref().map_or(SESSION_TTL, |lease| lease.terms().ttl());
        let interval = if self.stored.sessions.is_live(entry.holder) { ttl } else { MIN_CLAIM_INTERVAL };
        let key = (service, id);
        if self.claims.get(&key).is_some_and(|last| now.saturating_sub(*last) < interval) {
            return;
        }
        self.metrics.takeovers.inc();
        self.claims.insert(key.clone(), now);
        self.committer.push_claim(key.0, key.1, lease, now);
    }

    fn take_followed(&mut self, followed: Followed) -> Result<(), String> {
        let now = self.clock.now();
        self.status.confirm_watch(self.clock.since_start());
        let applied = match followed {
            Followed::Batch(batch) => self.applier.apply(batch, &mut self.stored, now),
            Followed::Snapshot(snapshot) => {
                tracing::warn!(
                    revision = snapshot.revision,
                    "etcd has compacted changes that this replica had not seen: it reads the state again"
                );
                self.metrics.reloads.inc();
                self.applier.reconcile(snapshot, &mut self.stored, now)
            }
            Followed::Progress => return Ok(()),
            Followed::Interrupted(error) => {
                tracing::debug!(%error, "the watch of etcd is being resumed");
                self.note_error(error);
                return Ok(());
            }
            Followed::HistoryReplaced(error) => {
                return Err(format!(
                    "etcd has lost revisions that this replica has applied ({error}): its data was replaced or restored"
                ));
            }
        };
        self.take_applied(&applied, now)
    }

    fn take_applied(&mut self, applied: &AppliedBatch, now: ClockReading) -> Result<(), String> {
        self.metrics.applied_changes.inc_by(applied.changed.len() as u64);
        if applied.other_registry {
            return Err("the registry in etcd was replaced by another one".to_owned());
        }
        for note in &applied.notes {
            self.committer.resolve(*note, applied, self.clock.since_start());
        }
        for epoch in &applied.ended_sessions {
            if *epoch == self.committer.session().epoch {
                self.lose_session("etcd has deleted it");
            } else {
                self.orphan(*epoch, now);
            }
        }
        Ok(())
    }

    /// Sends a transaction after a delay.
    fn send(
        &self,
        lane: usize,
        transaction: EtcdTransaction,
        delay: Duration,
    ) -> Pin<Box<dyn tokio_stream::Stream<Item = BatchReply> + Send>> {
        let (client, epoch) = (self.client.clone(), self.committer.session().epoch);
        let reply = async move {
            if !delay.is_zero() {
                sleep(delay).await;
            }
            (lane, epoch, client.transact(&transaction).await)
        };
        Box::pin(tokio_stream::once(reply).then(|reply| reply))
    }

    /// Takes the reply to a batch. Returns the next attempt if the batch has to be sent again.
    fn take_reply(
        &mut self,
        lane: usize,
        reply: Result<EtcdTransactionResult, EtcdError>,
    ) -> Option<Pin<Box<dyn tokio_stream::Stream<Item = BatchReply> + Send>>> {
        match reply {
            Ok(result) if result.succeeded => {
                self.last_error = None;
                return None; // the watch has the outcome
            }
            Ok(result) => {
                if is_session_missing(&result) {
                    self.lose_session("etcd does not have it");
                    return None;
                }
                // An earlier attempt was executed: the watch shows it.
            }
            Err(error) => {
                tracing::debug!(%error, lane, "a batch was not confirmed");
                self.note_error(error);
            }
        }
        let transaction = self.committer.transaction(lane)?;
        Some(self.send(lane, transaction, RESEND_DELAY))
    }

    fn renew(&self) -> Reply<Result<bool, EtcdError>> {
        let (client, lease, clock, status) =
            (self.client.clone(), self.committer.session().lease, Arc::clone(&self.clock), Arc::clone(&self.status));
        Box::pin(async move {
            let sent = clock.since_start();
            let renewed = OwnSession::renew(client, lease).await;
            if matches!(renewed, Ok(true)) {
                status.confirm_session(sent);
            }
            renewed
        })
    }

    fn take_renewal(&mut self, renewed: Result<bool, EtcdError>) {
        match renewed {
            Ok(true) => {}
            Ok(false) => self.lose_session("its lease has expired"),
            Err(error) => {
                tracing::debug!(%error, "the session was not renewed");
                self.note_error(error);
            }
        }
    }

    /// Keeps an error for the log. One that no member would answer otherwise, such as a missing permission, is logged at once,
    /// because an operator has to act.
    fn note_error(&mut self, error: EtcdError) {
        let is_new = self.last_error.as_ref().is_none_or(|last| last.kind() != error.kind());
        if is_new && !error.concerns_member() && error.kind() != EtcdErrorKind::TokenExpired {
            tracing::warn!(%error, "etcd rejects requests of this replica");
        }
        self.last_error = Some(error);
    }

    fn lose_session(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.is_session_lost, true) {
            tracing::warn!(
                reason,
                "this replica has lost its session in etcd: no lease expires until it has a new one"
            );
            self.status.session_lost();
            self.freeze_if_unconfirmed();
        }
    }

    fn request_session(&self) -> Reply<Result<OwnSession, EtcdError>> {
        let (client, keys, replica) = (self.client.clone(), self.keys.clone(), self.settings.session.clone());
        let earlier = self.committer.session().key.clone();
        let (clock, status) = (Arc::clone(&self.clock), Arc::clone(&self.status));
        Box::pin(async move {
            let sent = clock.since_start();
            let session = OwnSession::begin(&client, &keys, &replica, Some(&earlier)).await;
            if session.is_ok() {
                status.confirm_session(sent);
            }
            session
        })
    }

    /// Continues with a new session, and claims what this replica held with the earlier one.
    fn begin_session(&mut self, session: OwnSession) {
        let earlier = self.committer.session().epoch;
        tracing::info!(epoch = session.epoch.0, "this replica has a new session in etcd");
        self.is_session_lost = false;
        self.registry.order().set_session(session.epoch);
        self.committer.set_session(session);
        let now = self.clock.since_start();
        for entry in self.held_by(earlier) {
            self.push_claim(&entry, now);
        }
    }

    /// Returns the entries that a session holds, nodes included.
    fn held_by(&self, epoch: SessionEpoch) -> Vec<Arc<Entry>> {
        let mut held = Vec::new();
        each_entry(&self.registry, |entry| {
            if entry.holder == epoch {
                held.push(Arc::clone(entry));
            }
        });
        held
    }

    fn push_claim(&mut self, entry: &Entry, now: Duration) {
        let (service, id) = (entry.instance.service.clone(), entry.instance.id.clone());
        self.metrics.takeovers.inc();
        self.claims.insert((service.clone(), id.clone()), now);
        self.committer.push_claim(service, id, entry.lease.as_ref().map(|lease| lease.id), now);
    }

    /// Makes the leases of a session that has ended expire here, after the time in which their programs can reach another replica.
    fn orphan(&mut self, epoch: SessionEpoch, now: ClockReading) {
        let orphans = self.held_by(epoch);
        let own = self.committer.session().epoch;
        let mut guard = self.registry.order();
        for entry in &orphans {
            if let Some(lease) = &entry.lease {
                let rank = self.stored.sessions.rank(own, &key_of(entry));
                let delay = MIN_ORPHAN_TIME.saturating_sub(lease.terms().ttl()) + RANK_DELAY * rank;
                guard.expire_here(entry, delay, now);
            }
        }
        drop(guard);
        tracing::info!(epoch = epoch.0, instances = orphans.len(), "instances have lost their holder");
        if orphans.is_empty() {
            self.stored.sessions.forget(epoch);
        }
    }

    /// Looks for instances that belong to sessions which ended before this replica started.
    fn orphan_all_of_ended_sessions(&mut self, now: ClockReading) {
        let mut ended = BTreeSet::new();
        let sessions = &self.stored.sessions;
        each_entry(&self.registry, |entry| {
            if !sessions.is_live(entry.holder) && !self.registry.holds(entry) {
                ended.insert(entry.holder);
            }
        });
        for epoch in ended {
            self.stored.sessions.note_ended(epoch, self.clock.since_start());
            self.orphan(epoch, now);
        }
    }

    /// Claims the instances without a lease whose holder is gone, in the order of the ranks.
    fn adopt(&mut self, now: Duration) {
        let own = self.committer.session().epoch;
        for (epoch, at) in self.stored.sessions.ended().collect::<Vec<_>>() {
            let orphans = self.held_by(epoch);
            if orphans.is_empty() {
                self.stored.sessions.forget(epoch);
            }
            for entry in orphans.iter().filter(|entry| entry.lease.is_none()) {
                let rank = self.stored.sessions.rank(own, &key_of(entry));
                let key = (entry.instance.service.clone(), entry.instance.id.clone());
                let claimed = self.claims.get(&key).is_some_and(|last| now.saturating_sub(*last) < SESSION_TTL);
                if !claimed && now >= at + RANK_DELAY * rank {
                    self.push_claim(entry, now);
                }
            }
        }
    }

    fn tick(&mut self) {
        let now = self.clock.since_start();
        self.committer.expire_callers(now);
        self.freeze_if_unconfirmed();
        self.metrics.session_confirmed.set(i64::from(!self.status.is_frozen()));
        self.metrics.watch_age.set(i64::try_from(self.status.watch_age(now).as_secs()).unwrap_or(i64::MAX));
        if self.endpoint != self.client.current_endpoint() {
            self.client.current_endpoint().clone_into(&mut self.endpoint);
            self.metrics.failovers.inc();
        }
        if now >= self.next_adoption && !self.is_session_lost {
            self.next_adoption = now + ADOPTION_INTERVAL;
            self.adopt(now);
            self.claims.retain(|_, last| now.saturating_sub(*last) < CLAIM_MEMORY);
        }
    }

    /// Stops or resumes expiry. Before it resumes, every lease gets a full TTL, because heartbeats may have been lost.
    fn freeze_if_unconfirmed(&mut self) {
        let is_confirmed = self.status.is_confirmed(self.clock.since_start());
        if !is_confirmed && !self.status.is_frozen() {
            self.status.freeze(true);
            let error = self.last_error.as_ref().map(tracing::field::display);
            tracing::warn!(
                error,
                "etcd is out of reach: reads are answered from memory, writes wait, and no lease expires"
            );
        } else if is_confirmed && self.status.is_frozen() {
            let now = self.clock.now();
            let overdue = self.committer.take_expirations();
            let mut guard = self.registry.order();
            for (service, id) in overdue {
                if let Some(entry) = self.registry.get(&service, id.as_str()) {
                    guard.revive(&entry, now);
                }
            }
            guard.renew_all_leases(now);
            drop(guard);
            self.status.freeze(false);
            tracing::info!("etcd is back");
        }
    }
}

fn key_of(entry: &Entry) -> RegistryKey {
    RegistryKey::Instance(entry.instance.service.clone(), entry.instance.id.clone())
}

fn ticking(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Waits for a reply, or for ever if none is awaited.
async fn wait_for<T>(reply: &mut Option<Reply<T>>) -> T {
    match reply {
        Some(reply) => reply.await,
        None => std::future::pending().await,
    }
}

fn is_session_missing(result: &EtcdTransactionResult) -> bool {
    matches!(result.responses.first(), Some(EtcdResponse::Range(found)) if found.entries.is_empty())
}

/// Reads all keys at a revision before the beginning of the session, so that the watch fills the event logs and readers can resume. Reads
/// the newest revision if etcd no longer has the earlier one.
async fn read_earlier(client: &EtcdClient, keys: &KeySpace, session: SessionEpoch) -> Result<KeySnapshot, EtcdError> {
    let earlier = session.0.saturating_sub(REPLAYED_REVISIONS).max(1);
    match KeySnapshot::read(client, keys, Some(earlier)).await {
        Err(error) if matches!(error.kind(), EtcdErrorKind::Compacted { .. }) => {
            KeySnapshot::read(client, keys, None).await
        }
        read => read,
    }
}

/// Reads the meta value, and writes it if this is the first replica.
async fn read_meta(client: &EtcdClient, keys: &KeySpace, incarnation: Incarnation) -> Result<Vec<u8>, EtcdError> {
    let key = keys.encode(&RegistryKey::Meta);
    let value = RegistryMeta { incarnation }.encode();
    let transaction = EtcdTransaction {
        compares: vec![EtcdCompare::absent(key.clone())],
        success: vec![EtcdOperation::put(key.clone(), value.clone())],
        failure: vec![EtcdOperation::Range(EtcdRange::key(key))],
    };
    let result = client.transact(&transaction).await?;
    let found = result.responses.into_iter().find_map(|response| match response {
        EtcdResponse::Range(found) => found.entries.into_iter().next().map(|entry| entry.value),
        EtcdResponse::Put | EtcdResponse::Delete { .. } | EtcdResponse::Nested(_) => None,
    });
    Ok(found.unwrap_or(value))
}
