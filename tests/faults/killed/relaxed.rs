//! kill -9 of a relaxed registry: only the last second may be lost, and readers receive a reset to the new incarnation.

use std::{sync::Arc, time::Duration};

use callboard::pb::callboard::v1::ResetReason;

use super::{Crew, KilledRegistry, Phase, WriterCounts, audit};
use crate::{
    harness::{Filter, Reader, Scope, Seed, Stalls, StepLog, wall},
    invariant::kept,
};

const KILLS: usize = 6;
/// Guaranteed second, and time for the flush itself.
const FORGIVEN: Duration = Duration::from_millis(1_500);
/// Milliseconds: longer than what may be lost.
const WRITING_MS: (u64, u64) = (1_800, 3_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute: just faults"]
async fn killed_relaxed_registry_loses_at_most_the_last_second() {
    let (seed, steps, directory) = (Seed::from_environment(), StepLog::default(), tempfile::tempdir().unwrap());
    let stalls = Stalls::of_this_machine();
    let mut target = KilledRegistry::start(directory.path(), "relaxed", seed.random(1_000)).await;
    target.may_leave = false;
    let mut found = audit(target.serve(), 0, 0).await;
    let mut crew = Crew::start(&target, &seed, Arc::clone(&found)).await;
    let mut kept: Vec<Vec<u64>> = Vec::new();
    for incarnation in 0..KILLS {
        let lasts = target.random.millis(WRITING_MS.0, WRITING_MS.1);
        steps.note(format!("process {incarnation} lasts {lasts:?}"));
        // A reader with a token of this incarnation.
        let client = target.serve().client().await;
        let mut reader = Reader::open(&client, "resumes", Scope::names(&["nobody"]), Filter::NONE).await;
        reader.until("synced", |view| !view.token.is_empty()).await;
        let began = wall();
        crew.run(lasts).await;
        let sure = wall() - u64::try_from(FORGIVEN.as_millis()).unwrap() - stalls.since(began);
        target.kill(&steps).await;
        crew.notice().await;
        target.restart(&steps).await;
        found = audit(target.serve(), incarnation + 1, sure).await;
        kept.push(found.view.set.values().map(|instance| instance.revision).collect());
        assert!(found.view.revision > reader.view.revision, "for people, revisions rise");
        reader.reopen().await.unwrap();
        reader.until("a reset to the new incarnation", |view| view.resets > 0).await;
        super::reader::check_resets(&reader.record, &[ResetReason::OtherIncarnation]);
        if incarnation + 1 < KILLS {
            crew.phase.send_replace(Phase::Write(Arc::clone(&found)));
        }
    }
    let mut counts = WriterCounts::default();
    let writers = crew.finish(found).await;
    for writer in &writers {
        counts.add(&writer.counts);
    }
    println!("{KILLS} kills of a relaxed registry: {counts}");
    assert!(counts.lost > 0, "nothing was ever at risk");
    for (incarnation, kept) in kept.iter().enumerate() {
        let of = |(of, revision): &(usize, u64)| (*of == incarnation).then_some(*revision);
        let lost: Vec<u64> = writers.iter().flat_map(|writer| &writer.lost).filter_map(of).collect();
        kept::check_order(&lost, kept).unwrap();
    }
}
