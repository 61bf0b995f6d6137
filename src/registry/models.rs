//! A reader that arrives while services come and go, in every order.

use loom::thread;

use super::{
    test_support::{NoListener, at, deregister, register},
    *,
};
use crate::{
    engine::Memory,
    model::{Incarnation, Selector},
};

/// Reads to the end, and what it then believes: `service/instance`, in order.
fn read(subscription: &mut Subscription, registry: &Registry, believes: &mut BTreeSet<String>) -> Revision {
    let key = |entry: &Entry| format!("{}/{}", entry.instance.service, entry.instance.id);
    loop {
        match subscription.next(registry) {
            Step::Snapshot(SnapshotChunk::Chunk(chunk)) => {
                for entry in chunk.entries() {
                    assert!(believes.insert(key(entry)), "told twice");
                }
            }
            Step::Changes(deltas, _) => {
                for delta in deltas {
                    match (delta.event.before(), delta.event.after()) {
                        (_, Some(after)) => assert!(believes.insert(key(after)), "told twice"),
                        (Some(before), None) => assert!(believes.remove(&key(before)), "never told"),
                        (None, None) => unreachable!("an event has one or the other"),
                    }
                }
            }
            Step::Synced(_) => {}
            Step::Settling => unreachable!("it brings no memory of an earlier life"),
            Step::Snapshot(SnapshotChunk::Matching(_)) => unreachable!("it has no filter"),
            Step::Reset(reason) => panic!("a short history reaches back: {reason:?}"),
            Step::Idle => return subscription.cursor(),
        }
    }
}

#[test]
fn loom_a_reader_believes_what_was_so_at_its_revision() {
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
        let mut believes = BTreeSet::new();
        for _ in 0..2 {
            let at = read(&mut subscription, engine.registry(), &mut believes);
            let so: &[&str] = match at {
                _ if at == first => &["web/a"],
                _ if at == second => &[],
                _ => &["db/b"],
            };
            assert!(believes.iter().eq(so.iter()), "{believes:?} at {at}, {first} being the first");
        }
        writer.join().unwrap();
        assert_eq!(read(&mut subscription, engine.registry(), &mut believes), third);
        assert!(believes.iter().eq(["db/b"]));
    });
}
