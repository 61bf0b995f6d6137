//! Instances with heartbeats, whose clients go on at another replica when theirs is gone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Result, bail};
use bytes::Bytes;
use callboard::pb::callboard::v1::{RegisterRequest, registry_service_client::RegistryServiceClient};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tonic::transport::Channel;

use super::{SERVICES, replicas::Replica};
use crate::client::{KeepAlive, instance};

/// TTL of the instances.
pub const TTL: Duration = Duration::from_secs(30);
/// Interval of the heartbeats of an instance.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum number of registrations in progress.
const REGISTRATIONS: usize = 512;
/// Time after which a client whose replica does not answer tries another one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Time for the first heartbeats of all instances.
const START_TIMEOUT: Duration = Duration::from_mins(5);

/// Number of heartbeats so far.
#[derive(Debug, Default)]
struct HeartbeatCounters {
    sent: AtomicU64,
    held: AtomicU64,
    /// Streams that have had an answer.
    started: AtomicU64,
}

/// Instances that send heartbeats until the value is dropped.
#[derive(Debug)]
pub struct Fleet {
    counters: Arc<HeartbeatCounters>,
    tasks: JoinSet<Result<()>>,
    streams: usize,
}

/// Heartbeat stream with its leases.
#[derive(Debug)]
struct FleetStream {
    number: usize,
    /// Connection to each replica.
    channels: Vec<Channel>,
    /// Index of the replica in use.
    replica: usize,
    counters: Arc<HeartbeatCounters>,
}

/// Returns the registration of an instance of a fleet.
pub fn fleet_instance(id: usize) -> RegisterRequest {
    let ttl = prost_types::Duration { seconds: TTL.as_secs().cast_signed(), nanos: 0 };
    RegisterRequest { ttl: Some(ttl), ..instance(id % SERVICES, id) }
}

impl Fleet {
    /// Registers instances, and opens a stream for each `leases` of them at the replica that `home` returns for its number. Returns
    /// once every stream has had an answer.
    pub async fn start(
        replicas: &[Replica],
        instances: usize,
        leases: usize,
        home: impl Fn(usize) -> usize,
    ) -> Result<Self> {
        let (counters, permits) = (Arc::<HeartbeatCounters>::default(), Arc::new(Semaphore::new(REGISTRATIONS)));
        let mut tasks = JoinSet::new();
        let streams = instances.div_ceil(leases);
        for number in 0..streams {
            let channels = replicas.iter().map(|replica| replica.channels[number % replica.channels.len()].clone());
            let stream = FleetStream {
                number,
                channels: channels.collect(),
                replica: home(number),
                counters: Arc::clone(&counters),
            };
            let ids = number * leases..instances.min((number + 1) * leases);
            let permits = Arc::clone(&permits);
            tasks.spawn(async move {
                let leases = stream.register(ids, &permits).await?;
                stream.run(&leases).await
            });
        }
        let mut fleet = Self { counters, tasks, streams };
        let started = async {
            while fleet.counters.started.load(Relaxed) < fleet.streams as u64 {
                tokio::select! {
                    Some(ended) = fleet.tasks.join_next() => ended??,
                    () = sleep(Duration::from_millis(50)) => {}
                }
            }
            anyhow::Ok(())
        };
        timeout(START_TIMEOUT, started).await??;
        Ok(fleet)
    }

    /// Returns the numbers of heartbeats that were sent, and that were answered `HELD`.
    pub fn heartbeats(&self) -> (u64, u64) {
        (self.counters.sent.load(Relaxed), self.counters.held.load(Relaxed))
    }

    /// Fails if a client has given up.
    pub fn check(&mut self) -> Result<()> {
        match self.tasks.try_join_next() {
            Some(ended) => ended?,
            None => Ok(()),
        }
    }
}

impl FleetStream {
    async fn register(&self, ids: std::ops::Range<usize>, permits: &Semaphore) -> Result<Vec<Bytes>> {
        let client = RegistryServiceClient::new(self.channels[self.replica].clone());
        let permits = permits.acquire_many(u32::try_from(ids.len().min(REGISTRATIONS))?).await?;
        let mut calls = JoinSet::new();
        for id in ids {
            let mut client = client.clone();
            calls.spawn(async move { client.register(fleet_instance(id)).await });
        }
        let mut leases = Vec::new();
        while let Some(answer) = calls.join_next().await {
            leases.push(answer??.into_inner().lease_id);
        }
        drop(permits);
        Ok(leases)
    }

    /// Sends heartbeats, at the next replica after each failure.
    async fn run(mut self, leases: &[Bytes]) -> Result<()> {
        let mut ticks = interval(HEARTBEAT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_started = false;
        for failures in 0.. {
            if failures > 0 {
                // The clients of one replica go to all others.
                let others = self.channels.len() - 1;
                if others == 0 {
                    bail!("the only replica is gone");
                }
                self.replica = (self.replica + 1 + self.number % others) % self.channels.len();
                ticks.reset_immediately();
            }
            let Ok(Ok(mut stream)) = timeout(ANSWER_TIMEOUT, KeepAlive::open(&self.channels[self.replica])).await
            else {
                sleep(RETRY_DELAY).await;
                continue;
            };
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = stream.ended() => break,
                }
                self.counters.sent.fetch_add(leases.len() as u64, Relaxed);
                let Ok(Ok(held)) = timeout(ANSWER_TIMEOUT, stream.count_held(leases)).await else { break };
                self.counters.held.fetch_add(held as u64, Relaxed);
                if !std::mem::replace(&mut is_started, true) {
                    self.counters.started.fetch_add(1, Relaxed);
                }
            }
        }
        Ok(())
    }
}
