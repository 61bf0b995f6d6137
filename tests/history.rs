//! Concurrent writers and readers of every kind over real gRPC, and every promise checked over what came of it.

mod doors;
mod follow;
mod writer;

use std::time::Duration;

use tokio::{sync::watch, task::JoinSet};

use crate::{
    harness::{Engine, Filter, Key, Reader, Scope, Seed, Stalls, TestServer, Wall, wall, within},
    invariant::{self, Held, ReferenceHistory},
};
use follow::{Habit, Plan};
use writer::{Told, Writer};

/// Services that writers register in. `nobody` stays empty, and `late` is used only in the second half.
const SERVICES: [&str; 4] = ["pay-card", "pay-cash", "web", "late"];
const WRITERS: u64 = 4;
/// Readers that read whatever there is, at once, from the beginning.
const STEADY: [&str; 3] = ["one", "several", "prefix"];
/// Half of the time for which writers write.
const HALF: Duration = Duration::from_secs(2);

const HEAVY_V2: Filter = Filter {
    text: r#""v2" in tags and weight != 1"#,
    matches: |instance| instance.tags.iter().any(|tag| tag == "v2") && instance.weight != 1,
};
const SERVING: Filter = Filter {
    text: "status == SERVING",
    matches: |instance| instance.status() == callboard::pb::callboard::v1::InstanceStatus::Serving,
};

fn plans() -> Vec<Plan> {
    let plan = |name, scope, filter, habit| Plan { name, scope, filter, habit, late: false };
    let one = || Scope::names(&["web"]);
    let several = || Scope::names(&["web", "late", "nobody"]);
    let prefix = || Scope::Prefix("pay-".to_owned());
    vec![
        plan("one", one(), Filter::NONE, Habit::Steady),
        plan("several", several(), Filter::NONE, Habit::Steady),
        plan("waits for late", Scope::names(&["late"]), Filter::NONE, Habit::Steady),
        plan("nobody", Scope::names(&["nobody"]), Filter::NONE, Habit::Steady),
        plan("prefix", prefix(), Filter::NONE, Habit::Steady),
        plan("one, filtered", one(), HEAVY_V2, Habit::Steady),
        plan("everything, filtered", Scope::Everything, SERVING, Habit::Steady),
        plan("one, slow", one(), Filter::NONE, Habit::Slow),
        plan("everything, slow", Scope::Everything, Filter::NONE, Habit::Slow),
        plan("prefix, filtered, slow", prefix(), SERVING, Habit::Slow),
        plan("one, comes back", one(), Filter::NONE, Habit::ComesBack),
        plan("several, comes back", several(), Filter::NONE, Habit::ComesBack),
        plan("everything, filtered, comes back", Scope::Everything, HEAVY_V2, Habit::ComesBack),
        Plan { late: true, ..plan("one, late", one(), Filter::NONE, Habit::Steady) },
        Plan { late: true, ..plan("everything, late", Scope::Everything, Filter::NONE, Habit::ComesBack) },
    ]
}

