//! The work that servers are compared at. Every kind keeps a server as busy as it says until it is dropped, and counts.

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
    children::Server,
    client::{KeepAlive, Watch, connect, instance, milliseconds, register},
    now,
    report::{quantile, sorted},
};

const CONNECTIONS: usize = 8;
const IN_FLIGHT: usize = 64;
const SERVICES: usize = 100;
const WARM_UP: Duration = Duration::from_millis(500);
const RUN: Duration = Duration::from_millis(2_500);
/// Events that are under way to the slowest watcher when a writer writes at full rate.
const WINDOW: u64 = 16;
const WRITERS: usize = 4;

/// What a server is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// 64 calls in flight, each of a new instance.
    Register,
    /// 64 calls in flight, each repeating a registration.
    Repeat,
    /// Heartbeats on so many streams, so many leases in each message, 8 messages in flight on each.
    Heartbeats { streams: usize, leases: usize },
    /// So many watchers of a service that changes 20 times a second.
    Paced(usize),
    /// So many watchers of a service that changes as fast as the slowest of them hears of it.
    Full(usize),
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Calls, leases renewed, or changes delivered, a second.
    pub rate: f64,
    /// Microseconds of the server's CPU for each.
    pub cpu: f64,
    /// Milliseconds from the call of Register to its being heard of, of 99 in 100 deliveries. [`Work::Paced`] only.
    pub p99: Option<f64>,
}

/// What the tasks that make the load share. All of them run on one thread.
#[derive(Debug, Default)]
struct Tally {
    count: Cell<u64>,
    counted: Notify,
    /// For paced fan-out: when each event was sent, the revision before the first, and how late each was heard of.
    sent: RefCell<Vec<Instant>>,
    before: Cell<u64>,
    delays: RefCell<Vec<f64>>,
}

impl Tally {
    fn add(&self, count: u64) {
        self.count.set(self.count.get() + count);
    }
}

type Tasks = JoinSet<Result<()>>;

impl Work {
    /// Runs it on this server, on the thread's `LocalSet`.
    pub async fn run(self, server: &Server) -> Result<Outcome> {
        let channels = connect(server.address, CONNECTIONS).await?;
        let tally = Rc::new(Tally::default());
        let mut tasks = Tasks::new();
        match self {
            Self::Register => registrations(&mut tasks, &tally, &channels, |_, n| n),
            Self::Repeat => registrations(&mut tasks, &tally, &channels, |lane, _| lane),
            Self::Heartbeats { streams, leases } => {
                heartbeats(&mut tasks, &tally, &channels, streams, leases).await?;
            }
            Self::Paced(watchers) | Self::Full(watchers) => {
                watches(&mut tasks, &tally, &channels, watchers).await?;
                let writer = connect(server.address, 1).await?.remove(0);
                if matches!(self, Self::Paced(_)) {
                    tasks.spawn_local(write_paced(Rc::clone(&tally), writer));
                } else {
                    write_at_full_rate(&mut tasks, &tally, &writer, watchers as u64);
                }
            }
        }
        measure(self, server, &tally, &mut tasks).await
    }
}

async fn measure(work: Work, server: &Server, tally: &Tally, tasks: &mut Tasks) -> Result<Outcome> {
    sleep(WARM_UP).await;
    tally.delays.take();
    let (count, cpu, start) = (tally.count.get(), server.cpu()?, now());
    tokio::select! {
        () = sleep(RUN) => {}
        Some(failed) = tasks.join_next() => failed??,
    }
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    let count = (tally.count.get() - count) as f64;
    let seconds = now().duration_since(start).as_secs_f64();
    let cpu = server.cpu()?.saturating_sub(cpu).as_secs_f64();
    ensure!(count > 0.0, "{work:?}: nothing was done in {seconds} s");
    let delays = sorted(tally.delays.take());
    let p99 = (!delays.is_empty()).then(|| quantile(&delays, 0.99));
    Ok(Outcome { rate: count / seconds, cpu: cpu * 1e6 / count, p99 })
}

