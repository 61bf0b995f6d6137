//! New sessions of a running replica, and the reset after the contents of etcd were replaced.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{AwaitedReplies, EtcdReplica, RESEND_DELAY, Reply, Takeovers, starting::renew_for_ever};
use crate::{
    engine::etcd::{
        keys::RegistryKey,
        loading::{ReloadError, agree_on_incarnation},
        own_session::OwnSession,
        position::CommitPosition,
        registry_meta::RegistryMeta,
        snapshot::KeySnapshot,
    },
    etcd::EtcdRange,
};

/// Contents of etcd that have replaced those before.
#[derive(Debug)]
pub(super) struct NewHistory {
    meta: RegistryMeta,
    session: OwnSession,
    snapshot: KeySnapshot,
}

/// Session that was begun, the time at which that was requested, and the meta value that etcd has.
pub(super) type BegunSession = Result<(OwnSession, Duration, Option<RegistryMeta>), ReloadError>;

impl EtcdReplica {
    /// Begins a reset if the contents of etcd were replaced.
    pub(super) fn reset_if_replaced(&mut self, awaited: &mut AwaitedReplies) {
        if let Some(evidence) = self.replaced.take()
            && awaited.history.is_none()
        {
            tracing::error!(evidence, "the contents of etcd were replaced: this replica reads them again");
            self.lose_session("the contents of etcd were replaced");
            awaited.session = None;
            awaited.history = Some(self.request_history(Duration::ZERO));
        }
    }

    /// Continues with the new contents of etcd, or tries again to read them.
    pub(super) fn take_history(
        &mut self,
        history: Result<NewHistory, ReloadError>,
        awaited: &mut AwaitedReplies,
    ) -> Result<(), String> {
        match history {
            Ok(history) => {
                // Callers wait for the confirmation.
                let confirmation = awaited.confirmation.take();
                *awaited = AwaitedReplies { confirmation, ..AwaitedReplies::default() };
                // The newest revision that was read may be of the earlier contents.
                self.readers.take_revision(None);
                self.enter(history);
            }
            Err(ReloadError::Meta(error)) => return Err(error.to_string()),
            Err(ReloadError::Etcd(error)) => {
                tracing::warn!(%error, "the new contents of etcd could not be read yet");
                awaited.history = Some(self.request_history(RESEND_DELAY));
            }
        }
        Ok(())
    }

    /// Begins another session, and reads the meta value, which tells whether the contents are still those of this replica.
    pub(super) fn request_session(&self) -> Reply<BegunSession> {
        let (client, keys, replica) = (self.client.clone(), self.keys.clone(), self.settings.session.clone());
        let earlier = self.committer.session().key.clone();
        let sent = self.clock.since_start();
        Box::pin(async move {
            let session = OwnSession::begin(&client, &keys, &replica, Some(&earlier)).await?;
            let meta = client.range(EtcdRange::key(keys.encode(&RegistryKey::Meta))).await?.entries.into_iter().next();
            let meta = meta.map(|entry| RegistryMeta::decode(&entry.value)).transpose()?;
            Ok((session, sent, meta))
        })
    }

    /// Continues with a new session, and claims what this replica held with the earlier one.
    pub(super) fn take_session(&mut self, session: BegunSession) -> Result<(), String> {
        let (session, sent, meta) = match session {
            Ok(begun) => begun,
            Err(ReloadError::Meta(error)) => return Err(error.to_string()),
            Err(ReloadError::Etcd(error)) => {
                tracing::debug!(%error, "no new session was begun");
                return Ok(());
            }
        };
        let earlier = self.committer.session().epoch;
        self.use_session(session);
        if meta != Some(self.meta) {
            self.replaced = Some("it has another incarnation of the registry, or none".to_owned());
            return Ok(());
        }
        self.status.confirm_session(sent);
        self.takeovers.claim_all_of(earlier, &self.stored, &mut self.committer, self.clock.now());
        Ok(())
    }

    fn use_session(&mut self, session: OwnSession) {
        tracing::info!(epoch = session.epoch.0, "this replica has a new session in etcd");
        self.is_session_lost = false;
        self.registry.order().set_session(session.epoch);
        self.committer.set_session(session);
    }

    /// Agrees with the other replicas on an incarnation of the new contents of etcd, begins it, and reads them.
    fn request_history(&self, delay: Duration) -> Reply<Result<NewHistory, ReloadError>> {
        let (client, keys, replica) = (self.client.clone(), self.keys.clone(), self.settings.session.clone());
        let (earlier, known) = (self.committer.session().key.clone(), self.meta);
        let (registry, clock, settle) = (Arc::clone(&self.registry), Arc::clone(&self.clock), self.settle);
        let status = Arc::clone(&self.status);
        Box::pin(async move {
            sleep(delay).await;
            let now = clock.now();
            let last = CommitPosition::etcd_revision_of(registry.applied());
            let meta = agree_on_incarnation(&client, &keys, (known, last), now.wall).await?;
            if registry.incarnation() != meta.incarnation {
                // Readers wait before the first change: they keep what they have until instances have registered again.
                registry.settle(now.lease, settle);
                registry.order().begin_incarnation(meta.incarnation);
                registry.notify_incarnation();
            }
            let sent = clock.since_start();
            let session = OwnSession::begin(&client, &keys, &replica, Some(&earlier)).await?;
            status.confirm_session(sent);
            let snapshot = tokio::select! {
                read = KeySnapshot::read(&client, &keys, None) => read?,
                never = renew_for_ever(client.clone(), session.lease, clock, status) => match never {},
            };
            Ok(NewHistory { meta, session, snapshot })
        })
    }

    /// Continues with the new contents of etcd.
    fn enter(&mut self, history: NewHistory) {
        let NewHistory { meta, session, snapshot } = history;
        let (now, from) = (self.clock.now(), snapshot.revision + 1);
        self.metrics.resets.inc();
        self.meta = meta;
        self.replaced = None;
        self.comparison = None;
        self.takeovers = Takeovers::new(Arc::clone(&self.registry), self.metrics.clone());
        self.committer.set_meta(meta);
        self.use_session(session);
        self.follow(Some(from));
        let applied = self.applier.replace(meta, snapshot.with_offset(meta), &mut self.stored, now);
        self.status.confirm_watch(self.clock.since_start());
        // Instances could not register before.
        self.registry.settle(now.lease, self.settle);
        self.take_applied(&applied, now);
        let instances = self.registry.instance_count();
        tracing::warn!(instances, "this replica continues with the new contents of etcd: readers start over");
    }
}
