//! How much of its thread a connection may have while others want little of it.
//!
//! Turns alone (see `line`) share a thread between connections, however much of it each wants: beside two that send all they can,
//! whoever sends a heartbeat waits for both of them at each of its own steps. So the time that a connection takes is counted, and
//! one that has had its share is read more slowly, as long as somebody is there who has not. Among those that all want much,
//! nobody waits.

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

/// The share of a connection: one part of so many.
const PARTS: u64 = 10;
/// What it may have at once, however long it wanted nothing.
const AT_ONCE: Duration = Duration::from_millis(2);
/// How long somebody who wants little counts as being there.
const COMPANY: Duration = Duration::from_millis(100);
/// The longest pause: a connection that is read more slowly is read all the same, and heard of by whoever counts heartbeats.
const LONGEST: Duration = Duration::from_millis(20);

/// What a connection has had of its thread. Written by that thread.
#[derive(Debug)]
pub(super) struct Share {
    /// Nanoseconds beyond its share.
    debt: AtomicU64,
    /// As of when, in nanoseconds.
    at: AtomicU64,
    /// How often one of its tasks has had the thread.
    turns: AtomicU64,
}

impl Share {
    /// Of a connection that is new: it may have little at first, or whoever was cut off would come again and again for that.
    pub(super) fn new(now: Duration) -> Self {
        let (debt, at) = (AtomicU64::new(nanoseconds(AT_ONCE) + 1), AtomicU64::new(nanoseconds(now)));
        Self { debt, at, turns: AtomicU64::new(0) }
    }

    /// It has had so much, up to `now`. Whether it wants little.
    pub(super) fn spend(&self, span: Duration, now: Duration) -> bool {
        let (span, now) = (nanoseconds(span), nanoseconds(now));
        let debt = self.debt_at(now) + span;
        self.debt.store(debt, Relaxed);
        self.at.store(now, Relaxed);
        self.turns.store(self.turns() + 1, Relaxed);
        debt <= nanoseconds(AT_ONCE)
    }

    /// Which turn it is: the same for as long as one of its tasks has the thread.
    pub(super) fn turns(&self) -> u64 {
        self.turns.load(Relaxed)
    }

    /// For how long it should not be read, where somebody who wants little was there last at `company`.
    pub(super) fn pause(&self, company: Duration, now: Duration) -> Option<Duration> {
        if now.saturating_sub(company) > COMPANY {
            return None;
        }
        let over = self.debt_at(nanoseconds(now)).checked_sub(nanoseconds(AT_ONCE))?;
        (over > 0).then(|| Duration::from_nanos(over.saturating_mul(PARTS)).min(LONGEST))
    }

    /// Whether it has had so much that it should be given little at a time where somebody wants little. It stays so for a while
    /// after a pause, which mostly lasts a little longer than it should: or a whole turn would follow each.
    pub(super) fn is_greedy(&self, company: Duration, now: Duration) -> bool {
        self.has_had_much() && now.saturating_sub(company) <= COMPANY
    }

    /// Whether it had more than half of what it may have at once when last looked at: less is not worth asking the time for.
    pub(super) fn has_had_much(&self) -> bool {
        self.debt.load(Relaxed) > nanoseconds(AT_ONCE) / 2
    }

    fn debt_at(&self, now: u64) -> u64 {
        let paid = now.saturating_sub(self.at.load(Relaxed)) / PARTS;
        self.debt.load(Relaxed).saturating_sub(paid)
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A task of a connection: what it takes is put on the connection's account.
#[derive(Debug)]
pub(super) struct OnAccount<F> {
    connection: Arc<Connection>,
    task: Pin<Box<F>>,
}

impl<F> OnAccount<F> {
    pub(super) fn new(connection: Arc<Connection>, task: F) -> Self {
        Self { connection, task: Box::pin(task) }
    }
}

impl<F: Future> Future for OnAccount<F> {
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
        tokio::spawn(OnAccount::new(Arc::clone(&self.0), task));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn who_wants_little_never_waits() {
        let share = Share::new(Duration::ZERO);
        for round in 1..1_000 {
            let now = MS * 10 * round;
            assert!(share.spend(MS / 2, now));
            assert_eq!(share.pause(now, now), None);
        }
    }

    #[test]
    fn who_wants_all_waits_as_long_as_somebody_wants_little() {
        let share = Share::new(Duration::ZERO);
        let mut busy = Duration::ZERO;
        let mut now = Duration::ZERO;
        while now < MS * 10_000 {
            share.spend(MS, now + MS);
            (busy, now) = (busy + MS, now + MS);
            assert_eq!(share.pause(Duration::ZERO, now + COMPANY + MS), None, "nobody else is there");
            now += share.pause(now, now).unwrap_or_default();
        }
        let percent = busy.as_millis() * 100 / now.as_millis();
        assert!((8..=12).contains(&percent), "{percent} % of the thread");
    }
}
