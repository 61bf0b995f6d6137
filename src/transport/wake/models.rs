//! The way from a write to a reader, in every order: writer, hub, seat and subscription are the ones that ship.
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
    transport::{ConnectionLimiter, ConnectionLimits, Protocol, WorkerState},
};

/// Runs a model in every order in which threads lose their turn at most so often where they need not.
fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(model);
}

fn hubs() -> (Arc<Notifier>, Arc<Connection>) {
    let (peer, gate) =
        (SocketAddr::from(([127, 0, 0, 1], 1)), ConnectionLimiter::new(ConnectionLimits::default(), Metrics::new()));
    let ticket = gate.admit(peer, "grpc", Protocol::Http2).unwrap();
    let connection = Connection::new(peer, &WorkerState::new(0, &Arc::new(Clock::new(0))), ticket);
    (Arc::new(Notifier::new(1)), connection)
}

/// One reader, as a stream of a worker has it.
struct Watcher {
    seat: WakeRegistration,
    subscription: Subscription,
    seen: usize,
    /// It has taken everything, and only its seat can tell it that there is more.
    idle: bool,
}

impl Watcher {
    fn new(
        hubs: &Arc<Notifier>,
        connection: &Arc<Connection>,
        selection: Selector,
        token: Option<ResumeToken>,
    ) -> Self {
        let selection = Arc::new(selection);
        let seat = hubs.seat(connection, Interest::Changes(Arc::clone(&selection)));
        Self { seat, subscription: Subscription::new(selection, None, token), seen: 0, idle: false }
    }

    /// Ready when it has been told of so many instances.
    fn poll(&mut self, engine: &Memory, enough: usize, context: &Context<'_>) -> Poll<()> {
        while self.seen < enough {
            if self.idle {
                ready!(self.seat.poll_rung(context));
                self.idle = false;
            }
            match self.subscription.next(engine.registry()) {
                Step::Snapshot(SnapshotChunk::Chunk(block)) => self.seen += block.entries().len(),
                Step::Snapshot(SnapshotChunk::Matching(_)) => unreachable!("it has no filter"),
                Step::Changes(deltas, _) => self.seen += deltas.len(),
                Step::Reset(reason) => panic!("a short history reaches back: {reason:?}"),
                Step::Synced(_) => {}
                Step::Settling => unreachable!("it brings no memory of an earlier life"),
                Step::Idle => self.idle = true,
            }
        }
        Poll::Ready(())
    }
}

/// What a hub does when its bell was rung.
fn tell(hub: &WorkerNotifier) {
    for seat in hub.to_be_told() {
        seat.ring();
    }
}

/// A worker's thread: its hub, and a stream that arrives while somebody writes.
fn watch_until(
    (hubs, connection): (&Arc<Notifier>, &Arc<Connection>),
    engine: &Memory,
    (selection, token): (Selector, Option<ResumeToken>),
    enough: usize,
) {
    let mut watcher = Watcher::new(hubs, connection, selection, token);
    block_on(poll_fn(|context| {
        loop {
            if watcher.poll(engine, enough, context).is_ready() {
                return Poll::Ready(());
            }
            if hubs.workers[0].bell.poll(context).is_pending() {
                return Poll::Pending;
            }
            tell(&hubs.workers[0]);
        }
    }));
    assert_eq!(watcher.seen, enough, "told twice");
}

fn write(engine: &Memory, service: &str, instance: &str, lease: u128) {
    engine.submit(Command::Register(register(service, instance, "boot", lease)), at(0)).unwrap();
}

#[test]
fn loom_a_change_is_never_missed() {
    check(2, || {
        let (hubs, connection) = hubs();
        let engine = Arc::new(Memory::new(Incarnation(1), at(0), Arc::clone(&hubs) as Arc<dyn ChangeListener>));
        let writer = thread::spawn({
            let engine = Arc::clone(&engine);
            move || {
                write(&engine, "web", "a", 1);
                write(&engine, "web", "b", 2);
            }
        });
        watch_until((&hubs, &connection), &engine, (Selector::Everything, None), 2);
        writer.join().unwrap();
    });
}

