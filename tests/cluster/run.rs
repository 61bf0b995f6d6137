//! Run of a cluster through faults, and the checks of what its clients recorded.

use std::{collections::BTreeMap, time::Duration};

use callboard::pb::callboard::v1::Event;
use tokio::time::{sleep, timeout};

use super::{
    agreement::{Instances, agree, shown, stored},
    fault::Fault,
    test_cluster::{SIZE, Surroundings, TestCluster},
    work::{LIVE, TICKS, WRITTEN},
    workload::{WorkRecords, Workload, first_lost},
};
use crate::{
    harness::{Key, Random, Reader, Scope, Seed, Span, Stalls, StepLog, Wall, What, key, wall, within},
    invariant::{
        Held, InstanceLifetime, ReferenceHistory,
        converges::{self, Shown},
        fail_static, gapless, live_present, one_boot, ordered,
        orphan_goes::{self, FaultTimes},
        resumable, unique,
    },
};

/// Time for which clients work before the first fault, and usually after each.
const CALM: Duration = Duration::from_secs(2);
/// Maximum time from the end of a fault until all replicas have what etcd has.
const MAX_AGREEMENT: Duration = Duration::from_secs(5);
/// The same after etcd has lost data, when replicas may have to be started again.
const MAX_RECOVERY: Duration = Duration::from_secs(45);
/// Interval at which ended replicas are started again.
const SUPERVISION: Duration = Duration::from_millis(200);
/// Number of faults after which the events are gathered: a replica that starts has the newest ones only.
const FAULTS_PER_GATHERING: usize = 8;

/// Cluster with clients, which goes through faults one after the other.
#[derive(Debug)]
pub struct FaultRun {
    pub cluster: TestCluster,
    /// Clients, until they have ended.
    work: Option<Workload>,
    /// Prints itself if the run fails.
    _seed: Seed,
    pub random: Random,
    /// Time for which clients work after each fault.
    pub calm: Duration,
    steps: StepLog,
    began: Wall,
    faults: Vec<Span>,
    /// Events of all replicas by revision, as far as they were gathered.
    events: BTreeMap<u64, Event>,
    has_lost_data: bool,
    /// Set if a replica may have missed changes: its events then have revisions of their own.
    has_compacted: bool,
}

/// Figures of a run.
#[derive(Debug)]
pub struct RunFigures {
    /// Longest time in milliseconds that a watcher received no change while something changed five times a second.
    pub longest_silence: Wall,
    /// Instances with heartbeats that some watcher lost.
    pub lost_live: usize,
}

impl FaultRun {
    /// Starts cluster and clients. Returns `None` if the environment permits skipping tests that need such surroundings.
    pub async fn start(surroundings: Surroundings) -> Option<Self> {
        Stalls::of_this_machine();
        let seed = Seed::from_environment();
        println!("choices come back with CALLBOARD_TEST_SEED={}", seed.0);
        let cluster = TestCluster::start(surroundings).await?;
        let work = Some(Box::pin(Workload::start(&cluster.addresses(), &seed)).await);
        sleep(CALM).await;
        let (random, steps, began) = (seed.random(1_000), StepLog::default(), wall());
        Some(Self {
            cluster,
            work,
            _seed: seed,
            random,
            calm: CALM,
            steps,
            began,
            faults: Vec::new(),
            events: BTreeMap::new(),
            has_lost_data: false,
            has_compacted: false,
        })
    }

    /// Injects a fault for this time, waits until all replicas agree with etcd again, and lets the clients work.
    pub async fn inject(&mut self, fault: Fault, hold: Duration) {
        let name = format!("{fault:?} for {} ms", hold.as_millis());
        self.note(&format!("{name} begins"));
        let span = Box::pin(fault.inject(&mut self.cluster, &mut self.random, hold)).await;
        self.note(&format!("{name} ends"));
        self.faults.push(span);
        self.has_lost_data |= fault.loses_data();
        self.has_compacted |= fault.loses_data() || matches!(fault, Fault::CompactUnseen(_) | Fault::ReachQuota);
        self.work().assert_running();
        if fault.loses_data() {
            self.recover(span.to).await;
        }
        self.agree(span.to, if fault.loses_data() { MAX_RECOVERY } else { MAX_AGREEMENT }).await;
        self.work().assert_running();
        if self.faults.len().is_multiple_of(FAULTS_PER_GATHERING) {
            self.gather_events().await;
        }
        sleep(self.calm).await;
    }

