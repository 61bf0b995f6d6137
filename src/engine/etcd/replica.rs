//! Replica: the task that owns everything the engine has, and waits for requests, for the watch, for etcd's replies and for time.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::{
    sync::{
        Notify,
        mpsc::{self, UnboundedReceiver},
    },
    task::JoinHandle,
    time::{Interval, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_stream::{StreamExt, StreamMap};

use super::{
    EtcdDependencies, EtcdEngineError, EtcdSettings,
    applier::{AppliedBatch, Applier},
    committer::Committer,
    expiration_window::ExpirationWindow,
    follower::{Followed, MAX_FOLLOWED, follow},
    keys::{KeySpace, RegistryKey},
    loading::{newest_revision, read_earlier, read_meta, until_answered},
    own_session::{OwnSession, RENEWAL_INTERVAL},
    position::CommitPosition,
    registry_meta::RegistryMeta,
    status::ReplicaStatus,
    stored_keys::StoredKeys,
    takeovers::Takeovers,
    waiting_readers::WaitingReaders,
};
use crate::{
    clock::Clock,
    engine::{OutcomeSender, write_request::WriteRequest},
    etcd::{EtcdClient, EtcdCompare, EtcdError, EtcdErrorKind, EtcdOperation, EtcdResponse, EtcdTransaction, EtcdTransactionResult},
    metrics::EtcdMetrics,
    model::{InstanceId, LeaseId, Revision, ServiceName},
    registry::{ClockReading, Registry, SessionEpoch},
};

/// Time in which etcd has to answer at the start of a replica.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval at which time-outs and orphans are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Time after which a batch whose reply was lost is sent again.
const RESEND_DELAY: Duration = Duration::from_millis(100);
/// Interval at which the counted expirations of services that are gone are removed.
const FORGETTING_INTERVAL: Duration = Duration::from_mins(1);
/// Time for which the expirations of a service that is gone are kept.
const EXPIRATION_MEMORY: Duration = Duration::from_mins(10);
/// Maximum number of services whose expirations are removed at a time.
const MAX_FORGOTTEN: usize = 100;
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
    /// A reader needs everything that was acknowledged before the message was sent.
    Synchronize(OutcomeSender<()>),
    /// A reader needs a revision.
    Reach(Revision, OutcomeSender<()>),
}

