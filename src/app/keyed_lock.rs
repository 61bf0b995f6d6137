//! One lock for each key: writes about the same node or the same id run one after the other.

use std::{hash::Hash, sync::Arc};

use dashmap::DashMap;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// Locks by key. A key that is neither held nor waited for takes no memory.
#[derive(Debug)]
pub(super) struct KeyedLock<K: Eq + Hash>(DashMap<K, Arc<Mutex<()>>>);

impl<K: Eq + Hash> Default for KeyedLock<K> {
    fn default() -> Self {
        Self(DashMap::new())
    }
}

impl<K: Eq + Hash + Clone> KeyedLock<K> {
    /// Waits until the key is free, and holds it until the guard is dropped. Waiting callers get the key in order.
    pub(super) async fn lock(self: &Arc<Self>, key: K) -> KeyGuard<K> {
        let lock = Arc::clone(&*self.0.entry(key.clone()).or_default());
        let mut guard = KeyGuard { locks: Arc::clone(self), key, lock: Arc::clone(&lock), held: None };
        guard.held = Some(lock.lock_owned().await);
        guard
    }
}

/// Exclusive right to write what a key stands for.
#[derive(Debug)]
pub(super) struct KeyGuard<K: Eq + Hash> {
    locks: Arc<KeyedLock<K>>,
    key: K,
    lock: Arc<Mutex<()>>,
    /// `None` while another caller holds the key.
    held: Option<OwnedMutexGuard<()>>,
}

impl<K: Eq + Hash> Drop for KeyGuard<K> {
    fn drop(&mut self) {
        self.held.take();
        // Waiting callers have a copy of the lock, too. As long as there are some, the lock stays in the map.
        self.locks.0.remove_if(&self.key, |_, lock| Arc::ptr_eq(lock, &self.lock) && Arc::strong_count(lock) == 2);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn keyed_lock_serves_callers_in_order_and_keeps_no_free_key() {
        let locks = Arc::new(KeyedLock::default());
        let first = locks.lock("a").await;
        let _another = locks.lock("b").await;
        assert!(timeout(Duration::from_millis(20), locks.lock("a")).await.is_err());
        let waiting = tokio::spawn({
            let locks = Arc::clone(&locks);
            async move { locks.lock("a").await }
        });
        tokio::task::yield_now().await;
        drop(first);
        let second = waiting.await.unwrap();
        assert!(timeout(Duration::from_millis(20), locks.lock("a")).await.is_err());
        drop(second);
        assert_eq!(locks.0.len(), 1, "only the key that is still held");
    }
}
