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
}

impl Share {
    /// Of a connection that is new: it may have little at first, or whoever was cut off would come again and again for that.
    pub(super) fn new(now: Duration) -> Self {
        Self { debt: AtomicU64::new(nanoseconds(AT_ONCE) + 1), at: AtomicU64::new(nanoseconds(now)) }
    }

    /// It has had so much, up to `now`. Whether it wants little.
    pub(super) fn spend(&self, span: Duration, now: Duration) -> bool {
        let (span, now) = (nanoseconds(span), nanoseconds(now));
        let debt = self.debt_at(now) + span;
        self.debt.store(debt, Relaxed);
        self.at.store(now, Relaxed);
        debt <= nanoseconds(AT_ONCE)
    }

    /// For how long it should not be read, where somebody who wants little was there last at `company`.
    pub(super) fn pause(&self, company: Duration, now: Duration) -> Option<Duration> {
        if !self.is_spent() || now.saturating_sub(company) > COMPANY {
            return None;
        }
        let over = self.debt_at(nanoseconds(now)).checked_sub(nanoseconds(AT_ONCE))?;
        (over > 0).then(|| Duration::from_nanos(over.saturating_mul(PARTS)).min(LONGEST))
    }

    /// Whether it had more than its share when last looked at.
    pub(super) fn is_spent(&self) -> bool {
        self.debt.load(Relaxed) > nanoseconds(AT_ONCE)
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