/// Reply to a batch, with its lane and its session.
type BatchReply = (usize, SessionEpoch, Result<EtcdTransactionResult, EtcdError>);
type NextBatchReply = Pin<Box<dyn tokio_stream::Stream<Item = BatchReply> + Send>>;
type BatchReplies = StreamMap<usize, NextBatchReply>;
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
    takeovers: Takeovers,
    next_forgetting: Duration,
    is_session_lost: bool,
    readers: WaitingReaders,
    /// Makes the follower ask etcd for progress.
    progress: Arc<Notify>,
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
        let mut stored = StoredKeys::new(Arc::clone(&status.replica_names));
        let mut applier = Applier::new(Arc::clone(&registry), keys.clone(), meta);
        applier.restore(snapshot, &mut stored, now);
        let (sender, followed) = mpsc::channel(MAX_FOLLOWED);
        let progress = Arc::<Notify>::default();
        let following = tokio::spawn(follow(client.clone(), keys.clone(), revision + 1, sender, Arc::clone(&progress)));
        let replica = settings.session.replica.clone();
        let committer =
            Committer::new(Arc::clone(&registry), keys.clone(), Arc::clone(&status), metrics.clone(), replica, session);
        let takeovers = Takeovers::new(Arc::clone(&registry), metrics.clone());
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
            takeovers,
            next_forgetting: Duration::ZERO,
            is_session_lost: false,
            readers: WaitingReaders::default(),
            progress,
        };
        replica.catch_up().await?;
        let (own, now) = (replica.committer.session().epoch, replica.clock.now());
        replica.takeovers.sessions_ended_unseen(own, &replica.stored, now);
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
        let mut replies = BatchReplies::new();
        let mut renewal: Option<Reply<Result<bool, EtcdError>>> = None;
        let mut new_session: Option<Reply<Result<OwnSession, EtcdError>>> = None;
        let mut asking: Option<Reply<()>> = None;
        let mut newest: Option<Reply<Option<u64>>> = None;
        let mut ticks = ticking(TICK);
        let mut renewals = ticking(RENEWAL_INTERVAL);
        let mut closing: Option<Duration> = None;
        loop {
            if !self.is_session_lost {
                for (lane, transaction) in self.committer.fill(&self.stored, self.clock.now()) {
                    replies.insert(lane, self.send(lane, transaction, Duration::ZERO));
                }
                asking = asking.or_else(|| self.ask_for_release());
            }
            if self.is_session_lost || self.committer.is_stalled(self.clock.since_start()) {
                self.committer.answer_unchanged(&self.stored, self.clock.now());
            }
            newest = newest.or_else(|| self.read_newest());
            if closing.is_some_and(|end| self.committer.is_idle() || self.clock.since_start() > end) {
                self.close().await;
                return Ok(());
            }
            tokio::select! {
                biased;
                followed = self.followed.recv() => {
                    self.take_followed(followed.ok_or("the task that watches etcd has ended")?)?;
                }
                Some((lane, (_, epoch, reply))) = replies.next(), if !replies.is_empty() => {
                    if let Some(again) = self.take_reply(lane, epoch, reply) {
                        replies.insert(lane, again);
                    }
                }
                message = inbox.recv(), if closing.is_none() => match message {
                    Some(message) => self.take_message(message),
                    None => closing = Some(self.clock.since_start() + CLOSE_TIMEOUT),
                },
                () = wait_for(&mut asking) => asking = None,
                renewed = wait_for(&mut renewal) => {
                    renewal = None;
                    self.take_renewal(renewed);
                }
                revision = wait_for(&mut newest) => {
                    newest = None;
                    self.take_newest(revision);
                }
                session = wait_for(&mut new_session) => {
                    new_session = None;
                    self.take_session(session);
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
            ReplicaMessage::Claim(service, id, lease) => {
                self.takeovers.claim((service, id), lease, &self.stored, &mut self.committer, now);
            }
            ReplicaMessage::Synchronize(reader) => self.readers.synchronize(reader, now),
            ReplicaMessage::Reach(revision, reader) => self.readers.reach(revision, reader, now),
        }
    }

    /// Ends the session, so that others take over at once what this replica held. Without an answer, they do once it has expired.
    async fn close(&mut self) {
        self.committer.stop();
        self.readers.expire(Duration::MAX);
        let _ = timeout(REVOKE_TIMEOUT, self.client.revoke_lease(self.committer.session().lease)).await;
    }

    /// Begins to ask the holders of instances that other boots register here, if there are any.
    fn ask_for_release(&mut self) -> Option<Reply<()>> {
        let (request, client) = (self.committer.release_request()?, self.client.clone());
        Some(Box::pin(async move {
            if let Err(error) = client.transact(&request).await {
                tracing::debug!(%error, "a request to release instances was not confirmed");
            }
        }))
    }

    fn take_newest(&mut self, revision: Option<u64>) {
        if self.readers.take_revision(revision) {
            // Where nothing is changing, only progress tells that this replica has everything.
            self.progress.notify_one();
        }
    }

    /// Begins to read the newest revision of etcd, if readers wait for it.
    fn read_newest(&mut self) -> Option<Reply<Option<u64>>> {
        let begins = self.readers.begin_read();
        begins.then(|| Box::pin(newest_revision(self.client.clone(), self.keys.clone())) as Reply<Option<u64>>)
    }

    fn take_followed(&mut self, followed: Followed) -> Result<(), String> {
        let now = self.clock.now();
        if !matches!(followed, Followed::Interrupted(_) | Followed::HistoryReplaced(_)) {
            self.status.confirm_watch(self.clock.since_start());
        }
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
            Followed::Progress(revision) => {
                self.readers.received(revision);
                return Ok(());
            }
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
        self.readers.applied(applied.etcd_revision);
        self.committer.registry_changed();
        if applied.other_registry {
            return Err("the registry in etcd was replaced by another one".to_owned());
        }
        for note in &applied.notes {
            self.committer.resolve(*note, applied, self.clock.since_start());
        }
        self.committer.take_releases(applied, now);
        for epoch in &applied.ended_sessions {
            if *epoch == self.committer.session().epoch {
                self.lose_session("etcd has deleted it");
            } else {
                self.takeovers.session_ended(*epoch, self.committer.session().epoch, &self.stored, now);
            }
        }
        if applied.is_snapshot {
            self.takeovers.sessions_ended_unseen(self.committer.session().epoch, &self.stored, now);
        }
        Ok(())
    }

    /// Sends a transaction after a delay.
    fn send(&self, lane: usize, transaction: EtcdTransaction, delay: Duration) -> NextBatchReply {
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
        epoch: SessionEpoch,
        reply: Result<EtcdTransactionResult, EtcdError>,
    ) -> Option<NextBatchReply> {
        if epoch != self.committer.session().epoch {
            return None; // batches of an earlier session are decided again
        }
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

    fn take_session(&mut self, session: Result<OwnSession, EtcdError>) {
        if let Ok(session) = session {
            self.begin_session(session);
        }
    }

    /// Continues with a new session, and claims what this replica held with the earlier one.
    fn begin_session(&mut self, session: OwnSession) {
        let earlier = self.committer.session().epoch;
        tracing::info!(epoch = session.epoch.0, "this replica has a new session in etcd");
        self.is_session_lost = false;
        self.registry.order().set_session(session.epoch);
        self.committer.set_session(session);
        let now = self.clock.since_start();
        self.takeovers.claim_all_of(earlier, &mut self.committer, now);
    }

    fn tick(&mut self) {
        let now = self.clock.since_start();
        self.committer.expire_callers(now);
        self.committer.release(self.clock.now());
        self.readers.expire(now);
        self.freeze_if_unconfirmed();
        self.metrics.session_confirmed.set(i64::from(!self.status.is_frozen()));
        self.metrics.watch_age.set(i64::try_from(self.status.watch_age(now).as_secs()).unwrap_or(i64::MAX));
        if self.endpoint != self.client.current_endpoint() {
            self.client.current_endpoint().clone_into(&mut self.endpoint);
            self.metrics.failovers.inc();
        }
        if !self.is_session_lost {
            self.takeovers.adopt(&self.stored, &mut self.committer, now);
            if now >= self.next_forgetting {
                self.next_forgetting = now + FORGETTING_INTERVAL;
                self.forget_expirations();
            }
        }
    }

    /// Removes the counted expirations of services that are gone. The first replica in the order of the key does; if its request is lost, it
    /// tries again later.
    fn forget_expirations(&self) {
        let (own, now) = (self.committer.session().epoch, self.clock.now().wall);
        let is_forgettable = |(service, window): &(&ServiceName, &ExpirationWindow)| {
            let key = RegistryKey::Expirations((*service).clone());
            window.age(now) > EXPIRATION_MEMORY
                && self.registry.summary(service).is_none()
                && self.stored.sessions.rank(own, &key) == 0
        };
        let forgettable = self.stored.expired_services().filter(is_forgettable).take(MAX_FORGOTTEN);
        let nested = forgettable.map(|(service, _)| {
            let key = self.keys.encode(&RegistryKey::Expirations(service.clone()));
            EtcdOperation::Nested(EtcdTransaction {
                compares: vec![EtcdCompare::mod_revision(key.clone(), self.stored.expirations_guard(service))],
                success: vec![EtcdOperation::delete(key)],
                failure: vec![],
            })
        });
        let transaction = EtcdTransaction { compares: vec![], success: nested.collect(), failure: vec![] };
        if !transaction.success.is_empty() {
            let client = self.client.clone();
            tokio::spawn(async move { client.transact(&transaction).await });
        }
    }

    /// Stops or resumes expiry. Before it resumes, every lease gets a full TTL, because heartbeats may have been lost.
    fn freeze_if_unconfirmed(&mut self) {
        let since_start = self.clock.since_start();
        let is_confirmed = self.status.is_confirmed(since_start);
        if !is_confirmed && !self.status.is_frozen() {
            self.status.freeze(Some(since_start));
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
            self.status.freeze(None);
            tracing::info!("etcd is back");
        }
    }
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