    async fn gather_events(&mut self) {
        let addresses = self.cluster.addresses();
        for replica in 0..SIZE {
            let events = addresses.client(replica).events().await;
            self.events.extend(events.into_iter().map(|event| (event.revision, event)));
        }
    }

    fn work(&self) -> &Workload {
        self.work.as_ref().expect("clients run until the end")
    }

    async fn agree(&self, healed: Wall, allowed: Duration) -> Instances {
        self.work().pause(true);
        let instances = agree(&self.cluster, healed, allowed).await;
        self.work().pause(false);
        instances
    }

    /// Starts replicas that have ended, until all live instances are registered in etcd and at all of them again. A replica that does not know
    /// yet that the data is lost still shows all.
    async fn recover(&mut self, healed: Wall) {
        let addresses = self.cluster.addresses();
        let live: Vec<_> = Workload::live_ids().map(|id| key(LIVE, &id)).collect();
        let recovering = async {
            loop {
                let restarted = self.cluster.restart_ended().await;
                if restarted > 0 {
                    println!("      {restarted} replicas had ended and were started again");
                }
                let stored = stored(&self.cluster).await;
                let mut is_complete = stored.is_ok_and(|stored| live.iter().all(|live| stored.contains_key(live)));
                for replica in 0..SIZE {
                    let listed = shown(&addresses.client(replica)).await;
                    is_complete &= listed.is_ok_and(|listed| live.iter().all(|live| listed.contains_key(live)));
                }
                if is_complete {
                    return;
                }
                sleep(SUPERVISION).await;
            }
        };
        timeout(MAX_RECOVERY, recovering).await.expect("all instances are registered again in time");
        self.note(&format!("all live instances are registered again after {} ms", wall() - healed));
    }

    fn note(&self, what: &str) {
        let line = format!("{:6.1} s: {what}", Duration::from_millis(wall() - self.began).as_secs_f64());
        println!("{line}");
        self.steps.note(line);
    }

    /// Ends all clients, and checks everything that they recorded.
    pub async fn finish(mut self) -> RunFigures {
        let work = self.work.take().expect("clients run until the end");
        work.end_writes();
        let ended = wall();
        let left = agree(&self.cluster, ended, MAX_AGREEMENT).await;
        let looked = wall();
        let addresses = self.cluster.addresses();
        let mut held = Vec::new();
        for replica in 0..SIZE {
            held.push(Held::by(&addresses.client(replica).self_preservation_events().await));
        }
        self.gather_events().await;
        let newest = *self.events.keys().next_back().expect("something happened");
        let records = within("the end of all clients", work.finish(newest)).await;
        // Leases expire meanwhile: readers have seen changes after that revision.
        self.gather_events().await;
        let ticked = Span { from: self.began, to: ended };
        let figures = figures(&records, ticked);
        println!("{figures:?}");
        if !self.has_lost_data {
            check_presence(&records, &self.events);
        }
        check_tenures(&records);
        self.check_removals(&records, &left, looked, &held);
        let events = (!self.has_compacted).then(|| self.events.values().cloned().collect());
        check_readers(&records, events);
        if !self.has_lost_data {
            for writer in &records.writers {
                writer.check(&left).unwrap();
            }
        }
        check_convergence(&records, &left);
        assert_something_was_checked(&records);
        figures
    }

    /// Checks that instances without heartbeats are gone in time.
    fn check_removals(&self, records: &WorkRecords, left: &Instances, looked: Wall, held: &[Held]) {
        let gone = first_lost(&records.lost);
        // An instance that is gone, and that no watcher lost, was there only while none was connected.
        let seen = |life: &&InstanceLifetime| {
            let instance = key(&life.service, &life.id);
            gone.contains_key(&instance) || left.contains_key(&instance)
        };
        let lifetimes: Vec<_> = records.short_lived.iter().filter(seen).cloned().collect();
        // After a loss of data, watchers see nothing until the registry has settled.
        assert!(
            self.has_lost_data || 2 * lifetimes.len() > records.short_lived.len(),
            "watchers saw {} short-lived instances",
            lifetimes.len()
        );
        let faults = FaultTimes { spans: &self.faults, replicas: SIZE as u64 };
        let stalls = Stalls::of_this_machine();
        orphan_goes::check(&lifetimes, &gone, faults, held, looked, |span| stalls.between(span)).unwrap();
    }
}

