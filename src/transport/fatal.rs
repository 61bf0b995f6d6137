//! What must not end while the server runs.
//!
//! A defect in one stream ends that stream. One in a hub, in expiry or in the acceptor would leave a registry that looks alive
//! and is not: better to stop, so that whoever supervises the process starts another.

use tokio::{sync::mpsc, task::JoinSet};

/// Rung when the server cannot go on.
#[derive(Debug, Clone)]
pub struct FatalReporter(mpsc::Sender<String>);

/// Hears the alarm.
#[derive(Debug)]
pub struct FatalListener(mpsc::Receiver<String>);

impl FatalReporter {
    /// An alarm, and who hears it.
    #[must_use]
    pub fn new() -> (Self, FatalListener) {
        let (alarm, alarmed) = mpsc::channel(1);
        (Self(alarm), FatalListener(alarmed))
    }

    /// Runs a task that must not end, and rings when it does, also by a panic. Dropping this ends the task.
    pub async fn guard(self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let mut one = JoinSet::new();
        one.spawn(task);
        one.join_next().await;
        self.ring(format!("{name} has ended, which is a defect: start the registry again and report it"));
    }

    /// Says why the server cannot go on.
    pub fn ring(&self, why: String) {
        // One alarm is enough.
        let _ = self.0.try_send(why);
    }
}

impl FatalListener {
    /// Why the server cannot go on. Never, while it can.
    pub async fn heard(&mut self) -> String {
        match self.0.recv().await {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_heard() {
        let (alarm, mut alarmed) = FatalReporter::new();
        let quiet = tokio::spawn(alarm.clone().guard("quiet", std::future::pending()));
        tokio::spawn(alarm.guard("loud", async { panic!("a defect") }));
        assert!(alarmed.heard().await.starts_with("loud has ended"));
        quiet.abort();
    }
}
