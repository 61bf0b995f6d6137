//! How much of its thread a connection may have while others want little of it.
//!
//! Turns alone (see `line`) share a thread between connections, however much of it each wants: beside two that send all they can,
//! whoever sends a heartbeat waits for both of them at each of its own steps. So the time that a connection takes is counted, and
//! one that has had its share is read more slowly, as long as the thread has no time left and somebody is there who wants little of
//! it. Among those that all want much, and where there is time for all, nobody waits.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::Executor;

use super::Connection;

/// Parts of a thread's time, in which shares are told.
const PARTS: u64 = 40;
/// The share of a connection where not all can have what they want: a tenth.
const SHARE: u64 = 4;
/// The share of a connection that wants little.
const LITTLE: u64 = 1;
/// The share of all, beyond which a thread has no time left.
const BUSY: u64 = 32;
/// What a connection may have at once, however long it wanted nothing.
const AT_ONCE: Duration = Duration::from_millis(2);
/// And one that wants little; and all of them, before a thread counts as having no time left.
const BRIEFLY: Duration = Duration::from_millis(1);
/// How long somebody who wants little counts as being there.
const COMPANY: Duration = Duration::from_millis(100);
/// How long a thread counts as having no time left: when those who want much are held back it has some, and would not if they were
/// not.
const STRAINED: Duration = Duration::from_secs(2);
/// The most that a connection owes, which a pause of 20 ms pays: one that is read more slowly is read all the same, and heard of by
/// whoever counts heartbeats; and whoever took all that nobody else wanted owes nobody hours for that.
const DEBT: Duration = Duration::from_millis(2);

/// What somebody has had beyond a share of the time: a bucket that leaks. Written by one thread.
#[derive(Debug)]
struct CpuBucket {
    /// Nanoseconds.
    level: AtomicU64,
    /// As of when, in nanoseconds.
    at: AtomicU64,
    /// What leaks of the time that passes, in parts.
    leak: u64,
    /// What it holds, in nanoseconds.
    most: u64,
}

impl CpuBucket {
    fn new(leak: u64, most: Duration, level: Duration, now: Duration) -> Self {
        let (level, at) = (AtomicU64::new(nanoseconds(level)), AtomicU64::new(nanoseconds(now)));
        Self { level, at, leak, most: nanoseconds(most) }
    }

    /// Its level when so much has been put into it, up to `now`.
    fn put(&self, span: u64, now: u64) -> Duration {
        let level = (self.level_at(now) + span).min(self.most);
        self.level.store(level, Relaxed);
        self.at.store(now, Relaxed);
        Duration::from_nanos(level)
    }

    /// Its level when last something was put into it.
    fn level(&self) -> Duration {
        Duration::from_nanos(self.level.load(Relaxed))
    }

    fn level_at(&self, now: u64) -> u64 {
        let passed = now.saturating_sub(self.at.load(Relaxed));
        self.level.load(Relaxed).saturating_sub(passed / PARTS * self.leak)
    }
}

/// What a connection has had of its thread. Written by that thread.
#[derive(Debug)]
pub(super) struct CpuShare {
    /// Beyond its share.
    much: CpuBucket,
    /// Beyond what is little.
    little: CpuBucket,
    /// How often one of its tasks has had the thread.
    turns: AtomicU64,
}

impl CpuShare {
    /// Of a connection that is new: it may have little at first, or whoever was cut off would come again and again for that.
    pub(super) fn new(now: Duration) -> Self {
        Self {
            much: CpuBucket::new(SHARE, AT_ONCE + DEBT, AT_ONCE, now),
            little: CpuBucket::new(LITTLE, 2 * BRIEFLY, 2 * BRIEFLY, now),
            turns: AtomicU64::new(0),
        }
    }

    /// It has had so much, up to `now`. Whether it wants little.
    pub(super) fn spend(&self, span: Duration, now: Duration) -> bool {
        let (span, now) = (nanoseconds(span), nanoseconds(now));
        self.turns.store(self.turns() + 1, Relaxed);
        self.much.put(span, now);
        self.little.put(span, now) <= BRIEFLY
    }

    /// Which turn it is: the same for as long as one of its tasks has the thread.
    pub(super) fn turns(&self) -> u64 {
        self.turns.load(Relaxed)
    }

    /// For how long it should not be read, where others wait.
    pub(super) fn pause(&self, now: Duration) -> Option<Duration> {
        let over = self.much.level_at(nanoseconds(now)).checked_sub(nanoseconds(AT_ONCE))?;
        (over > 0).then(|| Duration::from_nanos(over / SHARE * PARTS))
    }

    /// Whether it has had so much that it should be given little at a time, where others wait. It stays so for a while after a pause,
    /// which mostly lasts a little longer than it should: or a whole turn would follow each.
    pub(super) fn has_had_much(&self) -> bool {
        self.much.level() > AT_ONCE / 2
    }
}

