//! etcd down for a minute: reads, heartbeats and rejected writes meanwhile, and removals afterwards.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use callboard::pb::callboard::v1::{
    ListInstancesRequest, discovery_service_client::DiscoveryServiceClient,
    registry_service_client::RegistryServiceClient,
};
use parking_lot::Mutex;
use tokio::{task::JoinSet, time::sleep};
use tonic::transport::Channel;

use super::{
    SERVICES,
    cluster::EtcdCluster,
    fleet::{Fleet, TTL},
    number,
    observer::KeyChanges,
    replicas::Replica,
};
use crate::{
    client::{instance, milliseconds, service_name},
    now,
    report::{Report, quantile, sorted},
};

const REPLICAS: usize = 3;
const OUTAGE: Duration = Duration::from_mins(1);
const BEFORE: Duration = Duration::from_secs(10);
const READERS: usize = 4;
const WRITERS: usize = 8;
/// Time that a writer waits after a rejection, as the server asks it to.
const WRITER_DELAY: Duration = Duration::from_secs(1);
/// Leases of a heartbeat stream.
const LEASES: usize = 100;
/// Instances of the service that is read.
const READ_INSTANCES: usize = 10;

/// Load, and its results.
#[derive(Debug, Default)]
struct OutageCounters {
    reads: AtomicU64,
    accepted: AtomicU64,
    is_down: AtomicBool,
    accepted_while_down: AtomicU64,
    /// Milliseconds from each call to its rejection.
    rejections: Mutex<Vec<f64>>,
}

impl OutageCounters {
    /// Returns the reads a second in this time, at whose beginning there were so many.
    fn reads_since(&self, reads: u64, span: Duration) -> f64 {
        number(self.reads.load(Relaxed) - reads) / span.as_secs_f64()
    }
}

/// Kills all members, starts them again after a minute, and waits for what would expire.
pub async fn run(report: &mut Report, instances: usize) -> Result<()> {
    let mut etcd = EtcdCluster::start().await?;
    let replicas = Replica::start_all(&etcd, REPLICAS).await?;
    let mut fleet = Fleet::start(&replicas, instances, LEASES, |stream| stream % REPLICAS).await?;
    for id in 0..READ_INSTANCES {
        RegistryServiceClient::new(replicas[0].channels[0].clone()).register(instance(SERVICES, id)).await?;
    }
    let (registered, _) = replicas[0].state().await?;
    for replica in &replicas {
        replica.reaches(registered).await?;
    }
    let counters = Arc::<OutageCounters>::default();
    let mut tasks = load(&replicas, &counters, instances + READ_INSTANCES);
    sleep(BEFORE / 2).await;
    let reads = counters.reads.load(Relaxed);
    sleep(BEFORE).await;
    report.add("etcd_outage_reads_before", counters.reads_since(reads, BEFORE), "/s", "lists of 10 by 4 clients");

    let revision = etcd.status().await?.revision;
    etcd.kill_members();
    outage(report, &fleet, &counters).await;
    let (accepted, began) = (counters.accepted.load(Relaxed), now());
    etcd.start_members().await?;
    report.add("etcd_outage_election", began.elapsed().as_secs_f64(), "s", "from the start of the members to a leader");
    while counters.accepted.load(Relaxed) == accepted {
        ensure!(began.elapsed() < OUTAGE, "no registration was accepted within a minute after the outage");
        sleep(Duration::from_millis(20)).await;
    }
    report.add("etcd_outage_recovery", began.elapsed().as_secs_f64(), "s", "from their start to a registration");
    let mut changes = KeyChanges::after(&etcd.client()?, revision).await?;
    changes.read(usize::MAX, now() + TTL + Duration::from_secs(20)).await?;
    report.add("etcd_outage_removals", number(changes.removals as u64), "", "within 50 s after it; must be 0");
    tasks.abort_all();
    while let Some(ended) = tasks.join_next().await {
        if let Ok(failed) = ended {
            failed?;
        }
    }
    fleet.check()
}

/// Starts readers and writers; new instances have ids from `first` on.
fn load(replicas: &[Replica], counters: &Arc<OutageCounters>, first: usize) -> JoinSet<Result<()>> {
    let mut tasks = JoinSet::new();
    for reader in 0..READERS {
        tasks.spawn(read(Arc::clone(counters), replicas[reader % REPLICAS].channels[0].clone()));
    }
    for writer in 0..WRITERS {
        let channel = replicas[writer % REPLICAS].channels[1].clone();
        tasks.spawn(write(Arc::clone(counters), channel, first + writer));
    }
    tasks
}

/// Reports what clients see while etcd is down.
async fn outage(report: &mut Report, fleet: &Fleet, counters: &OutageCounters) {
    // What was sent before may still be acknowledged.
    sleep(Duration::from_millis(100)).await;
    counters.is_down.store(true, Relaxed);
    let (reads, beats) = (counters.reads.load(Relaxed), fleet.heartbeats());
    counters.rejections.lock().clear();
    sleep(OUTAGE).await;
    report.add("etcd_outage_reads", counters.reads_since(reads, OUTAGE), "/s", "the same while etcd is down");
    let (sent, held) = (fleet.heartbeats().0 - beats.0, fleet.heartbeats().1 - beats.1);
    report.add("etcd_outage_heartbeats_held", number(held) * 100.0 / number(sent), "%", "of those while etcd is down");
    let rejections = sorted(std::mem::take(&mut *counters.rejections.lock()));
    report.add("etcd_outage_rejections", number(rejections.len() as u64), "", "registrations rejected meanwhile");
    report.add("etcd_outage_rejection_p50", quantile(&rejections, 0.5), "ms", "from the call to the rejection");
    report.add("etcd_outage_rejection_p99", quantile(&rejections, 0.99), "ms", "goal: at most 2,000");
    report.add("etcd_outage_rejection_max", quantile(&rejections, 1.0), "ms", "");
    let acknowledged = number(counters.accepted_while_down.load(Relaxed));
    report.add("etcd_outage_acknowledged", acknowledged, "", "registrations acknowledged meanwhile; must be 0");
    counters.is_down.store(false, Relaxed);
}

async fn read(counters: Arc<OutageCounters>, channel: Channel) -> Result<()> {
    let mut discovery = DiscoveryServiceClient::new(channel);
    loop {
        let request = ListInstancesRequest { service: service_name(SERVICES), ..Default::default() };
        let found = discovery.list_instances(request).await?.into_inner().instances.len();
        ensure!(found == READ_INSTANCES, "{found} of {READ_INSTANCES} instances were listed");
        counters.reads.fetch_add(1, Relaxed);
    }
}

/// Registers new instances, in a service of their own.
async fn write(counters: Arc<OutageCounters>, channel: Channel, first: usize) -> Result<()> {
    let mut registry = RegistryServiceClient::new(channel);
    for id in (first..).step_by(WRITERS) {
        let began = now();
        let was_down = counters.is_down.load(Relaxed);
        match registry.register(instance(SERVICES + 1, id)).await {
            Ok(_) => {
                counters.accepted.fetch_add(1, Relaxed);
                if was_down && counters.is_down.load(Relaxed) {
                    counters.accepted_while_down.fetch_add(1, Relaxed);
                }
            }
            Err(_) => counters.rejections.lock().push(milliseconds(began.elapsed())),
        }
        sleep(WRITER_DELAY).await;
    }
    Ok(())
}
