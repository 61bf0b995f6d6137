//! kill -9 of a registry with a data directory while it is written, starts and stops.
//!
//! Many clients write, each to its own instances, until the registry is killed. After each restart an audit verifies that every
//! acknowledged write is there, and every other write is complete or absent. Readers read all the time. The reference history for
//! them is made of the writes and the audits, because the event log of the registry starts anew with each process.

mod heartbeats;
mod history_builder;
mod reader;
mod relaxed;
mod writer;

use std::{path::Path, sync::Arc, time::Duration};

use callboard::pb::callboard::v1::ResetReason;
use rustix::process::Signal;
use tokio::{
    sync::{Barrier, watch},
    task::JoinSet,
    time::sleep,
};

use super::wanted;
use crate::{
    harness::{Filter, Random, Reader, Scope, Seed, ServerProcess, StepLog, View, Wall, steady_port, within},
    invariant::{self, fail_static, gapless},
};
use heartbeats::HeartbeatInstances;
use history_builder::HistoryBuilder;
use writer::{Writer, WriterCounts};

/// Clients that write.
const WRITERS: u64 = 32;
/// Kills of one history. Then another begins with another directory, because a history is checked in memory.
const KILLS: u64 = 20;
/// Range of the time of writing in one incarnation, in milliseconds.
const WRITING_MS: (u64, u64) = (20, 250);
/// Range of the time from the beginning of a start or a shutdown to the kill, in milliseconds.
const KILL_DELAY: (u64, u64) = (0, 60);

/// Registrations after a start.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Number of the process, from 0.
    pub incarnation: usize,
    pub view: View,
    /// Time up to which no acknowledged write may be lost.
    pub sure: Wall,
}

/// Phase of the writers.
#[derive(Debug, Clone)]
pub enum Phase {
    /// The writers start with the audit, and write until the registry is gone.
    Write(Arc<Audit>),
    /// The writers compare their writes with the audit, and end.
    Over(Arc<Audit>),
}

/// A registry that is killed and started again.
#[derive(Debug)]
struct KilledRegistry {
    serve: Option<ServerProcess>,
    address: String,
    arguments: Vec<String>,
    random: Random,
    /// True if some kills come during a shutdown, which may then be complete.
    may_leave: bool,
    starts: u64,
    graceful_stops: u64,
}

impl KilledRegistry {
    async fn start(directory: &Path, durability: &str, random: Random) -> Self {
        let directory = directory.join("data").to_str().unwrap().to_owned();
        let arguments = ["--data-dir", &directory, "--durability", durability].map(ToOwned::to_owned).to_vec();
        let address = format!("127.0.0.1:{}", steady_port());
        let mut target =
            Self { serve: None, address, arguments, random, may_leave: true, starts: 0, graceful_stops: 0 };
        target.restart(&StepLog::default()).await;
        target
    }

    fn serve(&self) -> &ServerProcess {
        self.serve.as_ref().expect("it runs")
    }

    async fn kill(&mut self, steps: &StepLog) {
        let serve = self.serve.take().expect("it runs");
        if self.may_leave && self.random.one_in(8) {
            let haste = self.random.millis(KILL_DELAY.0, KILL_DELAY.1);
            steps.note(format!("killed {haste:?} after SIGTERM"));
            serve.child.signal(Signal::TERM);
            sleep(haste).await;
            self.graceful_stops += 1;
        }
        serve.child.kill().await;
    }

    /// Starts the registry, often after starts that are killed.
    async fn restart(&mut self, steps: &StepLog) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        while self.random.one_in(2) {
            let haste = self.random.millis(KILL_DELAY.0, KILL_DELAY.1);
            steps.note(format!("killed {haste:?} after its start"));
            let begun = ServerProcess::begin(&self.address, &arguments);
            sleep(haste).await;
            begun.kill().await;
            self.starts += 1;
        }
        self.serve = Some(ServerProcess::start_at(&self.address, &arguments).await);
    }
}

/// Returns the registrations that a new reader receives.
async fn audit(serve: &ServerProcess, incarnation: usize, sure: Wall) -> Arc<Audit> {
    let mut reader = Reader::open(&serve.client().await, "audit", Scope::Everything, Filter::NONE).await;
    reader.until("synced", |view| !view.token.is_empty()).await;
    Arc::new(Audit { incarnation, view: reader.view, sure })
}

/// Writers, with a barrier at which all of them have noticed that the registry is gone.
struct Crew {
    phase: watch::Sender<Phase>,
    noticed: Arc<Barrier>,
    tasks: JoinSet<Writer>,
}

impl Crew {
    async fn start(target: &KilledRegistry, seed: &Seed, found: Arc<Audit>) -> Self {
        let phase = watch::Sender::new(Phase::Write(found));
        let noticed = Arc::new(Barrier::new(usize::try_from(WRITERS).unwrap() + 1));
        let mut tasks = JoinSet::new();
        for number in 0..WRITERS {
            let writer = Writer::new(target.serve().client().await, number, seed.random(number));
            tasks.spawn(writer.write(phase.subscribe(), Arc::clone(&noticed)));
        }
        Self { phase, noticed, tasks }
    }

