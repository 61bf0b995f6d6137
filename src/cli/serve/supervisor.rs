//! Tells systemd that we are ready, alive and leaving. Where nobody wants to know, it does nothing.

use std::time::Duration;

use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{MissedTickBehavior, interval},
};

use crate::server::LivenessProbe;

/// How often the manager is told how we are; more often where its watchdog wants that.
const NEWS: Duration = Duration::from_secs(10);

/// Whoever started this process, if it wants to be told how it fares.
#[derive(Debug)]
pub(super) struct ServiceManager {
    listens: bool,
    /// It ends us when it has heard nothing for so long.
    watchdog: Option<Duration>,
}

/// What it is told until this is dropped.
#[derive(Debug)]
pub(super) struct ServiceManagerTask(JoinSet<()>);

impl ServiceManager {
    pub(super) fn from_environment() -> Self {
        Self { listens: std::env::var_os("NOTIFY_SOCKET").is_some(), watchdog: watchdog() }
    }

    /// The doors are open. From now on it is told that we are alive, for as long as all parts of the server are.
    pub(super) fn ready(&self, pulse: LivenessProbe) -> ServiceManagerTask {
        let mut company = JoinSet::new();
        if self.listens {
            tell(&format!("READY=1\nSTATUS={}", pulse.summary()));
            let look = move || (pulse.silent_for(), pulse.summary());
            company.spawn(accompany(self.watchdog, look, send));
        }
        ServiceManagerTask(company)
    }

    /// Whether there is one.
    pub(super) fn listens(&self) -> bool {
        self.listens
    }

    /// Reads settings again, and says when that begins and ends.
    pub(super) fn reloading(&self, read: impl FnOnce()) {
        if self.listens {
            tell_reloading();
        }
        read();
        if self.listens {
            tell("READY=1");
        }
    }

    /// We are about to leave.
    pub(super) fn leaving(&self, ServiceManagerTask(mut company): ServiceManagerTask) {
        company.abort_all();
        if self.listens {
            tell("STOPPING=1\nSTATUS=leaving: telling every stream to reconnect");
        }
    }
}

/// Tells how we are, again and again; and that we are alive, where every part of the server has shown it lately. `look` tells
/// for how long one has not, and how we are.
async fn accompany<F>(watchdog: Option<Duration>, look: impl Fn() -> (Duration, String), send: impl Fn(String) -> F)
where
    F: Future<Output = ()>,
{
    // Four times in the time that it is patient, so that one that comes late is no death sentence.
    let quarter = watchdog.map(|patience| patience / 4);
    let mut ticks = interval(quarter.map_or(NEWS, |quarter| quarter.clamp(Duration::from_millis(1), NEWS)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (silent, summary) = look();
        let message = match quarter {
            None => format!("STATUS={summary}"),
            Some(allowed) if silent <= allowed => format!("WATCHDOG=1\nSTATUS={summary}"),
            Some(_) => {
                tracing::warn!(?silent, "a part of the server stands still: the watchdog is not told that it is alive");
                format!("STATUS=a part of the server has stood still for {} s", silent.as_secs())
            }
        };
        send(message).await;
    }
}

/// The manager takes messages at once, unless it hangs itself: then it shall not hold us up.
async fn send(message: String) {
    // It fails when the runtime ends.
    let _ended = spawn_blocking(move || tell(&message)).await;
}

#[cfg(target_os = "linux")]
fn tell(message: &str) {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Custom(message)]) {
        tracing::warn!(%error, "the service manager cannot be told how we are: see NOTIFY_SOCKET");
    }
}

/// With the time, by which newer versions of systemd tell which reload it was.
#[cfg(target_os = "linux")]
fn tell_reloading() {
    let now = sd_notify::NotifyState::monotonic_usec_now();
    tell(&now.map_or_else(|_| "RELOADING=1".to_owned(), |now| format!("RELOADING=1\n{now}")));
}

#[cfg(not(target_os = "linux"))]
fn tell(_: &str) {}

#[cfg(not(target_os = "linux"))]
fn tell_reloading() {}

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

    /// What is told within ten seconds, when a part falls silent for good after five.
    async fn told(watchdog: Option<Duration>) -> Vec<String> {
        let (told, silent_for) = (RefCell::new(Vec::new()), Cell::new(Duration::ZERO));
        let telling = accompany(
            watchdog,
            || (silent_for.get(), "fine".to_owned()),
            |message| {
                told.borrow_mut().push(message);
                ready(())
            },
        );
        let falling_silent = async {
            sleep(Duration::from_millis(5_100)).await;
            silent_for.set(Duration::from_mins(1));
            std::future::pending::<()>().await;
        };
        let both = async { tokio::join!(telling, falling_silent) };
        timeout(Duration::from_millis(9_900), both).await.unwrap_err();
        told.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_hears_nothing_more_when_a_part_stands_still() {
        let told = told(Some(Duration::from_secs(4))).await;
        let (alive, dead) = told.split_at(6);
        assert!(alive.iter().all(|message| message == "WATCHDOG=1\nSTATUS=fine"), "{alive:?}");
        assert!(dead.len() == 4 && dead.iter().all(|message| message.contains("stood still for 60 s")), "{dead:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_watchdog_only_how_we_are_is_told() {
        assert_eq!(told(None).await, ["STATUS=fine"]);
    }
}
