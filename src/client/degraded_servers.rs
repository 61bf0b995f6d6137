//! Time at which a watch leaves a server that cannot reach its store.

use std::time::Duration;

use tokio::time::Instant;

use super::balance::RandomSequence;

/// Time that a stream stays at the first server that cannot reach its store. Jitter adds up to as much again.
const FIRST_STAY: Duration = Duration::from_secs(2);
/// Maximum time that a stream stays, without jitter.
const MAX_STAY: Duration = Duration::from_mins(4);
/// Time after a notice, without a further one, after which the next one counts as the first again.
const RECOVERY_TIME: Duration = Duration::from_mins(10);

/// Servers that announced that they cannot reach their store. The stream moves on from one to the next, and stays twice as long
/// after each announcement, because all of them may be cut off.
#[derive(Debug, Default)]
pub(super) struct DegradedServers {
    /// Time at which the stream leaves the present server.
    leave_at: Option<Instant>,
    /// Time of the last notice, and the time that the stream stayed after it, without jitter.
    last: Option<(Instant, Duration)>,
}

impl DegradedServers {
    /// Time at which the stream leaves the present server, if it has to.
    pub(super) fn leave_at(&self) -> Option<Instant> {
        self.leave_at
    }

    /// Takes note that a stream to the next server is open.
    pub(super) fn stream_opened(&mut self) {
        self.leave_at = None;
    }

    /// Takes note that the present server cannot reach its store.
    pub(super) fn notified(&mut self, now: Instant) {
        let last = self.last.filter(|(at, _)| now - *at < RECOVERY_TIME);
        let stay = last.map_or(FIRST_STAY, |(_, stay)| (stay * 2).min(MAX_STAY));
        self.last = Some((now, stay));
        let random = RandomSequence::new(getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id())));
        self.leave_at = Some(now + stay.mul_f64(1.0 + random.unit()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stay_doubles_until_the_servers_have_recovered() {
        let mut now = super::super::now();
        let mut servers = DegradedServers::default();
        for stay in [2, 4, 8, 16, 32, 64, 128, 240, 240].map(Duration::from_secs) {
            servers.notified(now);
            let leave_at = servers.leave_at().unwrap();
            assert!(leave_at >= now + stay && leave_at <= now + 2 * stay, "{:?} instead of {stay:?}", leave_at - now);
            servers.stream_opened();
            assert_eq!(servers.leave_at(), None);
            now = leave_at;
        }
        now += RECOVERY_TIME;
        servers.notified(now);
        assert!(servers.leave_at().unwrap() <= now + 2 * FIRST_STAY);
    }
}