/// `id`: of a lane's `n`th registration over all lanes.
fn registrations(tasks: &mut Tasks, tally: &Rc<Tally>, channels: &[Channel], id: fn(usize, usize) -> usize) {
    let next = Rc::new(Cell::new(0));
    for lane in 0..IN_FLIGHT {
        let mut client = RegistryServiceClient::new(channels[lane % channels.len()].clone());
        let (tally, next) = (Rc::clone(tally), Rc::clone(&next));
        tasks.spawn_local(async move {
            loop {
                let id = id(lane, next.replace(next.get() + 1));
                client.register(instance(id % SERVICES, id)).await?;
                tally.add(1);
            }
        });
    }
}

async fn heartbeats(
    tasks: &mut Tasks,
    tally: &Rc<Tally>,
    channels: &[Channel],
    streams: usize,
    each: usize,
) -> Result<()> {
    let leases = register(channels, streams * each, SERVICES).await?;
    for (lane, leases) in leases.chunks(each).enumerate() {
        let mut stream = KeepAlive::open(&channels[lane % channels.len()]).await?;
        let (tally, leases) = (Rc::clone(tally), leases.to_vec());
        tasks.spawn_local(async move {
            for _ in 0..KeepAlive::DEPTH {
                stream.send(&leases).await?;
            }
            loop {
                tally.add(stream.answer().await? as u64);
                stream.send(&leases).await?;
            }
        });
    }
    Ok(())
}

async fn watches(tasks: &mut Tasks, tally: &Rc<Tally>, channels: &[Channel], watchers: usize) -> Result<()> {
    for lane in 0..watchers {
        let (mut watch, synced) = Watch::open(&channels[lane % channels.len()], 0).await?;
        tally.before.set(synced);
        let tally = Rc::clone(tally);
        tasks.spawn_local(async move {
            let mut heard = synced;
            loop {
                let told = watch.changes().await?;
                let steps = told.revision.saturating_sub(heard);
                ensure!(told.changes.len() as u64 == steps, "{steps} steps, {} changes", told.changes.len());
                note_delays(&tally, heard, told.revision)?;
                heard = told.revision;
                tally.add(steps);
                tally.counted.notify_one();
            }
        });
    }
    Ok(())
}

/// Events with revisions after `heard` up to `told` have just been received.
fn note_delays(tally: &Tally, heard: u64, told: u64) -> Result<()> {
    let sent = tally.sent.borrow();
    if sent.is_empty() {
        return Ok(());
    }
    let place = |revision: u64| usize::try_from(revision - tally.before.get());
    let sent = sent.get(place(heard)?..place(told)?).context("an event was heard of that was not sent")?;
    let at = now();
    let delays = sent.iter().map(|sent| milliseconds(at.saturating_duration_since(*sent)));
    tally.delays.borrow_mut().extend(delays);
    Ok(())
}

async fn write_paced(tally: Rc<Tally>, writer: Channel) -> Result<()> {
    let mut client = RegistryServiceClient::new(writer);
    let mut ticks = interval(Duration::from_millis(50));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for id in 0.. {
        ticks.tick().await;
        tally.sent.borrow_mut().push(now());
        client.register(instance(0, id)).await?;
    }
    Ok(())
}

fn write_at_full_rate(tasks: &mut Tasks, tally: &Rc<Tally>, writer: &Channel, watchers: u64) {
    let next = Rc::new(Cell::new(0));
    for _ in 0..WRITERS {
        let mut client = RegistryServiceClient::new(writer.clone());
        let (tally, next) = (Rc::clone(tally), Rc::clone(&next));
        tasks.spawn_local(async move {
            loop {
                let id = next.replace(next.get() + 1);
                while id as u64 * watchers > tally.count.get() + WINDOW * watchers {
                    tally.counted.notified().await;
                }
                client.register(instance(0, id)).await?;
            }
        });
    }
}
