//! Start of a replica: its session, the registry as etcd has it, and the changes since.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};

use super::{EtcdReplica, comparing, ticking};
use crate::{
    clock::Clock,
    engine::etcd::{
        EtcdDependencies, EtcdEngineError, EtcdSettings,
        applier::Applier,
        committer::Committer,
        follower::{MAX_FOLLOWED, follow},
        keys::KeySpace,
        loading::{START_TIMEOUT, read_earlier, read_meta, until_answered},
        own_session::{OwnSession, RENEWAL_INTERVAL},
        position::CommitPosition,
        registry_meta::RegistryMeta,
        snapshot::KeySnapshot,
        status::ReplicaStatus,
        stored_keys::StoredKeys,
        takeovers::Takeovers,
        waiting_readers::WaitingReaders,
    },
    etcd::{EtcdClient, EtcdError, EtcdLease},
    model::Incarnation,
    registry::Registry,
};

impl EtcdReplica {
    /// Reads the registry from etcd and begins a session.
    pub async fn start(
        settings: EtcdSettings,
        dependencies: EtcdDependencies,
        status: Arc<ReplicaStatus>,
    ) -> Result<Self, EtcdEngineError> {
        let EtcdDependencies { clock, listener, metrics, incarnation, settle } = dependencies;
        let client = EtcdClient::new(settings.options.clone())?;
        let keys = KeySpace::new(&settings.cluster);
        let ((meta, written), session, snapshot) =
            open(&client, &keys, &settings, (&clock, &status), incarnation).await?;
        let now = clock.now();
        let (from, snapshot) = (snapshot.revision + 1, snapshot.with_offset(meta));
        let start = CommitPosition::complete(snapshot.revision);
        let registry = Arc::new(Registry::new(meta.incarnation, start, now, listener));
        registry.order().set_start_revision(CommitPosition::complete(meta.with_offset(written)));
        registry.order().set_session(session.epoch);
        let mut stored = StoredKeys::new(Arc::clone(&status.replica_names));
        let mut applier = Applier::new(Arc::clone(&registry), keys.clone(), meta);
        applier.restore(snapshot, &mut stored, now);
        let (sender, followed) = mpsc::channel(MAX_FOLLOWED);
        let progress = Arc::<Notify>::default();
        let following = follow(client.clone(), keys.clone(), Some(from), sender, Arc::clone(&progress));
        let following = tokio::spawn(following);
        let replica = settings.session.replica.clone();
        let committer = Committer::new(
            Arc::clone(&registry),
            (keys.clone(), meta),
            Arc::clone(&status),
            metrics.clone(),
            replica,
            session,
        );
        let next_comparison = clock.since_start() + comparing::INTERVAL;
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
            comparison: None,
            next_comparison,
            replaced: None,
            settle,
            meta,
            is_session_lost: false,
            readers: WaitingReaders::default(),
            progress,
        };
        replica.catch_up().await?;
        Ok(replica)
    }

    /// Applies the changes up to the beginning of the session, which is renewed meanwhile.
    async fn catch_up(&mut self) -> Result<(), EtcdEngineError> {
        let lease = self.committer.session().lease;
        let renewing = renew_for_ever(self.client.clone(), lease, Arc::clone(&self.clock), Arc::clone(&self.status));
        tokio::select! {
            followed = self.follow_to_session() => followed?,
            never = renewing => match never {},
        }
        let own = self.committer.session().epoch;
        self.takeovers.sessions_ended_unseen(own, &self.stored, self.clock.now());
        Ok(())
    }

    /// Applies the changes up to the beginning of the session. Fails if there is none for [`START_TIMEOUT`].
    async fn follow_to_session(&mut self) -> Result<(), EtcdEngineError> {
        let goal = CommitPosition::complete(self.meta.with_offset(self.committer.session().epoch.0));
        let mut silence = pin!(sleep(START_TIMEOUT));
        while self.registry.applied() < goal {
            let before = self.registry.applied();
            tokio::select! {
                biased;
                followed = self.followed.recv() => self.take_followed(followed.ok_or(EtcdEngineError::Panicked)?),
                () = &mut silence => return Err(EtcdEngineError::CatchUp),
            }
            if let Some(evidence) = self.replaced.take() {
                return Err(EtcdEngineError::Replaced(evidence));
            }
            if self.registry.applied() > before {
                silence.set(sleep(START_TIMEOUT));
            }
        }
        Ok(())
    }
}

/// Begins a session, and reads the registry or creates it. The meta value comes with the revision of etcd at which it was written.
async fn open(
    client: &EtcdClient,
    keys: &KeySpace,
    settings: &EtcdSettings,
    (clock, status): (&Arc<Clock>, &Arc<ReplicaStatus>),
    incarnation: Incarnation,
) -> Result<((RegistryMeta, u64), OwnSession, KeySnapshot), EtcdEngineError> {
    let first = RegistryMeta::new(incarnation, clock.now().wall, None);
    let found = until_answered(START_TIMEOUT, || read_meta(client, keys, first)).await?;
    let (meta, written) = found.ok_or_else(|| EtcdEngineError::IncompleteImport(keys.prefix().to_owned()))?;
    let meta = RegistryMeta::decode(&meta)?;
    let began = clock.since_start();
    let session = until_answered(START_TIMEOUT, || OwnSession::begin(client, keys, &settings.session, None)).await?;
    status.confirm_session(began);
    let snapshot = tokio::select! {
        read = until_answered(START_TIMEOUT, || read_earlier(client, keys, session.epoch, written)) => read?,
        never = renew_for_ever(client.clone(), session.lease, Arc::clone(clock), Arc::clone(status)) => match never {},
    };
    status.confirm_watch(clock.since_start());
    Ok(((meta, written), session, snapshot))
}

/// Renews the session. Returns `false` if it has ended.
pub async fn renew(
    client: EtcdClient,
    lease: EtcdLease,
    clock: Arc<Clock>,
    status: Arc<ReplicaStatus>,
) -> Result<bool, EtcdError> {
    let sent = clock.since_start();
    let renewed = OwnSession::renew(client, lease).await;
    if matches!(renewed, Ok(true)) {
        status.confirm_session(sent);
    }
    renewed
}

/// Renews the session of a replica that reads the registry, because a large one takes longer than the TTL of the session. A session that
/// has ended is replaced once the registry is read.
pub(super) async fn renew_for_ever(
    client: EtcdClient,
    lease: EtcdLease,
    clock: Arc<Clock>,
    status: Arc<ReplicaStatus>,
) -> Infallible {
    let mut renewals = ticking(RENEWAL_INTERVAL);
    loop {
        renewals.tick().await;
        if let Err(error) = renew(client.clone(), lease, Arc::clone(&clock), Arc::clone(&status)).await {
            tracing::debug!(%error, "the session was not renewed");
        }
    }
}
