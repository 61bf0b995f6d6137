//! Services of the clients, and the phase in which they write.

use std::time::Duration;

use tokio::sync::watch;

/// Service of the instances that send heartbeats.
pub const LIVE: &str = "live";
/// Service of one instance that changes all the time.
pub const TICKS: &str = "ticks";
/// Service of the writers.
pub const WRITTEN: &str = "written";
/// Service with one id, for which two programs compete.
pub const CONTESTED: &str = "contested";
/// All services.
pub const SERVICES: [&str; 4] = [LIVE, TICKS, WRITTEN, CONTESTED];

/// TTL of the instances of the Rust client.
pub const LIBRARY_TTL: Duration = Duration::from_secs(10);

/// Phase of the clients that write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkPhase {
    Working,
    /// No client starts a write.
    Paused,
    Over,
}

/// Phase, as a client sees it.
#[derive(Debug, Clone)]
pub struct Work(pub watch::Receiver<WorkPhase>);

impl Work {
    /// Waits until work may start. Returns `false` once it is over.
    pub async fn may_go_on(&mut self) -> bool {
        let phase = self.0.wait_for(|phase| *phase != WorkPhase::Paused).await;
        phase.is_ok_and(|phase| *phase == WorkPhase::Working)
    }

    /// Waits until work is over.
    pub async fn over(&mut self) {
        // An error means that the test has ended.
        let _ = self.0.wait_for(|phase| *phase == WorkPhase::Over).await;
    }
}
