//! kill -9 of a relaxed registry: only the last second may be lost, and readers are told that it is another life.

use std::{sync::Arc, time::Duration};

use callboard::pb::callboard::v1::ResetReason;

use super::{Crew, Phase, Tally, Victim, audit};
use crate::{
    harness::{Filter, Reader, Scope, Seed, Stalls, StepLog, wall},
    invariant::kept,
};

const KILLS: usize = 6;
/// A second is promised; the rest is for the flush itself.
const FORGIVEN: Duration = Duration::from_millis(1_500);
/// Milliseconds: longer than what may be lost.
const LIFE: (u64, u64) = (1_800, 3_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute: just faults"]
async fn killed_relaxed_registry_loses_at_most_the_last_second() {
    let (seed, diary, directory) = (Seed::from_environment(), StepLog::default(), tempfile::tempdir().unwrap());
    let stalls = Stalls::of_this_machine();
    let mut victim = Victim::start(directory.path(), "relaxed", seed.random(1_000)).await;
    victim.may_leave = false;
    let mut found = audit(victim.serve(), 0, 0).await;
    let mut crew = Crew::hire(&victim, &seed, Arc::clone(&found)).await;
    let mut kept: Vec<Vec<u64>> = Vec::new();
    for life in 0..KILLS {
        let lasts = victim.random.millis(LIFE.0, LIFE.1);
        diary.note(format!("life {life} lasts {lasts:?}"));
        // A reader with a token of this incarnation.
        let peer = victim.serve().peer().await;
        let mut reader = Reader::open(&peer, "resumes", Scope::names(&["nobody"]), Filter::NONE).await;
        reader.until("synced", |view| !view.token.is_empty()).await;
        let began = wall();
        crew.run(lasts).await;
        let sure = wall() - u64::try_from(FORGIVEN.as_millis()).unwrap() - stalls.since(began);
        victim.kill(&diary).await;
        crew.notice().await;
        victim.revive(&diary).await;
        found = audit(victim.serve(), life + 1, sure).await;
        kept.push(found.view.set.values().map(|instance| instance.revision).collect());
        assert!(found.view.revision > reader.view.revision, "for people, revisions rise");
        reader.reopen().await.unwrap();
        reader.until("told of another life", |view| view.resets > 0).await;
        super::reader::check_resets(&reader.record, &[ResetReason::OtherIncarnation]);
        if life + 1 < KILLS {
            crew.phase.send_replace(Phase::Write(Arc::clone(&found)));
        }
    }
    let mut tally = Tally::default();
    let writers = crew.dismiss(found).await;
    for writer in &writers {
        tally.add(&writer.tally);
    }
    println!("{KILLS} kills of a relaxed registry: {tally}");
    assert!(tally.lost > 0, "nothing was ever at risk");
    for (life, kept) in kept.iter().enumerate() {
        let of = |(of, revision): &(usize, u64)| (*of == life).then_some(*revision);
        let lost: Vec<u64> = writers.iter().flat_map(|writer| &writer.lost).filter_map(of).collect();
        kept::check_order(&lost, kept).unwrap();
    }
}
