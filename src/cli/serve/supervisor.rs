//! Notifications to a service manager (systemd): ready, alive, reloading, stopping. Without one they do nothing.

use std::time::Duration;

use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{MissedTickBehavior, interval},
};

use crate::server::LivenessProbe;

/// Maximum interval between status messages. A watchdog may shorten it.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// Service manager that started this process, if there is one.
#[derive(Debug)]
pub(super) struct ServiceManager {
    is_present: bool,
    /// Time without a message after which the manager ends this process.
    watchdog: Option<Duration>,
}

/// Task that sends messages to the service manager until it is dropped.
#[derive(Debug)]
pub(super) struct ServiceManagerTask(JoinSet<()>);

impl ServiceManager {
    /// Reads the variables that the service manager sets.
    pub(super) fn from_environment() -> Self {
        Self { is_present: std::env::var_os("NOTIFY_SOCKET").is_some(), watchdog: watchdog() }
    }

    /// Reports that the listeners are open, and from then on that the process is alive, as long as all parts of the server
    /// make progress.
    pub(super) fn ready(&self, liveness: LivenessProbe) -> ServiceManagerTask {
        let mut task = JoinSet::new();
        if self.is_present {
            notify(&format!("READY=1\nSTATUS={}", liveness.summary()));
            let status = move || (liveness.silent_for(), liveness.summary());
            task.spawn(send_status(self.watchdog, status, send));
        }
        ServiceManagerTask(task)
    }

    /// Returns whether there is a service manager.
    pub(super) fn is_present(&self) -> bool {
        self.is_present
    }

    /// Runs a reload, and reports its start and its end.
    pub(super) fn reloading(&self, read: impl FnOnce()) {
        if self.is_present {
            notify_reloading();
        }
        read();
        if self.is_present {
            notify("READY=1");
        }
    }

    /// Reports that the process is shutting down.
    pub(super) fn stopping(&self, ServiceManagerTask(mut task): ServiceManagerTask) {
        task.abort_all();
        if self.is_present {
            notify("STOPPING=1\nSTATUS=shutting down: asking streams to reconnect");
        }
    }
}

/// Sends the status at intervals, and the watchdog's message as long as every part of the server makes progress. `status`
/// returns the longest time without progress, and a summary.
async fn send_status<F>(watchdog: Option<Duration>, status: impl Fn() -> (Duration, String), send: impl Fn(String) -> F)
where
    F: Future<Output = ()>,
{
    // Four messages within the watchdog's timeout, so that one late message does not end the process.
    let quarter = watchdog.map(|timeout| timeout / 4);
    let mut ticks =
        interval(quarter.map_or(STATUS_INTERVAL, |quarter| quarter.clamp(Duration::from_millis(1), STATUS_INTERVAL)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (stalled_for, summary) = status();
        let message = match quarter {
            None => format!("STATUS={summary}"),
            Some(allowed) if stalled_for <= allowed => format!("WATCHDOG=1\nSTATUS={summary}"),
            Some(_) => {
                tracing::warn!(?stalled_for, "a part of the server makes no progress: the watchdog is not notified");
                format!("STATUS=a part of the server has made no progress for {} s", stalled_for.as_secs())
            }
        };
        send(message).await;
    }
}

/// Sends a message on a blocking thread, because a service manager that hangs must not delay the server.
async fn send(message: String) {
    // Fails when the runtime ends.
    let _result = spawn_blocking(move || notify(&message)).await;
}

#[cfg(target_os = "linux")]
fn notify(message: &str) {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Custom(message)]) {
        tracing::warn!(%error, "cannot notify the service manager: check NOTIFY_SOCKET");
    }
}

/// Reports a reload, with the time that newer versions of systemd need to match it with the request.
#[cfg(target_os = "linux")]
fn notify_reloading() {
    let now = sd_notify::NotifyState::monotonic_usec_now();
    notify(&now.map_or_else(|_| "RELOADING=1".to_owned(), |now| format!("RELOADING=1\n{now}")));
}

#[cfg(not(target_os = "linux"))]
fn notify(_: &str) {}

#[cfg(not(target_os = "linux"))]
fn notify_reloading() {}

#[cfg(target_os = "linux")]
fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

#[cfg(not(target_os = "linux"))]
fn watchdog() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        future::ready,
    };

    use tokio::time::{sleep, timeout};

    use super::*;

    /// Returns the messages sent within ten seconds, if a part stalls for good after five.
    async fn messages(watchdog: Option<Duration>) -> Vec<String> {
        let (messages, stalled_for) = (RefCell::new(Vec::new()), Cell::new(Duration::ZERO));
        let sending = send_status(
            watchdog,
            || (stalled_for.get(), "fine".to_owned()),
            |message| {
                messages.borrow_mut().push(message);
                ready(())
            },
        );
        let stalling = async {
            sleep(Duration::from_millis(5_100)).await;
            stalled_for.set(Duration::from_mins(1));
            std::future::pending::<()>().await;
        };
        let both = async { tokio::join!(sending, stalling) };
        timeout(Duration::from_millis(9_900), both).await.unwrap_err();
        messages.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn watchdog_is_not_notified_after_a_part_stalls() {
        let messages = messages(Some(Duration::from_secs(4))).await;
        let (alive, stalled) = messages.split_at(6);
        assert!(alive.iter().all(|message| message == "WATCHDOG=1\nSTATUS=fine"), "{alive:?}");
        assert!(
            stalled.len() == 4 && stalled.iter().all(|message| message.contains("no progress for 60 s")),
            "{stalled:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_watchdog_only_the_status_is_sent() {
        assert_eq!(messages(None).await, ["STATUS=fine"]);
    }
}