#[test]
fn loom_the_first_change_after_a_stream_opened_is_not_missed() {
    check(3, || {
        let (hubs, connection) = hubs();
        let engine = Arc::new(Memory::new(Incarnation(1), at(0), Arc::clone(&hubs) as Arc<dyn ChangeListener>));
        let writer = thread::spawn({
            let engine = Arc::clone(&engine);
            move || write(&engine, "web", "a", 1)
        });
        watch_until((&hubs, &connection), &engine, (Selector::Everything, None), 1);
        writer.join().unwrap();
    });
}

/// It takes no snapshot, and so none of the locks that a writer takes.
#[test]
fn loom_a_change_after_a_stream_resumed_is_not_missed() {
    check(3, || {
        let (hubs, connection) = hubs();
        let engine = Arc::new(Memory::new(Incarnation(1), at(0), Arc::clone(&hubs) as Arc<dyn ChangeListener>));
        let registry = engine.registry();
        let before = Subscription::new(Arc::new(Selector::Everything), None, None);
        let token = before.token(registry, registry.applied());
        let writer = thread::spawn({
            let engine = Arc::clone(&engine);
            move || write(&engine, "web", "a", 1)
        });
        watch_until((&hubs, &connection), &engine, (Selector::Everything, Some(token)), 1);
        writer.join().unwrap();
    });
}

/// What comes into the inbox while a hub takes it is in the next round, whoever this one was for.
#[test]
fn loom_a_round_for_others_loses_nothing() {
    check(2, || {
        let (hubs, connection) = hubs();
        let engine = Arc::new(Memory::new(Incarnation(1), at(0), Arc::clone(&hubs) as Arc<dyn ChangeListener>));
        let writer = thread::spawn({
            let engine = Arc::clone(&engine);
            move || {
                write(&engine, "web", "a", 1);
                write(&engine, "db", "b", 2);
            }
        });
        watch_until((&hubs, &connection), &engine, (Selector::Prefix("db".into()), None), 1);
        writer.join().unwrap();
    });
}

#[test]
fn loom_a_change_of_either_of_two_writers_is_never_missed() {
    check(1, || {
        let (hubs, connection) = hubs();
        let engine = Arc::new(Memory::new(Incarnation(1), at(0), Arc::clone(&hubs) as Arc<dyn ChangeListener>));
        let writers = [("a", 1), ("b", 2)].map(|(instance, lease)| {
            let engine = Arc::clone(&engine);
            thread::spawn(move || write(&engine, "web", instance, lease))
        });
        watch_until((&hubs, &connection), &engine, (Selector::Everything, None), 2);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
}

#[test]
fn loom_a_bell_is_heard_with_what_was_written_before() {
    check(3, || {
        let (bell, written) = (Arc::new(WakeFlag::default()), Arc::new([AtomicU64::new(0), AtomicU64::new(0)]));
        let ringers = [0, 1].map(|ringer: usize| {
            let (bell, written) = (Arc::clone(&bell), Arc::clone(&written));
            thread::spawn(move || {
                written[ringer].store(1, Ordering::Relaxed);
                bell.ring();
            })
        });
        // Told by the bell alone: what it reads needs no order of its own.
        block_on(poll_fn(|context| {
            while written.iter().any(|word| word.load(Ordering::Relaxed) == 0) {
                if bell.poll(context).is_pending() {
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        }));
        ringers.into_iter().for_each(|ringer| ringer.join().unwrap());
    });
}

#[test]
fn loom_every_stream_is_told_that_we_leave() {
    check(3, || {
        let (hubs, connection) = hubs();
        let leaving = thread::spawn({
            let hubs = Arc::clone(&hubs);
            move || hubs.leave()
        });
        let seat = hubs.seat(&connection, Interest::Nothing);
        let mut idle = false;
        block_on(poll_fn(|context| {
            loop {
                if !idle && seat.is_leaving() {
                    return Poll::Ready(());
                }
                idle = seat.poll_rung(context).is_pending();
                if !idle {
                    continue;
                }
                if hubs.workers[0].bell.poll(context).is_pending() {
                    return Poll::Pending;
                }
                tell(&hubs.workers[0]);
            }
        }));
        leaving.join().unwrap();
    });
}
