//! Expiry sweeps over a million leases: a registry in this process, with a simulated clock.

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
/// Interval of sweeps in milliseconds.
const SWEEP_INTERVAL_MS: u32 = 100;
/// TTL in milliseconds; heartbeats are sent every third of it.
const TTL_MS: u32 = 15_000;
/// Sweeps from one heartbeat of an instance to the next.
const SWEEPS_PER_HEARTBEAT: u32 = TTL_MS / 3 / SWEEP_INTERVAL_MS;

#[derive(Debug)]
struct NoListener;

impl ChangeListener for NoListener {
    fn changed(&self, _: &Event) {}
}

struct SweepScenario {
    engine: Memory,
    leases: Vec<Arc<Lease>>,
    time: u32,
}

fn at(ms: u32) -> ClockReading {
    ClockReading { monotonic_us: u64::from(ms) * 1_000, lease: ms.into(), wall: UnixMillis(ms.into()) }
}

impl SweepScenario {
    /// Registers a million instances in this number of services.
    fn new(services: u32) -> Result<Self> {
        let engine = Memory::new(Incarnation(1), at(0), Arc::new(NoListener));
        let description = InstanceDescription {
            addresses: Address::parse_all([("10.0.0.1", 80, "")].into_iter())?,
            tags: Tags::default(),
            metadata: Metadata::default(),
            weight: Weight::DEFAULT,
            locality: None,
        };
        let mut leases = Vec::new();
        for number in 0..LEASES {
            let register = Register {
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
            let entry = engine.submit(Command::Register(register), at(0))?.entry;
            leases.extend(entry.and_then(|entry| entry.lease.clone()));
        }
        Ok(Self { engine, leases, time: 0 })
    }

    /// Runs sweeps and the heartbeats that are due between them, except those of silent instances. Returns the milliseconds of each
    /// sweep, and of the commands that each sweep returned.
    fn pass(&mut self, sweeps: u32, silent: impl Fn(usize) -> bool) -> (Vec<f64>, Vec<f64>) {
        let (mut sweeping, mut applying) = (Vec::new(), Vec::new());
        for _ in 0..sweeps {
            self.time += SWEEP_INTERVAL_MS;
            let phase = (self.time / SWEEP_INTERVAL_MS % SWEEPS_PER_HEARTBEAT) as usize;
            for number in
                (phase..self.leases.len()).step_by(SWEEPS_PER_HEARTBEAT as usize).filter(|number| !silent(*number))
            {
                // Renewing a lease that has ended is expected to fail here.
                let _ = self.leases[number].renew(self.time.into(), None);
            }
            let start = now();
            let commands = self.engine.registry().sweep(at(self.time));
            sweeping.push(milliseconds(start.elapsed()));
            let start = now();
            for command in commands {
                let _ = self.engine.submit(command, at(self.time));
            }
            applying.push(milliseconds(start.elapsed()));
        }
        (sweeping, applying)
    }
}

/// Measures one service with all instances, and services of ten instances.
pub fn run(report: &mut Report) -> Result<()> {
    for (kind, services) in [("one_service", 1), ("services_of_ten", LEASES / 10)] {
        let mut scenario = SweepScenario::new(services)?;
        scenario.pass(2 * TTL_MS / SWEEP_INTERVAL_MS, |_| false);
        let mut add = |what: &str, took: (Vec<f64>, Vec<f64>), note: &str| {
            for (part, times) in [("sweeping", took.0), ("applying", took.1)] {
                #[expect(clippy::cast_precision_loss, reason = "a few hundred sweeps")]
                let mean = times.iter().sum::<f64>() / times.len() as f64;
                report.add(format!("sweep_{kind}_{what}_{part}_mean"), mean, "ms", note);
                let most = quantile(&sorted(times), 1.0);
                report.add(format!("sweep_{kind}_{what}_{part}_max"), most, "ms", note);
            }
        };
        add("quiet", scenario.pass(TTL_MS / SWEEP_INTERVAL_MS, |_| false), "a million leases, all renewed in time");
        // Spreads the silent instances evenly over services and heartbeats.
        let silent =
            |share: usize| move |number: usize| number.wrapping_mul(2_654_435_761) >> 7 & 127 < share * 128 / 100;
        add(
            "one_percent",
            scenario.pass(2 * TTL_MS / SWEEP_INTERVAL_MS, silent(1)),
            "1 % stop sending heartbeats within a third of the TTL",
        );
        add(
            "sixty_percent",
            scenario.pass(2 * TTL_MS / SWEEP_INTERVAL_MS, silent(60)),
            "60 % stop sending heartbeats and are held by self-preservation",
        );
        add("held", scenario.pass(TTL_MS / SWEEP_INTERVAL_MS, silent(60)), "60 % are still held");
        add("back", scenario.pass(TTL_MS / SWEEP_INTERVAL_MS, silent(1)), "59 % send heartbeats again");
    }
    Ok(())
}
