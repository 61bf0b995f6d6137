//! A reader that subscribes while services are created and removed, in every order of steps.

use loom::thread;

use super::{
    test_support::{NoListener, at, deregister, register},
    *,
};
use crate::{
    engine::Memory,
    model::{Incarnation, Selector},
};

/// Reads to the end. `state` holds the instances that the reader then has: `service/instance`, in order.
fn read(subscription: &mut Subscription, registry: &Registry, state: &mut BTreeSet<String>) -> Revision {
    let key = |entry: &Entry| format!("{}/{}", entry.instance.service, entry.instance.id);
    loop {
        match subscription.next(registry) {
            Step::Snapshot(SnapshotChunk::Chunk(chunk)) => {
                for entry in chunk.entries() {
                    assert!(state.insert(key(entry)), "sent twice");
                }
            }
            Step::Changes(deltas, _) => {
                for delta in deltas {
                    match (delta.event.before(), delta.event.after()) {
                        (_, Some(after)) => assert!(state.insert(key(after)), "sent twice"),
                        (Some(before), None) => assert!(state.remove(&key(before)), "removed without having been sent"),
                        (None, None) => unreachable!("an event has one or the other"),
                    }
                }
            }
            Step::Synced(_) => {}
            Step::Settling | Step::Behind(_) => unreachable!("the reader has no token"),
            Step::Snapshot(SnapshotChunk::Matching(_)) => unreachable!("the reader has no filter"),
            Step::Reset(reason) => panic!("a short history reaches back: {reason:?}"),
            Step::Idle => return subscription.cursor(),
        }
    }
}

#[test]
fn loom_reader_has_the_state_of_its_revision() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 20_000;
    builder.check(|| {
        let engine = Arc::new(Memory::new(Incarnation(1), at(0), Arc::new(NoListener)));
        let submit = |engine: &Memory, command| engine.submit(command, at(0)).unwrap().revision;
        let first = submit(&engine, Command::Register(register("web", "a", "boot", 1)));
        let (second, third) = (first.next(), first.next().next());
        let writer = thread::spawn({
            let engine = Arc::clone(&engine);
            move || {
                assert_eq!(submit(&engine, deregister("web", "a", None)), second);
                assert_eq!(submit(&engine, Command::Register(register("db", "b", "boot", 2))), third);
            }
        });
        let mut subscription = Subscription::new(Arc::new(Selector::Everything), None, None);
        let mut state = BTreeSet::new();
        for _ in 0..2 {
            let at = read(&mut subscription, engine.registry(), &mut state);
            let expected: &[&str] = match at {
                _ if at == first => &["web/a"],
                _ if at == second => &[],
                _ => &["db/b"],
            };
            assert!(state.iter().eq(expected.iter()), "{state:?} at {at}, {first} being the first");
        }
        writer.join().unwrap();
        assert_eq!(read(&mut subscription, engine.registry(), &mut state), third);
        assert!(state.iter().eq(["db/b"]));
    });
}
