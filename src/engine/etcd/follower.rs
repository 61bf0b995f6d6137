//! Follower: the task that watches the keys of the registry, and resumes the watch when it ends.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};

use super::{keys::KeySpace, snapshot::KeySnapshot};
use crate::etcd::{EtcdClient, EtcdError, EtcdErrorKind, EtcdRevisionBatch, EtcdWatchEvent};

/// Time between two attempts to resume the watch.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Maximum number of messages that wait for the replica.
pub const MAX_FOLLOWED: usize = 64;

/// Message of the follower.
#[derive(Debug)]
pub enum Followed {
    /// All changes of one revision of etcd.
    Batch(EtcdRevisionBatch),
    /// The member has answered: there is no change up to this revision of etcd that was not sent.
    Progress(u64),
    /// The watch has ended and is being resumed.
    Interrupted(EtcdError),
    /// Snapshot of all keys, with the reason for which it was read instead of the changes.
    Snapshot(KeySnapshot, &'static str),
    /// etcd's newest revision is older than one that was applied: its history was replaced, and following ends.
    HistoryReplaced(EtcdError),
}

/// Watches from a revision on until the receiver is dropped. `None`: reads a snapshot first. Asks for progress when `progress` is
/// notified.
pub async fn follow(
    client: EtcdClient,
    keys: KeySpace,
    from: Option<u64>,
    replica: mpsc::Sender<Followed>,
    progress: Arc<Notify>,
) {
    let mut from = match from {
        Some(from) => from,
        None => loop {
            match KeySnapshot::read(&client, &keys, None).await {
                Ok(snapshot) => {
                    let from = snapshot.revision + 1;
                    let snapshot = Followed::Snapshot(snapshot, "it differs from etcd, which is a defect");
                    if replica.send(snapshot).await.is_err() {
                        return;
                    }
                    break from;
                }
                Err(error) => {
                    if replica.send(Followed::Interrupted(error)).await.is_err() {
                        return;
                    }
                    sleep(RETRY_DELAY).await;
                }
            }
        },
    };
    loop {
        let Err(error) = follow_once(&client, &keys, &mut from, &replica, &progress).await else { return };
        let message = match error.kind() {
            EtcdErrorKind::Compacted { .. } => match KeySnapshot::read(&client, &keys, None).await {
                Ok(snapshot) => {
                    from = snapshot.revision + 1;
                    Followed::Snapshot(snapshot, "etcd has compacted changes that it had not seen")
                }
                Err(error) => Followed::Interrupted(error),
            },
            EtcdErrorKind::FutureRevision { .. } => Followed::HistoryReplaced(error),
            EtcdErrorKind::Unreachable
            | EtcdErrorKind::Disconnected
            | EtcdErrorKind::TimedOut
            | EtcdErrorKind::Stalled
            | EtcdErrorKind::NoLeader
            | EtcdErrorKind::Unavailable
            | EtcdErrorKind::Overloaded
            | EtcdErrorKind::LeaseNotFound
            | EtcdErrorKind::SpaceExceeded
            | EtcdErrorKind::AuthenticationFailed
            | EtcdErrorKind::TokenExpired
            | EtcdErrorKind::PermissionDenied
            | EtcdErrorKind::TooLarge
            | EtcdErrorKind::Rejected
            | EtcdErrorKind::InvalidAnswer
            | EtcdErrorKind::Other => Followed::Interrupted(error),
        };
        let ends = matches!(message, Followed::HistoryReplaced(_));
        if replica.send(message).await.is_err() || ends {
            return;
        }
        sleep(RETRY_DELAY).await;
    }
}

/// Watches until the watch fails. Returns `Ok` once the receiver is dropped.
async fn follow_once(
    client: &EtcdClient,
    keys: &KeySpace,
    from: &mut u64,
    replica: &mpsc::Sender<Followed>,
    progress: &Notify,
) -> Result<(), EtcdError> {
    let mut watch = client.watch(keys.prefix().to_owned(), *from).await?;
    loop {
        let event = tokio::select! {
            biased;
            event = watch.next() => event?,
            () = progress.notified() => {
                watch.ask_progress();
                continue;
            }
        };
        let message = match event {
            EtcdWatchEvent::Batch(batch) => {
                *from = batch.revision + 1;
                Followed::Batch(batch)
            }
            EtcdWatchEvent::Progress { revision } => Followed::Progress(revision),
        };
        if replica.send(message).await.is_err() {
            return Ok(());
        }
    }
}
