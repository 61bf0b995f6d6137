//! kill -9 of a registry with a data directory while it is written, starts and stops.
//!
//! Many clients write, each to its own instances, until the registry is killed. After each restart an audit verifies that every
//! acknowledged write is there, and every other write is complete or absent. Readers read all the time. The reference history for
//! them is made of the writes and the audits, because the event log of the registry starts anew with each process.

mod beater;
mod chronicle;
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
use beater::Beater;
use chronicle::Chronicle;
use writer::{Tally, Writer};

/// Clients that write.
const WRITERS: u64 = 32;
/// Kills of one history. Then another begins, with another directory: histories are judged in memory.
const KILLS: u64 = 20;
/// Range of the time of writing in one incarnation, in milliseconds.
const LIFE: (u64, u64) = (20, 250);
/// Range of the time from the beginning of a start or a shutdown to the kill, in milliseconds.
const KILL_DELAY: (u64, u64) = (0, 60);

/// Registrations after a start.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Number of the process, from 0.
    pub life: usize,
    pub view: View,
    /// Time up to which no acknowledged write may be lost.
    pub sure: Wall,
}

/// Phase of the writers.
#[derive(Debug, Clone)]
pub enum Phase {
    /// The writers start with the audit, and write until the registry is gone.
    Write(Arc<Audit>),
    /// They say what they know of what was found, and end.
    Over(Arc<Audit>),
}

/// A registry that is killed and started again.
#[derive(Debug)]
struct Victim {
    serve: Option<ServerProcess>,
    address: String,
    arguments: Vec<String>,
    random: Random,
    /// Some kills come while it leaves: it may be gone in order, then.
    may_leave: bool,
    starts: u64,
    goodbyes: u64,
}

impl Victim {
    async fn start(directory: &Path, durability: &str, random: Random) -> Self {
        let directory = directory.join("data").to_str().unwrap().to_owned();
        let arguments = ["--data-dir", &directory, "--durability", durability].map(ToOwned::to_owned).to_vec();
        let address = format!("127.0.0.1:{}", steady_port());
        let mut victim = Self { serve: None, address, arguments, random, may_leave: true, starts: 0, goodbyes: 0 };
        victim.revive(&StepLog::default()).await;
        victim
    }

    fn serve(&self) -> &ServerProcess {
        self.serve.as_ref().expect("it runs")
    }

    async fn kill(&mut self, diary: &StepLog) {
        let serve = self.serve.take().expect("it runs");
        if self.may_leave && self.random.one_in(8) {
            let haste = self.random.millis(KILL_DELAY.0, KILL_DELAY.1);
            diary.note(format!("killed {haste:?} after it was told to leave"));
            serve.child.signal(Signal::TERM);
            sleep(haste).await;
            self.goodbyes += 1;
        }
        serve.child.kill().await;
    }

    /// Starts it, often after starts that are killed.
    async fn revive(&mut self, diary: &StepLog) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        while self.random.one_in(2) {
            let haste = self.random.millis(KILL_DELAY.0, KILL_DELAY.1);
            diary.note(format!("killed {haste:?} after its start"));
            let begun = ServerProcess::begin(&self.address, &arguments);
            sleep(haste).await;
            begun.kill().await;
            self.starts += 1;
        }
        self.serve = Some(ServerProcess::start_at(&self.address, &arguments).await);
    }
}

/// Everything that a fresh reader is shown.
async fn audit(serve: &ServerProcess, life: usize, sure: Wall) -> Arc<Audit> {
    let mut reader = Reader::open(&serve.peer().await, "audit", Scope::Everything, Filter::NONE).await;
    reader.until("synced", |view| !view.token.is_empty()).await;
    Arc::new(Audit { life, view: reader.view, sure })
}

/// Writers, and when all of them have noticed that the registry is gone.
struct Crew {
    phase: watch::Sender<Phase>,
    noticed: Arc<Barrier>,
    tasks: JoinSet<Writer>,
}

impl Crew {
    async fn hire(victim: &Victim, seed: &Seed, found: Arc<Audit>) -> Self {
        let phase = watch::Sender::new(Phase::Write(found));
        let noticed = Arc::new(Barrier::new(usize::try_from(WRITERS).unwrap() + 1));
        let mut tasks = JoinSet::new();
        for number in 0..WRITERS {
            let writer = Writer::new(victim.serve().peer().await, number, seed.random(number));
            tasks.spawn(writer.write(phase.subscribe(), Arc::clone(&noticed)));
        }
        Self { phase, noticed, tasks }
    }

