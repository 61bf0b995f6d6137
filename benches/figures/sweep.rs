//! What it costs to look after a million leases: sweeps of a registry in this process, whose clock is in our hands.

use std::sync::Arc;

use anyhow::Result;
use callboard::{
    engine::Memory,
    model::{
        Address, BootId, Incarnation, InstanceId, LeaseId, LeaseTerms, Metadata, ServiceName, Tags, UnixMillis, Weight,
    },
    registry::{ChangeListener, ClockReading, Command, Event, InstanceDescription, Lease, Register},
};

use crate::{
    client::milliseconds,
    now,
    report::{Report, quantile, sorted},
};

const LEASES: u32 = 1_000_000;
/// Milliseconds between two sweeps.
const SWEEP: u32 = 100;
/// Milliseconds of a time to live; heartbeats come every third of it.
const TTL: u32 = 15_000;
const BEATS: u32 = TTL / 3 / SWEEP;

#[derive(Debug)]
struct Nobody;

impl ChangeListener for Nobody {
    fn changed(&self, _: &Event) {}
}

struct Stage {
    engine: Memory,
    leases: Vec<Arc<Lease>>,
    time: u32,
}

fn at(ms: u32) -> ClockReading {
    ClockReading { monotonic_us: u64::from(ms) * 1_000, lease: ms.into(), wall: UnixMillis(ms.into()) }
}

impl Stage {
    /// A million instances in so many services, with heartbeats spread evenly.
    fn new(services: u32) -> Result<Self> {
        let engine = Memory::new(Incarnation(1), at(0), Arc::new(Nobody));
        let description = InstanceDescription {
            addresses: Address::parse_all([("10.0.0.1", 80, "")].into_iter())?,
            tags: Tags::default(),
            metadata: Metadata::default(),
            weight: Weight::DEFAULT,
            locality: None,
        };
        let mut leases = Vec::new();
        for number in 0..LEASES {
            let asked = Register {
                checks: Vec::new(),
                service: ServiceName::parse(&format!("service-{}", number % services))?,
                id: InstanceId::parse(&format!("i{number:07}"))?,
                boot: BootId::parse("boot")?,
                description: description.clone(),
                terms: LeaseTerms::grant(None, None),
                starting: false,
                replace: false,
                lease: LeaseId(u128::from(number)),
            };
            let entry = engine.submit(Command::Register(asked), at(0))?.entry;
            leases.extend(entry.and_then(|entry| entry.lease.clone()));
        }
        Ok(Self { engine, leases, time: 0 })
    }

    /// So many sweeps, with the heartbeats that are due between them, but for those of the silent; returns what each took, in
    /// milliseconds: the sweep, and doing what came of it.
    fn pass(&mut self, sweeps: u32, silent: impl Fn(usize) -> bool) -> (Vec<f64>, Vec<f64>) {
        let (mut looking, mut doing) = (Vec::new(), Vec::new());
        for _ in 0..sweeps {
            self.time += SWEEP;
            let turn = (self.time / SWEEP % BEATS) as usize;
            for number in (turn..self.leases.len()).step_by(BEATS as usize).filter(|number| !silent(*number)) {
                // Whose lease has ended does not hear that here.
                let _ = self.leases[number].renew(self.time.into(), None);
            }
            let start = now();
            let commands = self.engine.registry().sweep(at(self.time));
            looking.push(milliseconds(start.elapsed()));
            let start = now();
            for command in commands {
                let _ = self.engine.submit(command, at(self.time));
            }
            doing.push(milliseconds(start.elapsed()));
        }
        (looking, doing)
    }
}

/// All in one service, and ten in each.
pub fn run(report: &mut Report) -> Result<()> {
    for (kind, services) in [("one_service", 1), ("services_of_ten", LEASES / 10)] {
        let mut stage = Stage::new(services)?;
        stage.pass(2 * TTL / SWEEP, |_| false);
        let mut add = |what: &str, took: (Vec<f64>, Vec<f64>), note: &str| {
            for (part, times) in [("looking", took.0), ("doing", took.1)] {
                #[expect(clippy::cast_precision_loss, reason = "a few hundred sweeps")]
                let mean = times.iter().sum::<f64>() / times.len() as f64;
                report.add(format!("sweep_{kind}_{what}_{part}_mean"), mean, "ms", note);
                let most = quantile(&sorted(times), 1.0);
                report.add(format!("sweep_{kind}_{what}_{part}_max"), most, "ms", note);
            }
        };
        add("quiet", stage.pass(TTL / SWEEP, |_| false), "a million leases, all heartbeats come");
        // Evenly spread over services and beats.
        let dead =
            |share: usize| move |number: usize| number.wrapping_mul(2_654_435_761) >> 7 & 127 < share * 128 / 100;
        add("one_percent", stage.pass(2 * TTL / SWEEP, dead(1)), "1 % fall silent within a third of a time to live");
        add("sixty_percent", stage.pass(2 * TTL / SWEEP, dead(60)), "60 % do, and are held");
        add("held", stage.pass(TTL / SWEEP, dead(60)), "they are still held");
        add("back", stage.pass(TTL / SWEEP, dead(1)), "and come back");
    }
    Ok(())
}
