//! Calls without pause, from several tasks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::task::JoinSet;
use tonic::Status;

use crate::harness::within;

/// Calls that run until they are stopped.
#[derive(Debug)]
pub struct Load {
    tasks: JoinSet<()>,
    stopped: Arc<AtomicBool>,
    finished: Arc<AtomicU64>,
    outcomes: Arc<Mutex<Outcomes>>,
}

/// Results of calls.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// Number of calls by the instance that responded.
    pub by_instance: BTreeMap<String, u64>,
    pub failures: Vec<Status>,
}

impl Outcomes {
    fn add(&mut self, result: Result<String, Status>) {
        match result {
            Ok(id) => *self.by_instance.entry(id).or_default() += 1,
            Err(status) => self.failures.push(status),
        }
    }

    pub fn calls(&self) -> u64 {
        self.by_instance.values().sum()
    }

    /// Returns the number of responses of an instance.
    pub fn of(&self, id: &str) -> u64 {
        self.by_instance.get(id).copied().unwrap_or_default()
    }
}

impl Load {
    /// Starts tasks that each make one call after the other.
    pub fn start<F>(tasks: usize, call: impl Fn() -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = Result<String, Status>> + Send,
    {
        let (stopped, finished) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let outcomes = Arc::<Mutex<Outcomes>>::default();
        let mut set = JoinSet::new();
        for _ in 0..tasks {
            let (call, stopped, finished) = (call.clone(), Arc::clone(&stopped), Arc::clone(&finished));
            let outcomes = Arc::clone(&outcomes);
            set.spawn(async move {
                while !stopped.load(Ordering::Relaxed) {
                    let result = call().await;
                    outcomes.lock().unwrap().add(result);
                    finished.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            });
        }
        Self { tasks: set, stopped, finished, outcomes }
    }

    /// Waits until this number of further calls has finished.
    pub async fn more(&self, calls: u64) {
        let goal = self.finished.load(Ordering::Relaxed) + calls;
        within("calls", async {
            while self.finished.load(Ordering::Relaxed) < goal {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    /// Returns the results so far, and begins anew.
    pub fn take(&self) -> Outcomes {
        std::mem::take(&mut *self.outcomes.lock().unwrap())
    }

    /// Stops and returns the results since the last [`Load::take`].
    pub async fn stop(mut self) -> Outcomes {
        self.stopped.store(true, Ordering::Relaxed);
        within("the last calls", async { while self.tasks.join_next().await.is_some() {} }).await;
        self.take()
    }
}
