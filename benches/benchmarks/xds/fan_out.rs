//! Many clients of one service that changes.

use std::{cell::Cell, rc::Rc, thread, time::Duration};

use anyhow::{Context, Error, Result, anyhow};
use tokio::{
    runtime,
    sync::{Notify, oneshot},
    task::{JoinSet, LocalSet},
    time::{MissedTickBehavior, interval},
};

use super::{
    Outcome,
    ads::{AdsStream, StateOfTheWorld},
    connect_clients, count,
    target::{Target, TargetHandle, Writer},
};
use crate::{
    client::{milliseconds, service_name},
    now,
    report::{quantile, sorted},
};

/// Number of clients of the service.
const SUBSCRIBERS: usize = 1_000;
/// Changes before the measurement, and measured ones.
const WARM_UP: usize = 10;
const CHANGES: usize = 60;
/// Interval between changes that are measured one by one.
const INTERVAL: Duration = Duration::from_millis(50);
/// Interval between the changes of a service that changes more often than all clients can be sent.
const FLOOD_INTERVAL: Duration = Duration::from_millis(10);
/// Number of changes of the other service in the meantime.
const FLOOD_CHANGES: usize = 80;
/// Number of clients of the other service.
const OTHER_SUBSCRIBERS: usize = 10;

/// Number of changes of the large service, and the delays of those of the other one in milliseconds.
type FloodResult = Result<(usize, Vec<f64>)>;

/// Responses that the clients have received.
#[derive(Debug, Default)]
struct Received {
    responses: Cell<usize>,
    bytes: Cell<usize>,
    changed: Notify,
}

impl Received {
    fn add(&self, bytes: usize) {
        self.responses.set(self.responses.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
        self.changed.notify_one();
    }

    async fn until(&self, responses: usize) {
        while self.responses.get() < responses {
            self.changed.notified().await;
        }
    }
}

/// Clients of a service. Each accepts every response.
#[derive(Debug)]
struct Subscribers {
    received: Rc<Received>,
    tasks: JoinSet<Result<()>>,
    number: usize,
}

impl Subscribers {
    /// Opens the streams, and returns when each client has the endpoints.
    async fn open(target: &TargetHandle, service: usize, number: usize) -> Result<Self> {
        let channels = connect_clients(target.address, number).await?;
        let received = Rc::<Received>::default();
        let mut tasks = JoinSet::new();
        for client in 0..number {
            let channel = channels[client % channels.len()].clone();
            let received = Rc::clone(&received);
            tasks.spawn_local(async move {
                let mut stream = AdsStream::<StateOfTheWorld>::open(&channel, client).await?;
                stream.subscribe_to_service(&service_name(service)).await?;
                received.add(0);
                loop {
                    let response = stream.response().await?;
                    received.add(response.bytes());
                }
            });
        }
        let mut subscribers = Self { received, tasks, number };
        subscribers.until(number).await?;
        Ok(subscribers)
    }

    /// Waits until all clients together have received this number of responses.
    async fn until(&mut self, responses: usize) -> Result<()> {
        let received = Rc::clone(&self.received);
        tokio::select! {
            () = received.until(responses) => Ok(()),
            error = self.failure() => Err(error),
        }
    }

    /// Waits until a client fails.
    async fn failure(&mut self) -> Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(_) | None => anyhow!("a client has ended"),
        }
    }

    /// Makes changes one by one. Returns the milliseconds until the last client has each.
    async fn change(&mut self, writer: &Writer, service: usize, changes: usize) -> Result<Vec<f64>> {
        let mut delays = Vec::new();
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for at in 0..changes {
            ticks.tick().await;
            let (expected, began) = (self.received.responses.get() + self.number, now());
            writer.change(service, u32::from(at.is_multiple_of(2))).await?;
            self.until(expected).await?;
            delays.push(milliseconds(began.elapsed()));
        }
        Ok(delays)
    }
}

