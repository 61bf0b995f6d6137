//! The path from a write to a reader, in every order of threads. Writer, notifier, registration and subscription are the
//! shipped code.
//!
//! A wake-up that is lost leaves the reader waiting for good, which the checker reports as a deadlock.

use std::{net::SocketAddr, task::ready};

use loom::{future::block_on, thread};

use super::*;
use crate::{
    clock::Clock,
    engine::Memory,
    metrics::Metrics,
    model::{Incarnation, ResumeToken},
    registry::{
        Command, SnapshotChunk, Step, Subscription,
        test_support::{at, register},
    },
    transport::{ConnectionLimiter, ConnectionLimits, Protocol, WorkerState, wake_flag::WakeFlag},
};

/// Runs a model in every order of threads with at most this number of preemptions.
fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(model);
}

fn notifier() -> (Arc<Notifier>, Arc<Connection>) {
    let (peer, limiter) =
        (SocketAddr::from(([127, 0, 0, 1], 1)), ConnectionLimiter::new(ConnectionLimits::default(), Metrics::new()));
    let permit = limiter.admit(peer, "grpc", Protocol::Http2).unwrap();
    let connection = Connection::new(peer, &WorkerState::new(0, &Arc::new(Clock::new(0))), permit);
    (Arc::new(Notifier::new(1)), connection)
}

/// Reader, built as in a stream of a worker.
struct Watcher {
    registration: WakeRegistration,
    subscription: Subscription,
    seen: usize,
    /// Set when the reader has read everything, so that only a wake-up makes it read more.
    idle: bool,
}

impl Watcher {
    fn new(
        notifier: &Arc<Notifier>,
        connection: &Arc<Connection>,
        selector: Selector,
        token: Option<ResumeToken>,
    ) -> Self {
        let selector = Arc::new(selector);
        let registration = notifier.register(connection, Interest::Changes(Arc::clone(&selector)));
        Self { registration, subscription: Subscription::new(selector, None, token), seen: 0, idle: false }
    }

    /// Ready when the reader has read this number of instances.
    fn poll(&mut self, engine: &Memory, enough: usize, context: &Context<'_>) -> Poll<()> {
        while self.seen < enough {
            if self.idle {
                ready!(self.registration.poll_woken(context));
                self.idle = false;
            }
            match self.subscription.next(engine.registry()) {
                Step::Snapshot(SnapshotChunk::Chunk(chunk)) => self.seen += chunk.entries().len(),
                Step::Snapshot(SnapshotChunk::Matching(_)) => unreachable!("it has no filter"),
                Step::Changes(deltas, _) => self.seen += deltas.len(),
                Step::Reset(reason) => panic!("a short history reaches back: {reason:?}"),
                Step::Synced(_) => {}
                Step::Settling | Step::Behind(_) => unreachable!("it remembers no earlier life"),
                Step::Idle => self.idle = true,
            }
        }
        Poll::Ready(())
    }
}

/// Runs one round, as [`Notifier::run`] does.
fn round(notifier: &WorkerNotifier) {
    let (due, changes) = notifier.take_due();
    due.iter().for_each(|waiter| waiter.wake(&changes));
}

/// Thread of a worker: its notifier, and a stream that opens while a writer writes.
fn watch_until(
    (notifier, connection): (&Arc<Notifier>, &Arc<Connection>),
    engine: &Memory,
    (selector, token): (Selector, Option<ResumeToken>),
    enough: usize,
) {
    let mut watcher = Watcher::new(notifier, connection, selector, token);
    block_on(poll_fn(|context| {
        loop {
            if watcher.poll(engine, enough, context).is_ready() {
                return Poll::Ready(());
            }
            if notifier.workers[0].poll_woken(context).is_pending() {
                return Poll::Pending;
            }
            round(&notifier.workers[0]);
        }
    }));
    assert_eq!(watcher.seen, enough, "no instance is read twice");
}

fn write(engine: &Memory, service: &str, instance: &str, lease: u128) {
    engine.submit(Command::Register(register(service, instance, "boot", lease)), at(0)).unwrap();
}

#[test]
fn loom_change_is_never_missed() {
    check(2, || {
        let (notifier, connection) = notifier();
        let engine = Arc::new(Memory::new(Incarnation(1), at(0), Arc::clone(&notifier) as Arc<dyn ChangeListener>));
        let writer = thread::spawn({
            let engine = Arc::clone(&engine);
            move || {
                write(&engine, "web", "a", 1);
                write(&engine, "web", "b", 2);
            }
        });
        watch_until((&notifier, &connection), &engine, (Selector::Everything, None), 2);
        writer.join().unwrap();
    });
}

