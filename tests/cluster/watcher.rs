//! Watchers that resume at another replica when their replica fails or sends nothing. Some of them also move every few seconds.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{heartbeat_client::or_late, test_cluster::ReplicaAddresses, work::LIVE};
use crate::harness::{Filter, Random, Reader, Scope, Wall, wall, within};

/// Time without a message after which a watcher goes to another replica. Something changes five times a second.
const MAX_SILENCE: Duration = Duration::from_secs(3);
/// Time in which a replica has to open a stream.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);
/// Range of the time that a moving watcher stays at a replica, in milliseconds.
const STAYS_MS: (u64, u64) = (500, 4_000);

/// Movement between replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Moves only when its replica fails or sends nothing.
    Stays,
    /// Moves every few seconds as well.
    Moves,
}

/// Watcher of everything.
#[derive(Debug)]
pub struct ClusterWatcher {
    replicas: ReplicaAddresses,
    replica: usize,
    name: String,
    habit: Habit,
    random: Random,
    /// Instances that are there from the beginning.
    expected: Arc<[String]>,
}

impl ClusterWatcher {
    pub fn new(
        replicas: &ReplicaAddresses,
        replica: usize,
        habit: Habit,
        random: Random,
        expected: &Arc<[String]>,
    ) -> Self {
        let name = format!("watcher {replica} ({habit:?})");
        Self { replicas: replicas.clone(), replica, name, habit, random, expected: Arc::clone(expected) }
    }

    /// Watches until it has the revision of the goal. Counts itself as ready once it has all expected instances.
    pub async fn run(mut self, mut goal: watch::Receiver<Option<u64>>, ready: Arc<watch::Sender<usize>>) -> Reader {
        let client = self.replicas.client(self.replica);
        let opening = Reader::open(&client, &self.name, Scope::Everything, Filter::NONE);
        let mut reader = within("the first stream", opening).await;
        let (mut is_ready, mut leaves) = (false, self.next_move());
        loop {
            if goal.borrow_and_update().is_some_and(|newest| reader.view.revision >= newest) {
                return reader;
            }
            if !is_ready && self.expected.iter().all(|id| reader.view.get(LIVE, id).is_some()) {
                ready.send_modify(|ready| *ready += 1);
                is_ready = true;
            }
            let read = tokio::select! {
                message = or_late(MAX_SILENCE, reader.message()) => message.map(drop),
                Ok(()) = goal.changed() => Ok(()),
            };
            if read.is_err() || wall() > leaves {
                self.resume(&mut reader).await;
                leaves = self.next_move();
            }
        }
    }

    fn next_move(&mut self) -> Wall {
        match self.habit {
            Habit::Stays => Wall::MAX,
            Habit::Moves => wall() + STAYS_MS.0 + self.random.below(STAYS_MS.1 - STAYS_MS.0),
        }
    }

    /// Resumes at the next replica that answers.
    async fn resume(&mut self, reader: &mut Reader) {
        loop {
            self.replica += 1;
            reader.move_to(&self.replicas.client(self.replica));
            if let Ok(Ok(())) = timeout(OPEN_PATIENCE, reader.reopen()).await {
                return;
            }
            sleep(self.random.millis(20, 100)).await;
        }
    }
}