/// Measures changes one by one: each reaches all clients before the next one.
pub async fn paced(target: &Target) -> Result<Outcome> {
    let mut subscribers = Subscribers::open(&target.handle, 0, SUBSCRIBERS).await?;
    let writer = target.handle.writer().await?;
    subscribers.change(&writer, 0, WARM_UP).await?;
    let (bytes, cpu) = (subscribers.received.bytes.get(), target.server.cpu()?);
    let delays = sorted(subscribers.change(&writer, 0, CHANGES).await?);
    let cpu = target.server.cpu()?.saturating_sub(cpu);
    let deliveries = count(CHANGES * SUBSCRIBERS);
    Ok(vec![
        ("cpu_per_delivery", "µs", cpu.as_secs_f64() * 1e6 / deliveries),
        ("last_client_p50", "ms", quantile(&delays, 0.5)),
        ("last_client_p99", "ms", quantile(&delays, 0.99)),
        ("bytes_per_delivery", "B", count(subscribers.received.bytes.get() - bytes) / deliveries),
    ])
}

/// Measures a service that changes more often than all clients can be sent, and another service beside it.
pub async fn flooded(target: &Target) -> Result<Outcome> {
    let mut subscribers = Subscribers::open(&target.handle, 0, SUBSCRIBERS).await?;
    let (began, cpu) = (now(), target.server.cpu()?);
    let (responses, bytes) = (subscribers.received.responses.get(), subscribers.received.bytes.get());
    let (changes, delays) = tokio::select! {
        measured = flood(target.handle.clone())? => measured.context("the other thread has ended")??,
        error = subscribers.failure() => return Err(error),
    };
    let seconds = began.elapsed().as_secs_f64();
    let cpu = target.server.cpu()?.saturating_sub(cpu).as_secs_f64();
    let deliveries = count(subscribers.received.responses.get() - responses);
    let megabytes = count(subscribers.received.bytes.get() - bytes) / 1e6;
    let delays = sorted(delays);
    Ok(vec![
        ("changes", "/s", count(changes) / seconds),
        ("deliveries", "/s", deliveries / seconds),
        ("megabytes", "MB/s", megabytes / seconds),
        ("cpu_per_delivery", "µs", cpu * 1e6 / deliveries),
        ("cpu_per_megabyte", "µs", cpu * 1e6 / megabytes),
        ("changes_per_delivery", "", count(changes * SUBSCRIBERS) / deliveries),
        ("other_service_p50", "ms", quantile(&delays, 0.5)),
        ("other_service_p99", "ms", quantile(&delays, 0.99)),
    ])
}

/// Changes the large service, and measures changes of the other one. Runs on a thread of its own, because this one is busy with the
/// responses of the large service.
fn flood(target: TargetHandle) -> Result<oneshot::Receiver<FloodResult>> {
    let (sender, result) = oneshot::channel();
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        let measured = LocalSet::new().block_on(&runtime, async {
            let mut subscribers = Subscribers::open(&target, 1, OTHER_SUBSCRIBERS).await?;
            let (changes, mut changing) = (Rc::new(Cell::new(0)), JoinSet::new());
            changing.spawn_local(change_often(target.writer().await?, Rc::clone(&changes)));
            let writer = target.writer().await?;
            tokio::select! {
                delays = subscribers.change(&writer, 1, FLOOD_CHANGES) => Ok((changes.get(), delays?)),
                ended = changing.join_next() => Err(ended.context("no task")??.err().context("the changes have ended")?),
            }
        });
        // Fails if the measurement was given up.
        let _ = sender.send(measured);
    });
    Ok(result)
}

async fn change_often(writer: Writer, changes: Rc<Cell<usize>>) -> Result<()> {
    let mut ticks = interval(FLOOD_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        writer.change(0, u32::from(changes.get().is_multiple_of(2))).await?;
        changes.set(changes.get() + 1);
    }
}