/// What all connections of a thread have had of it. Written by that thread.
#[derive(Debug)]
pub(super) struct ThreadLoad {
    /// Beyond what leaves some.
    time: CpuBucket,
    /// Until when it counts as having no time left, in nanoseconds.
    strained: AtomicU64,
    /// Until when somebody who wants little counts as being there, in nanoseconds.
    company: AtomicU64,
}

impl ThreadLoad {
    pub(super) fn new(now: Duration) -> Self {
        let time = CpuBucket::new(BUSY, 2 * BRIEFLY, Duration::ZERO, now);
        Self { time, strained: AtomicU64::new(0), company: AtomicU64::new(0) }
    }

    /// One of its connections has had so much, up to `now`, and perhaps wants little.
    pub(super) fn spend(&self, span: Duration, now: Duration, little: bool) {
        if self.time.put(nanoseconds(span), nanoseconds(now)) > BRIEFLY {
            self.strained.store(nanoseconds(now + STRAINED), Relaxed);
        }
        if little {
            self.company.store(nanoseconds(now + COMPANY), Relaxed);
        }
    }

    /// Whether somebody who wants little would wait for those who want much.
    pub(super) fn is_contended(&self, now: Duration) -> bool {
        let now = nanoseconds(now);
        now < self.strained.load(Relaxed) && now < self.company.load(Relaxed)
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A task of a connection: what it takes is put on the connection's account.
#[derive(Debug)]
pub(super) struct AccountedTask<F> {
    connection: Arc<Connection>,
    task: Pin<Box<F>>,
}

impl<F> AccountedTask<F> {
    pub(super) fn new(connection: Arc<Connection>, task: F) -> Self {
        Self { connection, task: Box::pin(task) }
    }
}

impl<F: Future> Future for AccountedTask<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let began = self.connection.place().now();
        let polled = self.task.as_mut().poll(context);
        self.connection.spend(began);
        polled
    }
}

/// Runs the tasks of a connection's streams.
#[derive(Debug, Clone)]
pub(super) struct Spawner(pub(super) Arc<Connection>);

impl<F> Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        tokio::spawn(AccountedTask::new(Arc::clone(&self.0), task));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);
    const MS: Duration = Duration::from_millis(1);

    /// A second of a thread with connections that each want so many microseconds of each millisecond, and what each gets, in
    /// thousandths of the thread.
    fn second(wishes: &[u32]) -> Vec<u128> {
        let thread = ThreadLoad::new(Duration::ZERO);
        let shares: Vec<_> = wishes.iter().map(|_| CpuShare::new(Duration::ZERO)).collect();
        let mut had = vec![Duration::ZERO; wishes.len()];
        let mut wanted = had.clone();
        let mut ready = had.clone();
        let (mut now, mut last) = (Duration::ZERO, Duration::ZERO);
        while now < MS * 2_000 {
            let passed = now.saturating_sub(last);
            last = now;
            let mut idle = true;
            for (at, share) in shares.iter().enumerate() {
                wanted[at] = (wanted[at] + passed * wishes[at] / 1_000).min(MS * 5);
                // A turn, as long as that of a flood.
                let span = wanted[at].min(US * 100);
                if ready[at] > now || span.is_zero() {
                    continue;
                }
                idle = false;
                now += span;
                wanted[at] -= span;
                thread.spend(span, now, share.spend(span, now));
                if now > MS * 1_000 {
                    had[at] += span;
                }
                if thread.is_contended(now)
                    && let Some(pause) = share.pause(now)
                {
                    ready[at] = now + pause;
                }
            }
            now += if idle { US * 50 } else { US };
        }
        had.iter().map(Duration::as_millis).collect()
    }

    #[test]
    fn who_wants_all_has_a_tenth_where_others_want_little() {
        let had = second(&[1_000, 1_000, 5, 5]);
        assert!((80..=130).contains(&had[0]) && (80..=130).contains(&had[1]), "{had:?}");
        assert!(had[2] >= 4 && had[3] >= 4, "{had:?}");
    }

    #[test]
    fn where_there_is_time_for_all_nobody_waits() {
        let had = second(&[300, 300, 120, 5]);
        assert!(had[0] >= 290 && had[1] >= 290 && had[2] >= 115, "{had:?}");
    }

    #[test]
    fn among_those_that_want_much_nobody_waits() {
        let had = second(&[1_000, 1_000, 1_000, 200]);
        assert!(had[..3].iter().all(|had| *had >= 200), "{had:?}");
        assert!(had.iter().sum::<u128>() >= 900, "{had:?}");
    }

    #[test]
    fn who_had_all_for_long_does_not_owe_it() {
        let share = CpuShare::new(Duration::ZERO);
        let now = MS * 1_000_000;
        share.spend(now, now);
        let pause = share.pause(now).unwrap();
        assert!(pause <= MS * 20, "{pause:?}");
        assert_eq!(share.pause(now + pause), None);
    }
}