    /// A while of writing.
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

    /// A writer writes until it is over: one that ends before has found something.
    fn fail(ended: Option<Result<Writer, tokio::task::JoinError>>) {
        panic!("a writer failed: {:?}", ended.map(|ended| ended.map(|writer| writer.tally)));
    }

    async fn dismiss(self, found: Arc<Audit>) -> Vec<Writer> {
        self.phase.send_replace(Phase::Over(found));
        self.tasks.join_all().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute, or as many kills as CALLBOARD_TEST_KILLS says: just faults"]
async fn registry_killed_at_any_time_keeps_acknowledged_writes() {
    let (mut tally, mut starts, mut goodbyes) = (Tally::default(), 0, 0);
    let kills = wanted("CALLBOARD_TEST_KILLS", 40);
    for first in (0..kills).step_by(KILLS.try_into().unwrap()) {
        let (told, victim) = history(KILLS.min(kills - first)).await;
        tally.add(&told);
        starts += victim.starts;
        goodbyes += victim.goodbyes;
        let killed = (first + KILLS).min(kills);
        println!("{killed} kills, {goodbyes} of them as it left, and {starts} as it started: {tally}");
    }
    assert!(tally.acknowledged > 10 * kills && tally.undone + tally.done > 0, "hardly anything was written: {tally}");
    assert_eq!(tally.lost, 0);
}

/// Some kills, and every promise checked over what came of them.
async fn history(kills: u64) -> (Tally, Victim) {
    let (seed, diary, directory) = (Seed::from_environment(), StepLog::default(), tempfile::tempdir().unwrap());
    let mut victim = Victim::start(directory.path(), "durable", seed.random(1_000)).await;
    let registry = victim.serve().grpc;
    let mut found = audit(victim.serve(), 0, 0).await;
    let mut crew = Crew::hire(&victim, &seed, Arc::clone(&found)).await;
    let beater = Beater::register(&victim.serve().peer().await).await;
    let (goal, goals) = watch::channel(None);
    let reading = reader::all(registry, &seed, &goals).await;
    let beating = tokio::spawn(beater.beat(goals.clone()));
    let told = tokio::spawn(reader::client(registry, goals.clone()));
    let mut bases = vec![found.view.revision];
    for life in 0..usize::try_from(kills).unwrap() {
        if life > 0 {
            crew.phase.send_replace(Phase::Write(Arc::clone(&found)));
        }
        let lasts = victim.random.millis(LIFE.0, LIFE.1);
        diary.note(format!("life {life} lasts {lasts:?}"));
        crew.run(lasts).await;
        victim.kill(&diary).await;
        crew.notice().await;
        victim.revive(&diary).await;
        found = audit(victim.serve(), life + 1, Wall::MAX).await;
        bases.push(found.view.revision);
    }
    let writers = crew.dismiss(Arc::clone(&found)).await;
    goal.send_replace(Some(found.view.revision));
    let lives = beating.await.unwrap();
    let readers = reading.join_all().await;
    let (told, known) = told.await.unwrap();

    let mut tally = Tally::default();
    for writer in &writers {
        tally.add(&writer.tally);
    }
    let chronicle = Chronicle { lives: &lives, writers: &writers, readers: &readers, bases: &bases };
    let truth = chronicle.truth();
    for reader in &readers {
        invariant::check_record(&reader.record, &truth).unwrap();
        reader::check_resets(&reader.record, &[ResetReason::Compacted]);
    }
    invariant::live_stays::check(&lives, &truth).unwrap();
    fail_static::check(&told).unwrap();
    gapless::check_told(&told, &truth, Scope::Everything).unwrap();
    let left: Vec<_> = found.view.set.iter().map(|(key, instance)| (key.clone(), instance.revision)).collect();
    assert!(known.set.into_iter().eq(left), "the client ends with what there is");
    (tally, victim)
}

/// Between two attempts to reach a server that comes and goes.
async fn pause() {
    sleep(Duration::from_millis(5)).await;
}
