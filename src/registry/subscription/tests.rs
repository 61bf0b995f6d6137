use super::*;
use crate::{
    engine::Memory,
    model::Incarnation,
    registry::{
        Command, SessionEpoch,
        test_support::{NoListener, at, deregister, description, name, register},
    },
};

fn engine() -> Memory {
    Memory::new(Incarnation(1), at(0), Arc::new(NoListener))
}

fn submit(engine: &Memory, command: Command) {
    engine.submit(command, at(0)).unwrap();
}

/// Registers an instance of `web` with tags, or changes its tags.
fn put(engine: &Memory, id: &str, tags: &[&str]) {
    let mut request = register("web", id, id, id.bytes().map(u128::from).sum());
    request.description = description(tags, 1);
    submit(engine, Command::Register(request));
}

fn subset(version: &str) -> (SubsetName, InstanceFilter) {
    let filter = InstanceFilter::parse(&format!("{version} in tags")).unwrap().unwrap();
    (SubsetName::parse("canary").unwrap(), filter)
}

fn subscribe(version: &str, token: Option<ResumeToken>) -> Subscription {
    let selector = Selector::Names([name("web")].into());
    let mut subscription = Subscription::new(Arc::new(selector), None, token);
    let (name, filter) = subset(version);
    subscription.set_subset(name, filter, at(0));
    subscription
}

/// Takes all steps, and describes them.
fn read(subscription: &mut Subscription, registry: &Registry) -> Vec<String> {
    let mut steps = Vec::new();
    loop {
        steps.push(match subscription.next(registry) {
            Step::Idle | Step::Settling | Step::Behind(_) => return steps,
            Step::Reset(reason) => format!("{reason:?}"),
            Step::Synced(revision) => format!("synced {revision}"),
            Step::Snapshot(SnapshotChunk::Chunk(chunk)) => describe(chunk.entries()),
            Step::Snapshot(SnapshotChunk::Matching(entries)) => describe(&entries),
            Step::Changes(deltas, revision) => {
                let deltas: Vec<_> =
                    deltas.iter().map(|delta| format!("{} {:?}", delta.event.id(), delta.kind)).collect();
                format!("{} at {revision}", deltas.join(", "))
            }
        });
    }
}

fn describe(entries: &[Arc<Entry>]) -> String {
    entries.iter().map(|entry| entry.instance.id.as_str()).collect::<Vec<_>>().join(" ")
}

#[test]
fn changed_subset_filter_is_sent_as_differences() {
    let engine = engine();
    let first = engine.registry().applied().0;
    for (id, version) in [("a", "v1"), ("b", "v2"), ("c", "v1")] {
        put(&engine, id, &[version]);
    }
    let mut reader = subscribe("v1", None);
    assert_eq!(read(&mut reader, engine.registry()), ["a c".to_owned(), format!("synced {}", first + 3)]);
    let (name, filter) = subset("v2");
    reader.set_subset(name, filter, at(0));
    let expected = format!("a NoLongerMatches, b Updated, c NoLongerMatches at {}", first + 3);
    assert_eq!(read(&mut reader, engine.registry()), [expected]);
    put(&engine, "d", &["v2"]);
    put(&engine, "e", &["v1"]);
    assert_eq!(read(&mut reader, engine.registry()), [format!("d Updated at {}", first + 5)]);
}

#[test]
fn changes_before_a_changed_subset_filter_are_part_of_the_same_step() {
    let engine = engine();
    for (id, version) in [("a", "v1"), ("b", "v1"), ("c", "v2"), ("d", "v2")] {
        put(&engine, id, &[version]);
    }
    let mut reader = subscribe("v1", None);
    read(&mut reader, engine.registry());
    submit(&engine, deregister("web", "a", Some(u128::from(b'a'))));
    put(&engine, "b", &["v2"]);
    put(&engine, "c", &["v1"]);
    put(&engine, "e", &["v2"]);
    let (name, filter) = subset("v2");
    reader.set_subset(name, filter, at(0));
    let newest = engine.registry().applied();
    let expected = format!("a Removed, b Updated, e Updated, d Updated at {newest}");
    assert_eq!(read(&mut reader, engine.registry()), [expected], "c did not match before, and does not match now");
}

#[test]
fn token_fits_the_subset_and_filter_that_it_was_made_for() {
    let engine = engine();
    put(&engine, "a", &["v1"]);
    let mut reader = subscribe("v1", None);
    read(&mut reader, engine.registry());
    let token = reader.token(engine.registry(), reader.cursor());
    let first = |mut reader: Subscription| read(&mut reader, engine.registry()).swap_remove(0);
    assert_eq!(first(subscribe("v1", Some(token))), format!("synced {}", reader.cursor()));
    assert_eq!(first(subscribe("v2", Some(token))), "OtherSelector");
    let whole = Subscription::new(Arc::clone(reader.selector()), None, Some(token));
    assert_eq!(first(whole), "OtherSelector");
    let (name, filter) = subset("v2");
    reader.set_subset(name, filter, at(0));
    read(&mut reader, engine.registry());
    let token = reader.token(engine.registry(), reader.cursor());
    assert_eq!(first(subscribe("v2", Some(token))), format!("synced {}", reader.cursor()));
}

#[test]
fn subset_filter_that_changes_during_a_snapshot_takes_effect_after_it() {
    let engine = engine();
    for id in ["a", "b"] {
        put(&engine, id, &[if id == "a" { "v1" } else { "v2" }]);
    }
    let mut reader = subscribe("v1", None);
    assert!(matches!(reader.next(engine.registry()), Step::Snapshot(_)));
    let (name, filter) = subset("v2");
    reader.set_subset(name, filter, at(0));
    let newest = engine.registry().applied();
    let expected = [format!("synced {newest}"), format!("a NoLongerMatches, b Updated at {newest}")];
    assert_eq!(read(&mut reader, engine.registry()), expected);
}

#[test]
fn token_of_a_later_revision_waits_where_other_replicas_may_have_sent_it() {
    let engine = engine();
    let registry = engine.registry();
    put(&engine, "a", &["v1"]);
    let later = |subscription: &Subscription| subscription.token(registry, Revision(registry.applied().0 + 1));
    let token = later(&subscribe("v1", None));
    let mut reader = subscribe("v1", Some(token));
    assert!(matches!(reader.next(registry), Step::Reset(ResetReason::FutureRevision)), "no other process has sent it");

    registry.order().set_session(SessionEpoch(7));
    let mut reader = subscribe("v1", Some(token));
    assert!(matches!(reader.next(registry), Step::Behind(revision) if revision == token.revision));
    assert!(matches!(reader.next(registry), Step::Behind(_)), "nothing has changed");
    put(&engine, "b", &["v1"]);
    assert_eq!(read(&mut reader, registry), [format!("synced {}", token.revision.0)], "the reader has the change");
    put(&engine, "c", &["v1"]);
    assert_eq!(read(&mut reader, registry), [format!("c Updated at {}", token.revision.0 + 1)]);
}