#[test]
fn loom_first_change_after_a_stream_opens_is_not_missed() {
    check(3, || {
        let (notifier, connection) = notifier();
        let engine = Arc::new(Memory::new(Incarnation(1), at(0), Arc::clone(&notifier) as Arc<dyn ChangeListener>));
        let writer = thread::spawn({
            let engine = Arc::clone(&engine);
            move || write(&engine, "web", "a", 1)
        });
        watch_until((&notifier, &connection), &engine, (Selector::Everything, None), 1);
        writer.join().unwrap();
    });
}

/// A resumed stream takes no snapshot, and so none of the locks that a writer takes.
#[test]
fn loom_change_after_a_stream_resumes_is_not_missed() {
    check(3, || {
        let (notifier, connection) = notifier();
        let engine = Arc::new(Memory::new(Incarnation(1), at(0), Arc::clone(&notifier) as Arc<dyn ChangeListener>));
        let registry = engine.registry();
        let before = Subscription::new(Arc::new(Selector::Everything), None, None);
        let token = before.token(registry, registry.applied());
        let writer = thread::spawn({
            let engine = Arc::clone(&engine);
            move || write(&engine, "web", "a", 1)
        });
        watch_until((&notifier, &connection), &engine, (Selector::Everything, Some(token)), 1);
        writer.join().unwrap();
    });
}

/// A change that reaches the inbox while a round takes it is in the next round, also when this round is for other streams.
#[test]
fn loom_round_for_other_streams_loses_no_change() {
    check(2, || {
        let (notifier, connection) = notifier();
        let engine = Arc::new(Memory::new(Incarnation(1), at(0), Arc::clone(&notifier) as Arc<dyn ChangeListener>));
        let writer = thread::spawn({
            let engine = Arc::clone(&engine);
            move || {
                write(&engine, "web", "a", 1);
                write(&engine, "db", "b", 2);
            }
        });
        watch_until((&notifier, &connection), &engine, (Selector::Prefix("db".into()), None), 1);
        writer.join().unwrap();
    });
}

#[test]
fn loom_change_of_either_of_two_writers_is_never_missed() {
    check(1, || {
        let (notifier, connection) = notifier();
        let engine = Arc::new(Memory::new(Incarnation(1), at(0), Arc::clone(&notifier) as Arc<dyn ChangeListener>));
        let writers = [("a", 1), ("b", 2)].map(|(instance, lease)| {
            let engine = Arc::clone(&engine);
            thread::spawn(move || write(&engine, "web", instance, lease))
        });
        watch_until((&notifier, &connection), &engine, (Selector::Everything, None), 2);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
}

#[test]
fn loom_task_that_sees_a_wake_flag_sees_what_was_written_before_it() {
    check(3, || {
        let (flag, written) = (Arc::new(WakeFlag::default()), Arc::new([AtomicU64::new(0), AtomicU64::new(0)]));
        let ringers = [0, 1].map(|ringer: usize| {
            let (flag, written) = (Arc::clone(&flag), Arc::clone(&written));
            thread::spawn(move || {
                written[ringer].store(1, Ordering::Relaxed);
                flag.set();
            })
        });
        // The flag alone orders the writes: the reads need no order of their own.
        block_on(poll_fn(|context| {
            while written.iter().any(|word| word.load(Ordering::Relaxed) == 0) {
                if flag.poll(context).is_pending() {
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        }));
        ringers.into_iter().for_each(|ringer| ringer.join().unwrap());
    });
}

#[test]
fn loom_every_stream_learns_of_shutdown() {
    check(3, || {
        let (notifier, connection) = notifier();
        let shutting_down = thread::spawn({
            let notifier = Arc::clone(&notifier);
            move || notifier.shut_down()
        });
        let registration = notifier.register(&connection, Interest::Nothing);
        let mut idle = false;
        block_on(poll_fn(|context| {
            loop {
                if !idle && registration.must_end() {
                    return Poll::Ready(());
                }
                idle = registration.poll_woken(context).is_pending();
                if !idle {
                    continue;
                }
                if notifier.workers[0].poll_woken(context).is_pending() {
                    return Poll::Pending;
                }
                round(&notifier.workers[0]);
            }
        }));
        shutting_down.join().unwrap();
    });
}
