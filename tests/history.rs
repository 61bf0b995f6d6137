//! Concurrent writers and readers of every kind over real gRPC, with all invariants checked over the results.

mod final_state;
mod follow;
mod writer;

use std::time::Duration;

use tokio::{sync::watch, task::JoinSet};

use crate::{
    harness::{Engine, Filter, Key, Reader, Scope, Seed, Stalls, TestServer, Wall, wall, within},
    invariant::{self, Held, ReferenceHistory},
};
use follow::{Habit, Plan};
use writer::{Writer, WriterReport};

/// Services that writers register in. `nobody` stays empty, and `late` is used only in the second half.
const SERVICES: [&str; 4] = ["pay-card", "pay-cash", "web", "late"];
const WRITERS: u64 = 4;
/// Readers that read at once from the beginning.
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

/// Reports of the writers, and records of the readers.
struct History {
    report: WriterReport,
    readers: Vec<Reader>,
    reference: ReferenceHistory,
    /// Instances that self-preservation kept.
    held: Held,
    /// Instances that are left in the end.
    left: Vec<Key>,
    /// Time from which an operator had reset self-preservation.
    quiet: Wall,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_history_in_memory_or_etcd_keeps_all_invariants() {
    let engine = if Engine::usual() == Engine::Etcd { Engine::Etcd } else { Engine::Memory };
    Box::pin(assert_all_invariants(engine)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_history_on_disk_keeps_all_invariants() {
    Box::pin(assert_all_invariants(Engine::Disk)).await;
}

async fn assert_all_invariants(engine: Engine) {
    let seed = Seed::from_environment();
    let stalls = Stalls::of_this_machine();
    let server = TestServer::on(engine, |_| {});
    let history = Box::pin(play(&server, &seed)).await;
    for reader in &history.readers {
        invariant::check_record(&reader.record, &history.reference).unwrap();
    }
    let WriterReport { lifetimes, reads, .. } = &history.report;
    invariant::read_your_writes::check(reads, &history.reference).unwrap();
    invariant::live_stays::check(lifetimes, &history.reference).unwrap();
    let held = &history.held;
    invariant::dead_goes::check(lifetimes, &history.reference, held, wall(), |from| stalls.since(from)).unwrap();
    invariant::never_empty_by_inference::check(lifetimes, &history.reference, history.quiet).unwrap();
    for reader in history.readers.iter().filter(|reader| STEADY.contains(&&*reader.record.reader)) {
        invariant::dead_goes::check_received(&reader.record, lifetimes, &history.reference, held, |from| {
            stalls.since(from)
        })
        .unwrap();
    }
    let shown = final_state::shown(&server, &history.readers, &history.left).await;
    invariant::converges::check(&shown).unwrap();
    something_was_checked(&history);
}

async fn play(server: &TestServer, seed: &Seed) -> History {
    let (goal, goals) = watch::channel(None);
    let mut reading = JoinSet::new();
    for (number, plan) in (1_000..).zip(plans()) {
        let open = plan.open(server.grpc(), seed.random(number), goals.clone());
        reading.spawn(open);
    }
    let mut everything = Reader::open(&server.client().await, "everything", Scope::Everything, Filter::NONE).await;
    let mut writing = JoinSet::new();
    for number in 0..WRITERS {
        let writer = Writer::new(server.client().await, number, seed.random(number)).await;
        writing.spawn(writer.write(HALF));
    }
    let mut report = WriterReport::default();
    let mut left: Vec<Key> = Vec::new();
    while let Some(writer) = writing.join_next().await {
        let (writer_report, writer_left) = writer.unwrap();
        report.extend(writer_report);
        left.extend(writer_left);
    }
    left.sort();
    let quiet = wall();
    within("instances without heartbeats are removed", all_gone(server, &mut everything, &left)).await;
    let held = Held::by(&server.client().await.self_preservation_events().await);
    let events = server.client().await.events().await;
    let newest = events.last().unwrap().revision;
    goal.send_replace(Some(newest));
    let mut readers = reading.join_all().await;
    everything.until("the newest revision", |view| view.revision >= newest).await;
    readers.push(everything);
    let answered = std::mem::take(&mut report.seen);
    let reference = ReferenceHistory::gather(events, readers.iter().map(|reader| &reader.record), answered).unwrap();
    History { report, readers, reference, held, left, quiet }
}

/// Waits until silent instances are gone: they expire, or an operator resets self-preservation because many stopped at once.
async fn all_gone(server: &TestServer, everything: &mut Reader, left: &[Key]) {
    let client = server.client().await;
    let mut pace = tokio::time::interval(Duration::from_millis(500));
    while !everything.view.set.keys().eq(left) {
        tokio::select! {
            message = everything.message() => {
                message.unwrap();
            }
            _ = pace.tick() => {
                client.reset_self_preservation(None).await;
            }
        }
    }
}

/// Asserts that the history has events of each kind: an empty history would pass every check.
fn something_was_checked(history: &History) {
    use callboard::pb::callboard::v1::{
        Event, EventKind, InstanceStatus, RemovalReason, change::Change, watch_response::Message,
    };
    let events = &history.reference.events;
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
        ("graces", history.report.lifetimes.iter().filter(|lifetime| lifetime.broke.is_some()).count()),
        ("reads", history.report.reads.len()),
    ];
    let messages = |reader: &Reader, is: fn(&Message) -> bool| {
        let received = reader.record.observations.iter().filter_map(|observation| match &observation.what {
            crate::harness::What::Message(message) => message.message.as_ref(),
            _ => None,
        });
        received.filter(|message| is(message)).count()
    };
    let count_messages =
        |is: fn(&Message) -> bool| history.readers.iter().map(|reader| messages(reader, is)).sum::<usize>();
    let resumed = history.readers.iter().flat_map(|reader| &reader.record.observations);
    let resumed =
        resumed.filter(|observation| matches!(observation.what, crate::harness::What::Opened { resumes: true }));
    let folded = |message: &Message| matches!(message, Message::Changes(changes) if changes.changes.len() > 1);
    let left = |message: &Message| {
        let Message::Changes(changes) = message else { return false };
        changes.changes.iter().any(|change| {
            let reason = RemovalReason::NoLongerMatches;
            matches!(&change.change, Some(Change::Removed(gone)) if gone.reason() == reason)
        })
    };
    let received = [
        ("resumed", resumed.count()),
        ("folded", count_messages(folded)),
        ("no longer matches", count_messages(left)),
        ("bookmarks", count_messages(|message| matches!(message, Message::Bookmark(_)))),
    ];
    println!("{} events: {kinds:?}, {received:?}", events.len());
    for (what, count) in kinds.into_iter().chain(received) {
        assert!(count > 0, "there was no {what} in this history, so nothing was checked of it");
    }
    let waiting = history.readers.iter().find(|reader| reader.record.reader == "waits for late").unwrap();
    assert!(
        !waiting.view.set.is_empty() && events[0].service != "late",
        "the early watch of `late` receives its instances"
    );
    assert!(history.readers.iter().all(|reader| reader.view.resets == 0), "short histories are never lost");
}
