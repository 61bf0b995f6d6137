//! Fatal errors: the end of a task that must not end while the server runs.
//!
//! A defect in a stream ends only that stream. A defect in a notifier, in expiry or in an acceptor would leave a registry that looks alive and does not work.
//! So the process stops, and its supervisor starts it again.

use tokio::{sync::mpsc, task::JoinSet};

/// Reports that the server cannot continue.
#[derive(Debug, Clone)]
pub struct FatalReporter(mpsc::Sender<String>);

/// Receives the first fatal error.
#[derive(Debug)]
pub struct FatalListener(mpsc::Receiver<String>);

impl FatalReporter {
    /// Creates a reporter and its listener.
    #[must_use]
    pub fn new() -> (Self, FatalListener) {
        let (reporter, listener) = mpsc::channel(1);
        (Self(reporter), FatalListener(listener))
    }

    /// Runs a task that must not end, and reports its end, including a panic. Dropping the future aborts the task.
    pub async fn guard(self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let mut one = JoinSet::new();
        one.spawn(task);
        one.join_next().await;
        self.report(format!("{name} has ended, which is a defect: start the registry again and report it"));
    }

    /// Reports the reason why the server cannot continue.
    pub fn report(&self, reason: String) {
        // The first report is enough.
        let _ = self.0.try_send(reason);
    }
}

impl FatalListener {
    /// Waits for the reason why the server cannot continue.
    pub async fn reported(&mut self) -> String {
        match self.0.recv().await {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panic_of_a_guarded_task_is_reported() {
        let (reporter, mut listener) = FatalReporter::new();
        let quiet = tokio::spawn(reporter.clone().guard("quiet", std::future::pending()));
        tokio::spawn(reporter.guard("panics", async { panic!("a defect") }));
        assert!(listener.reported().await.starts_with("panics has ended"));
        quiet.abort();
    }
}
