//! Turns: what is registered or changed under one id is so one after the other, so that an id that moves leaves nothing behind.

use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::model::InstanceId;

/// Those who register, by id.
#[derive(Debug, Default)]
pub(super) struct Turns(DashMap<InstanceId, Arc<Mutex<()>>>);

impl Turns {
    /// Waits until nobody else registers under this id, and has others wait until it is dropped.
    pub(super) async fn take(self: &Arc<Self>, id: &InstanceId) -> Turn {
        let lock = Arc::clone(&*self.0.entry(id.clone()).or_default());
        let mut turn = Turn { turns: Arc::clone(self), id: id.clone(), lock: Arc::clone(&lock), held: None };
        turn.held = Some(lock.lock_owned().await);
        turn
    }
}

/// The turn of one who registers.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    id: InstanceId,
    lock: Arc<Mutex<()>>,
    /// `None`: it has not come yet.
    held: Option<OwnedMutexGuard<()>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.held.take();
        // Whoever waits, or is next, holds the lock too. Then it stays for those who come.
        self.turns.0.remove_if(&self.id, |_, lock| Arc::ptr_eq(lock, &self.lock) && Arc::strong_count(lock) == 2);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn one_after_the_other_and_nothing_is_left() {
        let turns = Arc::new(Turns::default());
        let id = |id: &str| InstanceId::parse(id).unwrap();
        let first = turns.take(&id("a")).await;
        let _another = turns.take(&id("b")).await;
        assert!(timeout(Duration::from_millis(20), turns.take(&id("a"))).await.is_err());
        let waiting = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { turns.take(&InstanceId::parse("a").unwrap()).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        let second = waiting.await.unwrap();
        assert!(timeout(Duration::from_millis(20), turns.take(&id("a"))).await.is_err());
        drop(second);
        assert_eq!(turns.0.len(), 1, "b's");
    }
}