/// All that was told and heard.
struct History {
    told: Told,
    readers: Vec<Reader>,
    truth: ReferenceHistory,
    /// Instances that self-preservation kept.
    held: Held,
    /// Instances that are left in the end.
    left: Vec<Key>,
    /// Time from which an operator had reset self-preservation.
    quiet: Wall,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_holds_in_memory() {
    every_promise_holds(Engine::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_holds_on_the_disk() {
    every_promise_holds(Engine::Disk).await;
}

async fn every_promise_holds(engine: Engine) {
    let seed = Seed::from_environment();
    let stalls = Stalls::of_this_machine();
    let house = TestServer::on(engine, |_| {});
    let history = play(&house, &seed).await;
    for reader in &history.readers {
        invariant::check_record(&reader.record, &history.truth).unwrap();
    }
    let Told { lives, reads, .. } = &history.told;
    invariant::read_your_writes::check(reads, &history.truth).unwrap();
    invariant::live_stays::check(lives, &history.truth).unwrap();
    let held = &history.held;
    invariant::dead_goes::check(lives, &history.truth, held, wall(), |from| stalls.since(from)).unwrap();
    invariant::never_empty_by_inference::check(lives, &history.truth, history.quiet).unwrap();
    for reader in history.readers.iter().filter(|reader| STEADY.contains(&&*reader.record.reader)) {
        invariant::dead_goes::check_heard(&reader.record, lives, &history.truth, held, |from| stalls.since(from))
            .unwrap();
    }
    let shown = doors::shown(&house, &history.readers, &history.left).await;
    invariant::converges::check(&shown).unwrap();
    something_was_checked(&history);
}

async fn play(house: &TestServer, seed: &Seed) -> History {
    let (goal, goals) = watch::channel(None);
    let mut reading = JoinSet::new();
    for (number, plan) in (1_000..).zip(plans()) {
        let open = plan.open(house.grpc(), seed.random(number), goals.clone());
        reading.spawn(open);
    }
    let mut everything = Reader::open(&house.peer().await, "everything", Scope::Everything, Filter::NONE).await;
    let mut writing = JoinSet::new();
    for number in 0..WRITERS {
        let writer = Writer::new(house.peer().await, number, seed.random(number)).await;
        writing.spawn(writer.write(HALF));
    }
    let mut told = Told::default();
    let mut left: Vec<Key> = Vec::new();
    while let Some(writer) = writing.join_next().await {
        let (writer_told, writer_left) = writer.unwrap();
        told.extend(writer_told);
        left.extend(writer_left);
    }
    left.sort();
    let quiet = wall();
    within("who fell silent is gone", all_gone(house, &mut everything, &left)).await;
    let held = Held::by(&house.peer().await.protection_events().await);
    let events = house.peer().await.events().await;
    let newest = events.last().unwrap().revision;
    goal.send_replace(Some(newest));
    let mut readers = reading.join_all().await;
    everything.until("the newest revision", |view| view.revision >= newest).await;
    readers.push(everything);
    let answered = std::mem::take(&mut told.seen);
    let truth = ReferenceHistory::gather(events, readers.iter().map(|reader| &reader.record), answered).unwrap();
    History { told, readers, truth, held, left, quiet }
}

/// Waits until silent instances are gone: they expire, or an operator resets self-preservation because many fell silent at once.
async fn all_gone(house: &TestServer, everything: &mut Reader, left: &[Key]) {
    let peer = house.peer().await;
    let mut pace = tokio::time::interval(Duration::from_millis(500));
    while !everything.view.set.keys().eq(left) {
        tokio::select! {
            message = everything.message() => {
                message.unwrap();
            }
            _ = pace.tick() => {
                peer.reset_protection(None).await;
            }
        }
    }
}

/// A history in which nothing happened would pass every check.
fn something_was_checked(history: &History) {
    use callboard::pb::callboard::v1::{
        Event, EventKind, InstanceStatus, RemovalReason, change::Change, watch_response::Message,
    };
    let events = &history.truth.events;
    let count = |kind, reason: Option<RemovalReason>| {
        let like = |event: &&Event| event.kind() == kind && reason.is_none_or(|reason| event.reason() == reason);
        events.iter().filter(like).count()
    };
    let suspected = |event: &&Event| event.status_after() == InstanceStatus::Suspect;
    let kinds = [
        ("suspected", events.iter().filter(suspected).count()),
        ("registered", count(EventKind::Registered, None)),
        ("taken over", count(EventKind::TakenOver, None)),
        ("updated", count(EventKind::Updated, None)),
        ("deregistered", count(EventKind::Removed, Some(RemovalReason::Deregistered))),
        ("expired", count(EventKind::Removed, Some(RemovalReason::Expired))),
        ("graces", history.told.lives.iter().filter(|life| life.broke.is_some()).count()),
        ("reads", history.told.reads.len()),
    ];
    let messages = |reader: &Reader, is: fn(&Message) -> bool| {
        let said = reader.record.heard.iter().filter_map(|heard| match &heard.what {
            crate::harness::What::Message(message) => message.message.as_ref(),
            _ => None,
        });
        said.filter(|message| is(message)).count()
    };
    let heard = |is: fn(&Message) -> bool| history.readers.iter().map(|reader| messages(reader, is)).sum::<usize>();
    let resumed = history.readers.iter().flat_map(|reader| &reader.record.heard);
    let resumed = resumed.filter(|heard| matches!(heard.what, crate::harness::What::Opened { resumes: true }));
    let folded = |message: &Message| matches!(message, Message::Changes(changes) if changes.changes.len() > 1);
    let left = |message: &Message| {
        let Message::Changes(changes) = message else { return false };
        changes.changes.iter().any(|change| {
            let reason = RemovalReason::NoLongerMatches;
            matches!(&change.change, Some(Change::Removed(gone)) if gone.reason() == reason)
        })
    };
    let heard = [
        ("resumed", resumed.count()),
        ("folded", heard(folded)),
        ("no longer matches", heard(left)),
        ("bookmarks", heard(|message| matches!(message, Message::Bookmark(_)))),
    ];
    println!("{} events: {kinds:?}, {heard:?}", events.len());
    for (what, count) in kinds.into_iter().chain(heard) {
        assert!(count > 0, "there was no {what} in this history, so nothing was checked of it");
    }
    let waiting = history.readers.iter().find(|reader| reader.record.reader == "waits for late").unwrap();
    assert!(!waiting.view.set.is_empty() && events[0].service != "late", "it waited, and heard");
    assert!(history.readers.iter().all(|reader| reader.view.resets == 0), "short histories are never lost");
}
