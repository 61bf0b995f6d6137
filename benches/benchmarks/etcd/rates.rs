//! Committed registrations a second at one replica, and the limit that etcd itself sets: a plain client that puts values of the same
//! size, each in a guarded nested transaction, in batches of the same mean size.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use callboard::{
    etcd::{EtcdClient, EtcdCompare, EtcdOperation, EtcdRange, EtcdTransaction},
    pb::callboard::v1::registry_service_client::RegistryServiceClient,
};
use tokio::task::JoinSet;

use super::{
    SERVICES,
    cluster::EtcdCluster,
    number,
    replicas::{INSTANCE_KEYS, Replica},
};
use crate::{
    client::{instance, milliseconds},
    compare::beside,
    now,
    report::{Report, median, quantile, sorted},
};

/// Maximum duration of a run.
const SPAN: Duration = Duration::from_secs(5);
/// Transactions of the plain client in flight: as many as a replica has.
const IN_FLIGHT: usize = 4;

/// Result of a run.
#[derive(Debug, Clone, Copy)]
struct RateOutcome {
    /// Changes a second.
    rate: f64,
    /// CPU time of etcd for each change, in microseconds.
    etcd_cpu: f64,
    /// CPU time of the replica for each change, in microseconds.
    replica_cpu: f64,
    /// Mean number of changes in a batch.
    batch: f64,
    /// Percentiles of the time from a call to its acknowledgement, in milliseconds.
    p50: f64,
    p99: f64,
}

/// Operations that were completed: their times in milliseconds, and the time of the run.
#[derive(Debug)]
struct CompletedWork {
    times: Vec<f64>,
    span: Duration,
}

/// Numbers of the next operations, until a time and a maximum number of operations.
#[derive(Debug)]
struct RateWork {
    next: AtomicUsize,
    end: usize,
    is_over: AtomicBool,
}

impl RateWork {
    fn new(begin: usize, count: usize) -> Arc<Self> {
        Arc::new(Self { next: begin.into(), end: begin + count, is_over: false.into() })
    }

    fn take(&self, count: usize) -> Option<std::ops::Range<usize>> {
        if self.is_over.load(Relaxed) {
            return None;
        }
        let begin = self.next.fetch_add(count, Relaxed);
        (begin < self.end).then(|| begin..self.end.min(begin + count))
    }

    /// Waits for the tasks, which end by themselves after [`SPAN`].
    async fn run(&self, mut tasks: JoinSet<Result<Vec<f64>>>) -> Result<CompletedWork> {
        let began = now();
        let mut times = Vec::new();
        let mut end = std::pin::pin!(tokio::time::sleep(SPAN));
        loop {
            tokio::select! {
                ended = tasks.join_next() => match ended {
                    Some(ended) => times.extend(ended??),
                    None => break,
                },
                () = &mut end, if !self.is_over.load(Relaxed) => self.is_over.store(true, Relaxed),
            }
        }
        Ok(CompletedWork { times, span: began.elapsed() })
    }
}

/// Measures both, in pairs of runs.
pub async fn run(report: &mut Report, pairs: usize, instances: usize) -> Result<()> {
    let etcd = EtcdCluster::start().await?;
    let replica = Replica::start(&etcd, 0).await?;
    let mut first = 0;
    for clients in [64, 1_000] {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..pairs {
            let outcome = registrations(&etcd, &replica, clients, first, instances).await?;
            ours.push(outcome);
            bare.push(puts(&etcd, outcome.batch, first, instances).await?);
            first += instances;
        }
        let name = format!("etcd_rates_{clients}_clients");
        let all = |runs: &[RateOutcome], of: fn(&RateOutcome) -> f64| runs.iter().map(of).collect::<Vec<_>>();
        let both = |of| (all(&bare, of), all(&ours, of));
        let (limit, rate) = both(|outcome| outcome.rate);
        beside(report, &name, "/s", "registrations; the baseline is a plain client of etcd", &limit, &rate);
        let (limit, cpu) = both(|outcome| outcome.etcd_cpu);
        beside(report, &format!("{name}_etcd_cpu"), "µs", "CPU of three members for each", &limit, &cpu);
        for (what, unit, of) in [
            ("replica_cpu", "µs", (|outcome| outcome.replica_cpu) as fn(&RateOutcome) -> f64),
            ("batch", "", |outcome| outcome.batch),
            ("p50", "ms", |outcome| outcome.p50),
            ("p99", "ms", |outcome| outcome.p99),
        ] {
            report.add(format!("{name}_{what}"), median(all(&ours, of)), unit, "");
        }
    }
    Ok(())
}

