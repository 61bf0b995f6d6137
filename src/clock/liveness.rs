//! Liveness of the event loops of the server.
//!
//! The operating system regards a thread as running even if a defect blocks it. So each event loop reports several times a second that it makes
//! progress, and the supervisor of the process is notified only while all of them do.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use super::{Clock, millis};

/// Time between two reports of a monitored task.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// Event loops that are monitored now.
#[derive(Debug, Default)]
pub(super) struct Liveness(Mutex<Vec<Arc<EventLoop>>>);

/// Event loop of a thread, or of a task that runs as long as the server does.
#[derive(Debug)]
struct EventLoop {
    name: String,
    /// Milliseconds from the clock's origin to the last report.
    last_report: AtomicU64,
}

/// Name of an event loop and time since its last report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopStatus {
    /// Name as logs show it, such as `callboard-http`.
    pub name: String,
    /// Time since the loop last made progress.
    pub silent_for: Duration,
}

/// Reports the progress of one event loop. Dropping it ends the monitoring of that loop.
#[derive(Debug)]
pub struct LoopMonitor {
    clock: Arc<Clock>,
    event_loop: Arc<EventLoop>,
}

impl LoopMonitor {
    /// Reports that the loop has made progress.
    pub fn report(&self) {
        self.event_loop.last_report.store(millis(self.clock.since_start()), Relaxed);
    }
}

impl Drop for LoopMonitor {
    fn drop(&mut self) {
        self.clock.liveness.0.lock().retain(|other| !Arc::ptr_eq(other, &self.event_loop));
    }
}

impl Clock {
    /// Starts to monitor an event loop, whose first progress counts as made now.
    #[must_use]
    pub fn monitor(self: &Arc<Self>, name: impl Into<String>) -> LoopMonitor {
        let event_loop = Arc::new(EventLoop { name: name.into(), last_report: AtomicU64::new(0) });
        self.liveness.0.lock().push(Arc::clone(&event_loop));
        let monitor = LoopMonitor { clock: Arc::clone(self), event_loop };
        monitor.report();
        monitor
    }

    /// Runs a task and monitors it. The reports are part of the task, so that they stop when the task blocks its thread, on any thread of the runtime.
    pub async fn monitored<T>(self: Arc<Self>, name: &'static str, task: impl Future<Output = T>) -> T {
        let monitor = self.monitor(name);
        let mut task = pin!(task);
        let mut reports = interval(REPORT_INTERVAL);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                output = &mut task => return output,
                _ = reports.tick() => monitor.report(),
            }
        }
    }

    /// The monitored event loops, in the order in which they began.
    #[must_use]
    pub fn event_loops(&self) -> Vec<LoopStatus> {
        let now = self.since_start();
        let status = |event_loop: &Arc<EventLoop>| LoopStatus {
            name: event_loop.name.clone(),
            silent_for: now.saturating_sub(Duration::from_millis(event_loop.last_report.load(Relaxed))),
        };
        self.liveness.0.lock().iter().map(status).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{Receiver, channel},
        thread,
    };

    use super::*;

    fn silent_for(clock: &Clock, name: &str) -> Option<Duration> {
        clock.event_loops().into_iter().find(|status| status.name == name).map(|status| status.silent_for)
    }

    #[tokio::test(start_paused = true)]
    async fn silent_loop_is_named_until_its_monitor_is_dropped() {
        let clock = Arc::new(Clock::new(0));
        let (turns, stands) = (clock.monitor("turns"), clock.monitor("stands"));
        for _ in 0..5 {
            tokio::time::advance(Duration::from_secs(1)).await;
            turns.report();
        }
        assert_eq!(
            (silent_for(&clock, "turns"), silent_for(&clock, "stands")),
            (Some(Duration::ZERO), Some(Duration::from_secs(5)))
        );
        drop(stands);
        assert_eq!(silent_for(&clock, "stands"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_monitored_task_reports() {
        let clock = Arc::new(Clock::new(0));
        let task = tokio::spawn(Arc::clone(&clock).monitored("idle", std::future::pending::<()>()));
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(silent_for(&clock, "idle").unwrap() <= REPORT_INTERVAL);
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(silent_for(&clock, "idle"), None);
    }

    /// A task blocks one of two threads. The other thread continues, and the blocked task is found nevertheless.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn task_that_blocks_one_thread_of_a_runtime_is_silent() {
        let clock = Arc::new(Clock::new(0));
        let (unblock, blocked): (_, Receiver<()>) = channel();
        let blocks = tokio::spawn(Arc::clone(&clock).monitored("blocks", async move { blocked.recv().unwrap() }));
        let turns = tokio::spawn(Arc::clone(&clock).monitored("turns", std::future::pending::<()>()));
        let waiting = Arc::clone(&clock);
        let seen = thread::spawn(move || {
            while silent_for(&waiting, "blocks").is_none_or(|silent| silent < 3 * REPORT_INTERVAL) {
                thread::park_timeout(Duration::from_millis(10));
            }
            silent_for(&waiting, "turns")
        });
        assert!(tokio::task::spawn_blocking(|| seen.join().unwrap()).await.unwrap().unwrap() < 3 * REPORT_INTERVAL);
        unblock.send(()).unwrap();
        blocks.await.unwrap();
        turns.abort();
    }
}
