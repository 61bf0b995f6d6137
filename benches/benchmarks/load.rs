//! Load of the comparisons: each kind loads a server and counts the completed operations.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use callboard::pb::callboard::v1::registry_service_client::RegistryServiceClient;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tonic::transport::Channel;

use crate::{
    client::{KeepAlive, Watch, connect, instance, milliseconds, register},
    now,
    processes::Server,
    report::{quantile, sorted},
};

const CONNECTIONS: usize = 8;
const IN_FLIGHT: usize = 64;
const SERVICES: usize = 100;
const WARM_UP: Duration = Duration::from_millis(500);
const RUN: Duration = Duration::from_millis(2_500);
/// Maximum number of events that the slowest watcher has not received when writing at full rate.
const MAX_UNRECEIVED_EVENTS: u64 = 16;
const WRITERS: usize = 4;

/// Kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Registrations of new instances, 64 calls in flight.
    Register,
    /// Repeated registrations of the same instances, 64 calls in flight.
    Repeat,
    /// Heartbeats on `streams` streams with `leases` leases in each message, 8 messages in flight on each stream.
    Heartbeats { streams: usize, leases: usize },
    /// This number of watchers of a service that changes 20 times a second.
    Paced(usize),
    /// This number of watchers of a service that changes as fast as the slowest of them receives the changes.
    Full(usize),
}

/// Result of a run.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Calls, renewed leases, or delivered changes per second.
    pub rate: f64,
    /// CPU time of the server for each of them, in microseconds.
    pub cpu: f64,
    /// 99th percentile of the milliseconds from the call of Register to the delivery of its change. [`Work::Paced`] only.
    pub p99: Option<f64>,
}

/// State that the tasks of the load share; all of them run on one thread.
#[derive(Debug, Default)]
struct LoadCounters {
    count: Cell<u64>,
    counted: Notify,
    /// Paced fan-out: the time of each write.
    sent: RefCell<Vec<Instant>>,
    /// Paced fan-out: the revision before the first write.
    before: Cell<u64>,
    /// Paced fan-out: milliseconds from a write to a delivery.
    delays: RefCell<Vec<f64>>,
}

impl LoadCounters {
    fn add(&self, count: u64) {
        self.count.set(self.count.get() + count);
    }
}

type Tasks = JoinSet<Result<()>>;

impl Work {
    /// Runs the load on this server, on the thread's `LocalSet`.
    pub async fn run(self, server: &Server) -> Result<Outcome> {
        let channels = connect(server.address, CONNECTIONS).await?;
        let counters = Rc::new(LoadCounters::default());
        let mut tasks = Tasks::new();
        match self {
            Self::Register => registrations(&mut tasks, &counters, &channels, |_, n| n),
            Self::Repeat => registrations(&mut tasks, &counters, &channels, |lane, _| lane),
            Self::Heartbeats { streams, leases } => {
                heartbeats(&mut tasks, &counters, &channels, streams, leases).await?;
            }
            Self::Paced(watchers) | Self::Full(watchers) => {
                watches(&mut tasks, &counters, &channels, watchers).await?;
                let writer = connect(server.address, 1).await?.remove(0);
                if matches!(self, Self::Paced(_)) {
                    tasks.spawn_local(write_paced(Rc::clone(&counters), writer));
                } else {
                    write_at_full_rate(&mut tasks, &counters, &writer, watchers as u64);
                }
            }
        }
        measure(self, server, &counters, &mut tasks).await
    }
}

async fn measure(work: Work, server: &Server, counters: &LoadCounters, tasks: &mut Tasks) -> Result<Outcome> {
    sleep(WARM_UP).await;
    counters.delays.take();
    let (count, cpu, start) = (counters.count.get(), server.cpu()?, now());
    tokio::select! {
        () = sleep(RUN) => {}
        Some(failed) = tasks.join_next() => failed??,
    }
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    let count = (counters.count.get() - count) as f64;
    let seconds = now().duration_since(start).as_secs_f64();
    let cpu = server.cpu()?.saturating_sub(cpu).as_secs_f64();
    ensure!(count > 0.0, "{work:?}: no operation was completed in {seconds} s");
    let delays = sorted(counters.delays.take());
    let p99 = (!delays.is_empty()).then(|| quantile(&delays, 0.99));
    Ok(Outcome { rate: count / seconds, cpu: cpu * 1e6 / count, p99 })
}