/// Checks that no watcher lost an instance with heartbeats. Prints the events of one that was lost.
fn check_presence(records: &WorkRecords, events: &BTreeMap<u64, Event>) {
    let stalls = Stalls::of_this_machine();
    for (watcher, lost) in &records.lost {
        let lifetimes = records.live.iter().chain(&records.short_lived).cloned().collect::<Vec<_>>();
        let Err(error) = live_present::check(watcher, lost, &lifetimes) else { continue };
        let live_present::LiveAbsent::Absent { instance, .. } = &error else { panic!("{error}") };
        for event in events.values().filter(|event| key(&event.service, &event.instance_id) == *instance) {
            eprintln!("{event:?}");
        }
        for lifetime in lifetimes.iter().filter(|life| key(&life.service, &life.id) == *instance) {
            eprintln!("renewals: {:?}", lifetime.renewals);
        }
        panic!("{error}");
    }
    live_present::check_renewed(&records.live, |span| stalls.between(span)).unwrap();
}

fn check_tenures(records: &WorkRecords) {
    let stalls = Stalls::of_this_machine();
    one_boot::check(&records.tenures, |from, to| stalls.between(Span { from, to })).unwrap();
}

/// Checks the streams of the watchers, with the events of all replicas if each change has one revision.
fn check_readers(records: &WorkRecords, events: Option<Vec<Event>>) {
    for reader in &records.readers {
        let name = &reader.record.reader;
        let failed = |error: &dyn std::fmt::Display| panic!("{name}: {error}");
        ordered::check(&reader.record).unwrap_or_else(|error| failed(&error));
        unique::check(&reader.record).unwrap_or_else(|error| failed(&error));
        resumable::check(&reader.record).unwrap_or_else(|error| failed(&error));
    }
    fail_static::check(&records.library.outputs).unwrap();
    let Some(events) = events else { return };
    let record = records.readers.iter().map(|reader| &reader.record);
    let reference = ReferenceHistory::gather(events, record, []).unwrap();
    for reader in &records.readers {
        gapless::check(&reader.record, &reference).unwrap_or_else(|error| panic!("{}: {error}", reader.record.reader));
    }
    gapless::check_client(&records.library.outputs, &reference, Scope::Everything).unwrap();
}

/// Checks that all watchers end with the set that the replicas have. Short-lived instances may go meanwhile.
fn check_convergence(records: &WorkRecords, left: &Instances) {
    let lasting =
        |(service, id): &&Key| [TICKS, WRITTEN].contains(&&**service) || service == LIVE && !id.starts_with("short");
    let shown = |reader: &Reader| Shown {
        origin: reader.record.reader.clone(),
        set: reader.view.set.keys().filter(lasting).cloned().collect(),
        should: left.keys().filter(lasting).cloned().collect(),
    };
    converges::check(&records.readers.iter().map(shown).collect::<Vec<_>>()).unwrap();
}

/// Asserts that there was something to check: an empty history would pass every check.
fn assert_something_was_checked(records: &WorkRecords) {
    let sum = |of: fn(&super::writer::Writer) -> u64| records.writers.iter().map(of).sum::<u64>();
    let (acknowledged, unknown, stale) =
        (sum(|writer| writer.acknowledged), sum(|writer| writer.unknown), sum(|writer| writer.stale_deletes));
    let renewals: usize = records.live.iter().map(|lifetime| lifetime.renewals.len()).sum();
    let boots: std::collections::BTreeSet<_> = records.tenures.iter().map(|tenure| &tenure.boot[..6]).collect();
    println!(
        "{acknowledged} writes acknowledged, {unknown} without an answer; {stale} deletes with an earlier lease; {renewals} renewals of \
         live instances, registered {:?} times; {} short-lived ones; {} tenures of {boots:?}; {} ticks",
        records.registrations,
        records.short_lived.len(),
        records.tenures.len(),
        records.ticks
    );
    assert!(acknowledged > 10 && stale > 0 && renewals > 20 && records.ticks > 4);
    assert!(!records.short_lived.is_empty() && !boots.is_empty());
}

fn figures(records: &WorkRecords, ticked: Span) -> RunFigures {
    let silence = |reader: &Reader| {
        let received =
            reader.record.observations.iter().filter(|observation| matches!(observation.what, What::Message(_)));
        let times: Vec<_> =
            received.map(|observation| observation.at).filter(|at| (ticked.from..=ticked.to).contains(at)).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    };
    let is_live = |(service, id): &Key| service == LIVE && !id.starts_with("short");
    RunFigures {
        longest_silence: records.readers.iter().map(silence).max().unwrap_or(0),
        lost_live: records.lost.iter().flat_map(|(_, lost)| lost).filter(|lost| is_live(&lost.instance)).count(),
    }
}
