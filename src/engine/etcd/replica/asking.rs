//! Requests to other replicas to release instances, and reads of etcd's newest revision for consistent reads and deregistrations.

use super::{EtcdReplica, Reply};
use crate::engine::{
    EngineError, PendingCommand,
    etcd::{batch::QueuedRequest, loading::newest_revision},
};

/// Deregistrations that would change nothing, and whether this replica has all changes.
pub(super) type Confirmation = (Vec<QueuedRequest>, Result<(), EngineError>);

impl EtcdReplica {
    /// Begins to ask the holders of instances that other boots register here, if there are any.
    pub(super) fn ask_for_release(&mut self) -> Option<Reply<()>> {
        let (request, client) = (self.committer.release_request()?, self.client.clone());
        Some(Box::pin(async move {
            if let Err(error) = client.transact(&request).await {
                tracing::debug!(%error, "a request to release instances was not confirmed");
            }
        }))
    }

    /// Begins to wait until this replica has all changes, if deregistrations would change nothing.
    pub(super) fn confirm_deregistrations(&mut self) -> Option<Reply<Confirmation>> {
        let deregistrations = self.committer.take_unconfirmed();
        if deregistrations.is_empty() {
            return None;
        }
        let (sender, confirmed) = PendingCommand::waiting();
        self.readers.synchronize(sender, self.clock.since_start());
        Some(Box::pin(async move { (deregistrations, confirmed.await) }))
    }

    /// Takes the newest revision of etcd, or that it was not read.
    pub(super) fn take_newest(&mut self, revision: Option<u64>) {
        if self.readers.take_revision(revision.map(|revision| self.meta.with_offset(revision))) {
            // Where nothing is changing, only progress tells that this replica has everything.
            self.progress.notify_one();
        }
    }

    /// Begins to read the newest revision of etcd, if readers wait for it.
    pub(super) fn read_newest(&mut self) -> Option<Reply<Option<u64>>> {
        let begins = self.readers.begin_read();
        begins
            .then(|| Box::pin(newest_revision(self.client.clone(), self.keys.clone(), self.meta)) as Reply<Option<u64>>)
    }
}