/// Starts the registrations; `id` returns the id for a lane and for the number of the registration over all lanes.
fn registrations(tasks: &mut Tasks, counters: &Rc<LoadCounters>, channels: &[Channel], id: fn(usize, usize) -> usize) {
    let next = Rc::new(Cell::new(0));
    for lane in 0..IN_FLIGHT {
        let mut client = RegistryServiceClient::new(channels[lane % channels.len()].clone());
        let (counters, next) = (Rc::clone(counters), Rc::clone(&next));
        tasks.spawn_local(async move {
            loop {
                let id = id(lane, next.replace(next.get() + 1));
                client.register(instance(id % SERVICES, id)).await?;
                counters.add(1);
            }
        });
    }
}

async fn heartbeats(
    tasks: &mut Tasks,
    counters: &Rc<LoadCounters>,
    channels: &[Channel],
    streams: usize,
    each: usize,
) -> Result<()> {
    let leases = register(channels, streams * each, SERVICES).await?;
    for (lane, leases) in leases.chunks(each).enumerate() {
        let mut stream = KeepAlive::open(&channels[lane % channels.len()]).await?;
        let (counters, leases) = (Rc::clone(counters), leases.to_vec());
        tasks.spawn_local(async move {
            for _ in 0..KeepAlive::DEPTH {
                stream.send(&leases).await?;
            }
            loop {
                counters.add(stream.answer().await? as u64);
                stream.send(&leases).await?;
            }
        });
    }
    Ok(())
}

async fn watches(tasks: &mut Tasks, counters: &Rc<LoadCounters>, channels: &[Channel], watchers: usize) -> Result<()> {
    for lane in 0..watchers {
        let (mut watch, synced) = Watch::open(&channels[lane % channels.len()], 0).await?;
        counters.before.set(synced);
        let counters = Rc::clone(counters);
        tasks.spawn_local(async move {
            let mut seen = synced;
            loop {
                let received = watch.changes().await?;
                let steps = received.revision.saturating_sub(seen);
                ensure!(
                    received.changes.len() as u64 == steps,
                    "{steps} revisions, {} changes",
                    received.changes.len()
                );
                record_delays(&counters, seen, received.revision)?;
                seen = received.revision;
                counters.add(steps);
                counters.counted.notify_one();
            }
        });
    }
    Ok(())
}

/// Records the delays of the events with revisions after `before` up to `received`.
fn record_delays(counters: &LoadCounters, before: u64, received: u64) -> Result<()> {
    let sent = counters.sent.borrow();
    if sent.is_empty() {
        return Ok(());
    }
    let index = |revision: u64| usize::try_from(revision - counters.before.get());
    let sent = sent.get(index(before)?..index(received)?).context("received an event that was not sent")?;
    let at = now();
    let delays = sent.iter().map(|sent| milliseconds(at.saturating_duration_since(*sent)));
    counters.delays.borrow_mut().extend(delays);
    Ok(())
}

async fn write_paced(counters: Rc<LoadCounters>, writer: Channel) -> Result<()> {
    let mut client = RegistryServiceClient::new(writer);
    let mut ticks = interval(Duration::from_millis(50));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for id in 0.. {
        ticks.tick().await;
        counters.sent.borrow_mut().push(now());
        client.register(instance(0, id)).await?;
    }
    Ok(())
}

fn write_at_full_rate(tasks: &mut Tasks, counters: &Rc<LoadCounters>, writer: &Channel, watchers: u64) {
    let next = Rc::new(Cell::new(0));
    for _ in 0..WRITERS {
        let mut client = RegistryServiceClient::new(writer.clone());
        let (counters, next) = (Rc::clone(counters), Rc::clone(&next));
        tasks.spawn_local(async move {
            loop {
                let id = next.replace(next.get() + 1);
                while id as u64 * watchers > counters.count.get() + MAX_UNRECEIVED_EVENTS * watchers {
                    counters.counted.notified().await;
                }
                client.register(instance(0, id)).await?;
            }
        });
    }
}