    /// Lets the writers write for `lasts`.
    async fn run(&mut self, lasts: Duration) {
        tokio::select! {
            () = sleep(lasts) => {}
            failed = self.tasks.join_next() => Self::fail(failed),
        }
    }

    /// Waits until all tasks have noticed that the registry is gone.
    async fn notice(&mut self) {
        let noticed = Arc::clone(&self.noticed);
        tokio::select! {
            _ = within("all tasks notice the kill", noticed.wait()) => {}
            failed = self.tasks.join_next() => Self::fail(failed),
        }
    }

    /// Panics with the counts of a writer that ended early, because it found a violation.
    fn fail(ended: Option<Result<Writer, tokio::task::JoinError>>) {
        panic!("a writer failed: {:?}", ended.map(|ended| ended.map(|writer| writer.counts)));
    }

    async fn finish(self, found: Arc<Audit>) -> Vec<Writer> {
        self.phase.send_replace(Phase::Over(found));
        self.tasks.join_all().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute, or as many kills as CALLBOARD_TEST_KILLS says: just faults"]
async fn registry_killed_at_any_time_keeps_acknowledged_writes() {
    let (mut counts, mut starts, mut graceful_stops) = (WriterCounts::default(), 0, 0);
    let kills = wanted("CALLBOARD_TEST_KILLS", 40);
    for first in (0..kills).step_by(KILLS.try_into().unwrap()) {
        let (written, target) = history(KILLS.min(kills - first)).await;
        counts.add(&written);
        starts += target.starts;
        graceful_stops += target.graceful_stops;
        let killed = (first + KILLS).min(kills);
        println!("{killed} kills, {graceful_stops} of them during a shutdown, and {starts} during a start: {counts}");
    }
    assert!(
        counts.acknowledged > 10 * kills && counts.undone + counts.done > 0,
        "hardly anything was written: {counts}"
    );
    assert_eq!(counts.lost, 0);
}

/// Kills a registry this many times while it is written, and checks all invariants over the results.
async fn history(kills: u64) -> (WriterCounts, KilledRegistry) {
    let (seed, steps, directory) = (Seed::from_environment(), StepLog::default(), tempfile::tempdir().unwrap());
    let mut target = KilledRegistry::start(directory.path(), "durable", seed.random(1_000)).await;
    let registry = target.serve().grpc;
    let mut found = audit(target.serve(), 0, 0).await;
    let mut crew = Crew::start(&target, &seed, Arc::clone(&found)).await;
    let instances = HeartbeatInstances::register(&target.serve().client().await).await;
    let (goal, goals) = watch::channel(None);
    let reading = reader::all(registry, &seed, &goals).await;
    let beating = tokio::spawn(instances.beat(goals.clone()));
    let outputs = tokio::spawn(reader::client(registry, goals.clone()));
    let mut bases = vec![found.view.revision];
    for incarnation in 0..usize::try_from(kills).unwrap() {
        if incarnation > 0 {
            crew.phase.send_replace(Phase::Write(Arc::clone(&found)));
        }
        let lasts = target.random.millis(WRITING_MS.0, WRITING_MS.1);
        steps.note(format!("process {incarnation} lasts {lasts:?}"));
        crew.run(lasts).await;
        target.kill(&steps).await;
        crew.notice().await;
        target.restart(&steps).await;
        found = audit(target.serve(), incarnation + 1, Wall::MAX).await;
        bases.push(found.view.revision);
    }
    let writers = crew.finish(Arc::clone(&found)).await;
    goal.send_replace(Some(found.view.revision));
    let lifetimes = beating.await.unwrap();
    let readers = reading.join_all().await;
    let (outputs, known) = outputs.await.unwrap();

    let mut counts = WriterCounts::default();
    for writer in &writers {
        counts.add(&writer.counts);
    }
    let builder = HistoryBuilder { lifetimes: &lifetimes, writers: &writers, readers: &readers, bases: &bases };
    let reference = builder.reference();
    for reader in &readers {
        invariant::check_record(&reader.record, &reference).unwrap();
        reader::check_resets(&reader.record, &[ResetReason::Compacted]);
    }
    invariant::live_stays::check(&lifetimes, &reference).unwrap();
    fail_static::check(&outputs).unwrap();
    gapless::check_client(&outputs, &reference, Scope::Everything).unwrap();
    let left: Vec<_> = found.view.set.iter().map(|(key, instance)| (key.clone(), instance.revision)).collect();
    assert!(known.set.into_iter().eq(left), "the client ends with the registered instances");
    (counts, target)
}

/// Waits between two attempts to reach a server that restarts.
async fn pause() {
    sleep(Duration::from_millis(5)).await;
}
