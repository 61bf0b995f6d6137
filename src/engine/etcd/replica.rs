//! Replica: the task that owns everything the engine has, and waits for requests, for the watch, for etcd's replies and for time.

mod asking;
mod comparing;
mod resetting;
mod sending;
mod starting;
mod upkeep;

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::{
    sync::{
        Notify,
        mpsc::{self, UnboundedReceiver},
    },
    task::JoinHandle,
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tokio_stream::{StreamExt, StreamMap};

use asking::Confirmation;
use comparing::ReadPage;
use resetting::{BegunSession, NewHistory};
use starting::renew;

use super::{
    EtcdSettings,
    applier::{AppliedBatch, Applier},
    committer::Committer,
    comparison::Comparison,
    follower::Followed,
    keys::KeySpace,
    loading::ReloadError,
    own_session::RENEWAL_INTERVAL,
    registry_meta::RegistryMeta,
    snapshot::batch_with_offset,
    status::ReplicaStatus,
    stored_keys::StoredKeys,
    takeovers::Takeovers,
    waiting_readers::WaitingReaders,
};
use crate::{
    clock::Clock,
    engine::{OutcomeSender, write_request::WriteRequest},
    etcd::{EtcdClient, EtcdError, EtcdErrorKind, EtcdTransactionResult},
    metrics::EtcdMetrics,
    model::{InstanceId, LeaseId, Revision, ServiceName},
    registry::{ClockReading, Registry, SessionEpoch},
};

/// Interval at which time-outs and orphans are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Time after which a batch whose reply was lost is sent again.
const RESEND_DELAY: Duration = Duration::from_millis(100);
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
type Reply<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Replies of etcd that the replica waits for.
#[derive(Default)]
struct AwaitedReplies {
    /// Replies to batches, by lane.
    batches: StreamMap<usize, NextBatchReply>,
    renewal: Option<Reply<Result<bool, EtcdError>>>,
    session: Option<Reply<BegunSession>>,
    history: Option<Reply<Result<NewHistory, ReloadError>>>,
    page: Option<Reply<ReadPage>>,
    /// Reply to a request to release instances.
    release: Option<Reply<()>>,
    /// Newest revision of etcd.
    newest: Option<Reply<Option<u64>>>,
    confirmation: Option<Reply<Confirmation>>,
}

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
    comparison: Option<Comparison>,
    next_comparison: Duration,
    /// Evidence that the contents of etcd were replaced.
    replaced: Option<String>,
    /// Time for which readers wait after that.
    settle: Duration,
    meta: RegistryMeta,
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
    /// Registry of the replica.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Works until all senders are dropped, or the contents of etcd are replaced by some that this version cannot use.
    pub async fn run(mut self, mut inbox: UnboundedReceiver<ReplicaMessage>) -> Result<(), String> {
        let mut awaited = AwaitedReplies::default();
        let mut ticks = ticking(TICK);
        let mut renewals = ticking(RENEWAL_INTERVAL);
        let mut closing: Option<Duration> = None;
        loop {
            self.reset_if_replaced(&mut awaited);
            self.send_requests(&mut awaited);
            if closing.is_some_and(|end| self.committer.is_idle() || self.clock.since_start() > end) {
                self.close().await;
                return Ok(());
            }
            tokio::select! {
                biased;
                followed = self.followed.recv(), if awaited.history.is_none() => {
                    self.take_followed(followed.ok_or("the task that watches etcd has ended")?);
                }
                Some((lane, (_, epoch, reply))) = awaited.batches.next(), if !awaited.batches.is_empty() => {
                    if let Some(again) = self.take_reply(lane, epoch, reply) {
                        awaited.batches.insert(lane, again);
                    }
                }
                message = inbox.recv(), if closing.is_none() => match message {
                    Some(message) => self.take_message(message),
                    None => closing = Some(self.clock.since_start() + CLOSE_TIMEOUT),
                },
                () = wait_for(&mut awaited.release) => awaited.release = None,
                renewed = wait_for(&mut awaited.renewal) => {
                    awaited.renewal = None;
                    self.take_renewal(renewed);
                }
                revision = wait_for(&mut awaited.newest) => {
                    awaited.newest = None;
                    self.take_newest(revision);
                }
                (deregistrations, confirmed) = wait_for(&mut awaited.confirmation) => {
                    awaited.confirmation = None;
                    self.committer.confirm(deregistrations, &confirmed);
                }
                session = wait_for(&mut awaited.session) => {
                    awaited.session = None;
                    // A late reply to a renewal of the earlier session says nothing about the new one.
                    awaited.renewal = None;
                    self.take_session(session)?;
                }
                history = wait_for(&mut awaited.history) => {
                    awaited.history = None;
                    self.take_history(history, &mut awaited)?;
                }
                read = wait_for(&mut awaited.page) => awaited.page = self.take_page(read),
                _ = renewals.tick() => self.renew_or_begin_session(&mut awaited),
                _ = ticks.tick() => {
                    self.tick();
                    awaited.page = awaited.page.take().or_else(|| self.begin_comparison());
                }
            }
        }
    }

    fn renew_or_begin_session(&mut self, awaited: &mut AwaitedReplies) {
        if self.is_session_lost && awaited.session.is_none() && awaited.history.is_none() {
            awaited.session = Some(self.request_session());
        } else if awaited.renewal.is_none() && !self.is_session_lost {
            awaited.renewal = Some(self.renew());
        }
    }

    fn take_message(&mut self, message: ReplicaMessage) {
        let now = self.clock.since_start();
        match message {
            ReplicaMessage::Write(request) => self.committer.push(request, now),
            // The next heartbeat after the return of etcd claims the instance. Until then its holder may get another session, and the claim
            // would change nothing.
            ReplicaMessage::Claim(..) if self.status.is_frozen() => {}
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

    fn take_followed(&mut self, followed: Followed) {
        let now = self.clock.now();
        if !matches!(followed, Followed::Interrupted(_) | Followed::HistoryReplaced(_)) {
            self.status.confirm_watch(self.clock.since_start());
        }
        let applied = match followed {
            Followed::Batch(batch) => self.applier.apply(batch_with_offset(batch, self.meta), &mut self.stored, now),
            Followed::Snapshot(snapshot, reason) => {
                tracing::warn!(revision = snapshot.revision, reason, "this replica reads its state again");
                self.metrics.reloads.inc();
                self.comparison = None;
                self.applier.reconcile(snapshot.with_offset(self.meta), &mut self.stored, now)
            }
            Followed::Progress(revision) => {
                self.readers.received(self.meta.with_offset(revision));
                return;
            }
            Followed::Interrupted(error) => {
                tracing::debug!(%error, "the watch of etcd is being resumed");
                self.note_error(error);
                return;
            }
            Followed::HistoryReplaced(error) => {
                self.replaced = Some(format!("it has lost revisions that this replica has applied: {error}"));
                return;
            }
        };
        self.take_applied(&applied, now);
    }

    fn take_applied(&mut self, applied: &AppliedBatch, now: ClockReading) {
        self.metrics.applied_changes.inc_by(applied.changed.len() as u64);
        self.committer.registry_changed();
        if applied.other_registry {
            self.replaced = Some("it has another incarnation of the registry, or none, or an earlier state".to_owned());
            return;
        }
        self.readers.applied(applied.etcd_revision);
        if let Some(comparison) = &mut self.comparison {
            let removed = applied.changed.iter().filter(|(_, (entry, _))| entry.is_none());
            removed.for_each(|(key, _)| comparison.removed(key));
        }
        for note in &applied.notes {
            self.committer.resolve(*note, applied, self.clock.since_start());
        }
        self.committer.take_releases(applied, now);
        let own = self.committer.session().epoch;
        for epoch in &applied.ended_sessions {
            if *epoch == own {
                self.lose_session("etcd has deleted it");
            } else {
                self.takeovers.session_ended(*epoch, own, &self.stored, now);
            }
        }
        if applied.is_snapshot {
            self.takeovers.sessions_ended_unseen(own, &self.stored, now);
        } else {
            self.takeovers.take_applied(applied, own, &self.stored, now);
        }
    }

    fn renew(&self) -> Reply<Result<bool, EtcdError>> {
        let lease = self.committer.session().lease;
        Box::pin(renew(self.client.clone(), lease, Arc::clone(&self.clock), Arc::clone(&self.status)))
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
