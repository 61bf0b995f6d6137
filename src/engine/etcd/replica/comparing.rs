//! Regular comparison of the registry with etcd, at a low rate.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::sleep};

use super::{EtcdReplica, Reply};
use crate::{
    engine::etcd::{
        comparison::Comparison,
        follower::{MAX_FOLLOWED, follow},
        keys::RegistryKey,
        position::CommitPosition,
        snapshot::PAGE_KEYS,
    },
    etcd::{EtcdEntry, EtcdError, EtcdPages},
    random,
};

/// Minimum interval between two comparisons.
pub(super) const INTERVAL: Duration = Duration::from_mins(1);
/// Maximum random time that is added to the interval, so that replicas do not read at the same time.
const MAX_JITTER_MS: u64 = 20_000;
/// Time between two requests: 100,000 keys take 10 s.
const PAGE_DELAY: Duration = Duration::from_millis(200);
/// Time by which each page delays the next comparison. A comparison takes a twentieth of the time however many keys there are: for each
/// page, etcd looks at all keys that follow.
const PAGE_REST: Duration = Duration::from_secs(4);

/// Pages of keys, and the one that was read.
pub(super) type ReadPage = (EtcdPages, Result<Option<Vec<EtcdEntry>>, EtcdError>);

impl EtcdReplica {
    /// Begins a comparison if it is time for one.
    pub(super) fn begin_comparison(&mut self) -> Option<Reply<ReadPage>> {
        let now = self.clock.since_start();
        if now < self.next_comparison || self.is_session_lost || !self.status.is_confirmed(now) {
            return None;
        }
        self.next_comparison = now + INTERVAL + Duration::from_millis(random::u64() % MAX_JITTER_MS);
        let revision = CommitPosition::etcd_revision_of(self.registry.applied());
        self.comparison = Some(Comparison::new(revision));
        let revision = self.meta.without_offset(revision);
        Some(read_page(self.client.pages(self.keys.prefix().to_owned(), PAGE_KEYS, Some(revision)).keys_only()))
    }

    /// Compares a page, and returns the next one. After the last one, repairs what differs.
    pub(super) fn take_page(&mut self, (pages, page): ReadPage) -> Option<Reply<ReadPage>> {
        let mut comparison = self.comparison.take()?;
        match page {
            Ok(Some(entries)) => {
                self.next_comparison += PAGE_REST;
                for EtcdEntry { key, mod_revision, .. } in &entries {
                    if let Ok(key) = self.keys.decode(key) {
                        let mod_revision = self.meta.with_offset(*mod_revision);
                        comparison.compare(&key, mod_revision, &self.registry, &self.stored);
                    }
                }
                self.comparison = Some(comparison);
                Some(read_page(pages))
            }
            Ok(None) => {
                let (differences, named) = comparison.finish(&self.registry, &self.stored);
                self.metrics.differences.inc_by(differences as u64);
                if differences > 0 {
                    let keys = named.iter().map(RegistryKey::to_string).collect::<Vec<_>>().join(", ");
                    tracing::error!(differences, keys, "this replica differs from etcd: it reads its state again");
                    self.follow(None);
                }
                None
            }
            Err(error) => {
                tracing::debug!(%error, "the comparison with etcd was given up");
                None
            }
        }
    }

    /// Watches from a revision of etcd on, or reads the state first.
    pub(super) fn follow(&mut self, from: Option<u64>) {
        let (sender, followed) = mpsc::channel(MAX_FOLLOWED);
        self.following.abort();
        self.followed = followed;
        let progress = Arc::clone(&self.progress);
        self.following = tokio::spawn(follow(self.client.clone(), self.keys.clone(), from, sender, progress));
    }
}

fn read_page(mut pages: EtcdPages) -> Reply<ReadPage> {
    Box::pin(async move {
        sleep(PAGE_DELAY).await;
        let page = pages.next_page().await;
        (pages, page)
    })
}