/// Registers new instances; each client waits for its acknowledgement before its next call.
async fn registrations(
    etcd: &EtcdCluster,
    replica: &Replica,
    clients: usize,
    first: usize,
    instances: usize,
) -> Result<RateOutcome> {
    let (work, mut tasks) = (RateWork::new(first, instances), JoinSet::new());
    let (cpu, usage) = (replica.cpu()?, etcd.usage().await?);
    let batches = replica.metric("callboard_etcd_batches_total").await?;
    for client in 0..clients {
        let mut registry = RegistryServiceClient::new(replica.channels[client % replica.channels.len()].clone());
        let work = Arc::clone(&work);
        tasks.spawn(async move {
            let mut times = Vec::new();
            while let Some(ids) = work.take(1) {
                let (id, began) = (ids.start, now());
                registry.register(instance(id % SERVICES, id)).await?;
                times.push(milliseconds(began.elapsed()));
            }
            anyhow::Ok(times)
        });
    }
    let completed = work.run(tasks).await?;
    let batches = replica.metric("callboard_etcd_batches_total").await? - batches;
    let mut outcome = outcome(etcd, usage.cpu, completed).await?;
    let count = outcome.batch;
    outcome.replica_cpu = (replica.cpu()? - cpu) * 1e6 / count;
    outcome.batch = count / batches;
    Ok(outcome)
}

/// Puts values as a replica would, in batches of this size, without anything else that a replica does.
async fn puts(etcd: &EtcdCluster, batch: f64, first: usize, instances: usize) -> Result<RateOutcome> {
    let client = etcd.client()?;
    let sample = client.range(EtcdRange::prefix(INSTANCE_KEYS).with_limit(1)).await?;
    let value = sample.entries.into_iter().next().context("etcd has no instance")?.value;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a batch has at most 100 changes")]
    let batch = batch.round() as usize;
    let (work, mut tasks) = (RateWork::new(first, instances), JoinSet::new());
    let cpu = etcd.usage().await?.cpu;
    for _ in 0..IN_FLIGHT {
        let (client, work, value) = (client.clone(), Arc::clone(&work), value.clone());
        tasks.spawn(async move {
            let mut times = Vec::new();
            while let Some(ids) = work.take(batch) {
                let (count, began) = (ids.len(), now());
                put(&client, ids, &value).await?;
                times.extend(std::iter::repeat_n(elapsed(began), count));
            }
            anyhow::Ok(times)
        });
    }
    let completed = work.run(tasks).await?;
    outcome(etcd, cpu, completed).await
}

async fn put(client: &EtcdClient, ids: std::ops::Range<usize>, value: &[u8]) -> Result<()> {
    let nested = ids.map(|id| {
        // As long as the key of an instance.
        let key = format!("/callboard/v1/bare-limit/i/service-{:03}/instance-{id:06}", id % SERVICES);
        EtcdOperation::Nested(EtcdTransaction {
            compares: vec![EtcdCompare::absent(key.clone())],
            success: vec![EtcdOperation::put(key, value.to_vec())],
            failure: vec![],
        })
    });
    let transaction = EtcdTransaction { success: nested.collect(), ..EtcdTransaction::default() };
    ensure!(client.transact(&transaction).await?.succeeded, "a transaction without comparisons has failed");
    Ok(())
}

/// Returns the outcome of a run; `batch` is the number of operations until the caller divides it.
async fn outcome(etcd: &EtcdCluster, etcd_cpu: f64, completed: CompletedWork) -> Result<RateOutcome> {
    let CompletedWork { times, span } = completed;
    let (count, times) = (number(times.len() as u64), sorted(times));
    ensure!(count > 0.0, "no change was committed in {span:?}");
    Ok(RateOutcome {
        rate: count / span.as_secs_f64(),
        etcd_cpu: (etcd.usage().await?.cpu - etcd_cpu) * 1e6 / count,
        replica_cpu: 0.0,
        batch: count,
        p50: quantile(&times, 0.5),
        p99: quantile(&times, 0.99),
    })
}

fn elapsed(began: Instant) -> f64 {
    milliseconds(began.elapsed())
}
