//! SIGSTOP of the registry, of instances, and of both at once.

use std::{collections::HashMap, time::Duration};

use callboard::pb::callboard::v1::EventKind;
use rustix::process::Signal;
use tokio::time::sleep;

use super::last_renewal;
use crate::{
    harness::{Child, Filter, Random, Reader, Scope, Seed, ServerProcess, Span, Stalls, StepLog, wall},
    invariant::{self, Held, InstanceLifetime, ReferenceHistory, Stop, dead_goes, live_stays},
};

const COUNT: usize = 4;

/// Registry and registered programs.
struct StoppableProcesses {
    serve: ServerProcess,
    programs: Vec<Child>,
    everything: Reader,
}

impl StoppableProcesses {
    /// Starts two programs in each service, so that self-preservation does not hold them.
    async fn start(ttl: &str) -> Self {
        let serve = ServerProcess::start(&[]).await;
        let address = serve.address();
        let mut everything = Reader::open(&serve.client().await, "everything", Scope::Everything, Filter::NONE).await;
        let mut programs = Vec::new();
        for number in 0..COUNT {
            let (service, id) = (format!("s{}", number / 2), format!("p{number}"));
            let place = ["register", &service, "127.0.0.1:9001", "--id", &id];
            let options = ["--ttl", ttl, "-o", "json", "--server", &address];
            let mut program = Child::start(&[&place[..], &options].concat());
            program.of_type("registered").await;
            programs.push(program);
        }
        everything.until("all there", |view| view.set.len() == COUNT).await;
        Self { serve, programs, everything }
    }

    async fn reference(&mut self) -> ReferenceHistory {
        let events = self.serve.client().await.events().await;
        let newest = events.last().unwrap().revision;
        self.everything.until("the newest revision", |view| view.revision >= newest).await;
        let reference = ReferenceHistory::gather(events, [&self.everything.record], []).unwrap();
        invariant::check_record(&self.everything.record, &reference).unwrap();
        reference
    }
}

/// Returns the lifetime of a program from its first registration; `renewal` contains its last renewal.
fn lifetime(reference: &ReferenceHistory, number: usize, ttl: u64, renewal: Span) -> InstanceLifetime {
    let (service, id) = (format!("s{}", number / 2), format!("p{number}"));
    let registered = reference.of(&service, &id).find(|event| event.kind() == EventKind::Registered).unwrap();
    let revision = registered.revision;
    InstanceLifetime {
        service,
        id,
        ttl,
        grace: None,
        revision,
        renewals: vec![renewal],
        broke: None,
        stop: Stop::Silent,
    }
}

/// Stopped processes, and the time for which they are stopped.
#[derive(Debug)]
enum Pause {
    Registry(Duration),
    /// Shorter than the time that a heartbeat leaves of the TTL.
    Program(usize, Duration),
    /// The registry or the programs continue first, and the others `later`.
    Both {
        lasts: Duration,
        registry_first: bool,
        later: Duration,
    },
}

impl Pause {
    async fn take(&self, processes: &StoppableProcesses) {
        let registry = |signal| processes.serve.child.signal(signal);
        let programs = |signal| processes.programs.iter().for_each(|program| program.signal(signal));
        match self {
            Self::Registry(lasts) => {
                registry(Signal::STOP);
                sleep(*lasts).await;
                registry(Signal::CONT);
            }
            Self::Program(number, lasts) => {
                processes.programs[*number].signal(Signal::STOP);
                sleep(*lasts).await;
                processes.programs[*number].signal(Signal::CONT);
            }
            Self::Both { lasts, registry_first, later } => {
                programs(Signal::STOP);
                registry(Signal::STOP);
                sleep(*lasts).await;
                if *registry_first {
                    registry(Signal::CONT);
                    sleep(*later).await;
                    programs(Signal::CONT);
                } else {
                    programs(Signal::CONT);
                    sleep(*later).await;
                    registry(Signal::CONT);
                }
            }
        }
    }
}

/// Returns pauses shorter and longer than a TTL of 3 s.
fn pauses(random: &mut Random) -> Vec<Pause> {
    let program = usize::try_from(random.below(COUNT as u64)).unwrap();
    vec![
        Pause::Registry(random.millis(200, 1_000)),
        Pause::Program(program, random.millis(300, 1_000)),
        Pause::Registry(random.millis(3_500, 6_000)),
        Pause::Both { lasts: random.millis(300, 1_000), registry_first: true, later: random.millis(0, 500) },
        Pause::Both { lasts: random.millis(3_500, 6_000), registry_first: true, later: random.millis(0, 1_000) },
        Pause::Both { lasts: random.millis(3_500, 6_000), registry_first: false, later: random.millis(0, 2_000) },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: just faults"]
async fn instance_stopped_for_less_than_its_ttl_stays() {
    let (seed, steps) = (Seed::from_environment(), StepLog::default());
    let mut processes = StoppableProcesses::start("3s").await;
    for pause in pauses(&mut seed.random(0)) {
        steps.note(format!("{pause:?}"));
        pause.take(&processes).await;
        // Longer than the TTL and the maximum time until a removal, after which an expired instance is removed.
        sleep(Duration::from_secs(5)).await;
        let now = Span { from: wall(), to: wall() };
        let reference = processes.reference().await;
        let lifetimes: Vec<InstanceLifetime> =
            (0..COUNT).map(|number| lifetime(&reference, number, 3_000, now)).collect();
        live_stays::check(&lifetimes, &reference).unwrap();
        assert!(reference.events.iter().all(|event| event.kind() != EventKind::Removed), "no instance was removed");
        assert_eq!(processes.everything.view.set.len(), COUNT);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes ten seconds: just faults"]
async fn instance_stopped_for_longer_expires_and_registers_again() {
    const TTL: u64 = 2_000;
    let stalls = Stalls::of_this_machine();
    let mut processes = StoppableProcesses::start("2s").await;
    // One of each service.
    let stopped = [0, 3];
    let (client, mut renewals) = (processes.serve.client().await, HashMap::new());
    for number in stopped {
        let from = last_renewal(&client, &format!("s{}", number / 2), &format!("p{number}")).await;
        processes.programs[number].signal(Signal::STOP);
        renewals.insert(number, Span { from, to: wall() });
    }
    processes.everything.until("those are gone", |view| view.set.len() == COUNT - stopped.len()).await;
    let reference = processes.reference().await;
    let now = Span { from: wall(), to: wall() };
    let renewal = |number| renewals.get(&number).copied().unwrap_or(now);
    let lifetimes: Vec<InstanceLifetime> =
        (0..COUNT).map(|number| lifetime(&reference, number, TTL, renewal(number))).collect();
    live_stays::check(&lifetimes, &reference).unwrap();
    dead_goes::check(&lifetimes, &reference, &Held::default(), wall(), |from| stalls.since(from)).unwrap();
    dead_goes::check_received(&processes.everything.record, &lifetimes, &reference, &Held::default(), |from| {
        stalls.since(from)
    })
    .unwrap();
    for number in stopped {
        processes.programs[number].signal(Signal::CONT);
        let again = processes.programs[number].of_type("registered").await;
        assert_eq!(again["again"], true, "its lease was unknown, so it registered again: {again}");
    }
    processes.everything.until("all back", |view| view.set.len() == COUNT).await;
}
