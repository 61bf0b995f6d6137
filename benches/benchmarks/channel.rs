//! Channels of the Rust client: overhead per call against a channel of tonic, and response times with one slow instance of four.

pub mod backend;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use callboard::{
    client::{BalancedChannel, BalancingMethod, Discovery, Servers},
    pb::callboard::v1::{Address, registry_service_client::RegistryServiceClient},
};
use http::uri::PathAndQuery;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tonic::{Request, Status, body::Body, client::GrpcService, codegen::StdError, transport::Endpoint};
use tonic_prost::ProstCodec;

use crate::{
    client::{connect, instance},
    compare::beside,
    processes::Server,
    report::{Report, quantile, sorted},
};
use backend::{CALL, DELAYS};

/// Time-out of each step.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Length of a run that measures overhead.
const RUN: Duration = Duration::from_secs(2);
/// Number of calls in a run with a slow instance, one every millisecond.
const PACED_CALLS: usize = 5_000;
/// Number of calls before the measured ones, by which estimates settle.
const WARM_UP_CALLS: usize = 500;
/// Service of the instance without a delay.
const PLAIN: &str = "plain";
/// Service of the instances with delays, of equal weight.
const EQUAL: &str = "equal";
/// Service of the same instances, whose weights are as their speed.
const WEIGHTED: &str = "weighted";

/// Row with one slow instance.
#[derive(Debug)]
struct Row {
    name: &'static str,
    service: &'static str,
    method: BalancingMethod,
    note: &'static str,
}

const ROWS: [Row; 4] = [
    Row {
        name: "channel_slow_round_robin",
        service: EQUAL,
        method: BalancingMethod::RoundRobin,
        note: "one instance needs 50 ms, three 5 ms; 1,000 calls a second",
    },
    Row {
        name: "channel_slow_weighted",
        service: WEIGHTED,
        method: BalancingMethod::WeightedRoundRobin,
        note: "configured weights 1:10:10:10",
    },
    Row { name: "channel_slow_least_request", service: EQUAL, method: BalancingMethod::LeastRequest, note: "" },
    Row { name: "channel_slow_peak_ewma", service: EQUAL, method: BalancingMethod::PeakEwma, note: "" },
];

/// Measures the rows whose names contain `only`.
pub async fn run(only: &str, pairs: usize) -> Result<Report> {
    let mut report = Report::default();
    let (registry, backends) = (Server::callboard_pinned()?, Server::baseline_pinned("channel-backend")?);
    register(&registry, &backends).await?;
    let servers: Servers = registry.address.to_string().parse()?;
    let discovery = Discovery::new(&servers);
    for (name, in_flight) in [("channel_sequential", 1), ("channel_concurrent", 64)] {
        if name.contains(only) {
            let (mut tonic, mut ours) = (Vec::new(), Vec::new());
            for _ in 0..pairs {
                let channel = Endpoint::from_shared(format!("http://{}", backends.address))?.connect().await?;
                tonic.push(microseconds_per_call(channel, in_flight).await?);
                let channel = discovery.channel(PLAIN);
                ready(&channel, 1).await?;
                ours.push(microseconds_per_call(channel, in_flight).await?);
            }
            let note = format!("{in_flight} calls in progress; the baseline is a channel of tonic");
            beside(&mut report, name, "µs", &note, &tonic, &ours);
        }
    }
    for row in ROWS.iter().filter(|row| row.name.contains(only)) {
        let channel = discovery.builder(row.service).method(row.method).open();
        ready(&channel, DELAYS.len()).await?;
        paced(&channel, WARM_UP_CALLS).await?;
        let times = sorted(paced(&channel, PACED_CALLS).await?);
        #[expect(clippy::cast_precision_loss, reason = "a number of calls")]
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        report.add(format!("{}_mean", row.name), mean, "ms", row.note);
        report.add(format!("{}_p99", row.name), quantile(&times, 0.99), "ms", "");
    }
    Ok(report)
}

/// Registers the instances of the three services.
async fn register(registry: &Server, backends: &Server) -> Result<()> {
    let channel = connect(registry.address, 1).await?.pop().context("no connection")?;
    let mut client = RegistryServiceClient::new(channel);
    let mut add = async |service: &str, id: usize, at: SocketAddr, weight: u32| -> Result<()> {
        let mut request = instance(0, id);
        request.service = service.to_owned();
        request.addresses = vec![Address { host: at.ip().to_string(), port: at.port().into(), name: String::new() }];
        request.weight = Some(weight);
        client.register(request).await?;
        Ok(())
    };
    add(PLAIN, 0, backends.address, 1).await?;
    for (at, delay) in DELAYS.iter().enumerate() {
        let address = backends.listener(&format!("delayed-{at}"))?;
        add(EQUAL, at, address, 1).await?;
        add(WEIGHTED, at, address, if delay.as_millis() >= 50 { 1 } else { 10 }).await?;
    }
    Ok(())
}

async fn ready(channel: &BalancedChannel, instances: usize) -> Result<()> {
    timeout(TIMEOUT, channel.connected(instances)).await.context("no connections to the instances")??;
    Ok(())
}

/// Makes calls for some time, as many at a time as given. Returns the time for each.
async fn microseconds_per_call<C>(channel: C, in_flight: usize) -> Result<f64>
where
    C: GrpcService<Body> + Clone + Send + 'static,
    C::Error: Into<StdError>,
    C::Future: Send,
    C::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <C::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    let began = crate::now();
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        let channel = channel.clone();
        tasks.spawn(async move {
            let mut calls = 0_u32;
            while began.elapsed() < RUN {
                call(channel.clone()).await?;
                calls += 1;
            }
            Ok::<_, Status>(calls)
        });
    }
    let mut calls = 0;
    while let Some(done) = tasks.join_next().await {
        calls += done??;
    }
    Ok(began.elapsed().as_secs_f64() * 1e6 / f64::from(calls))
}

/// Makes one call every millisecond, whether or not the previous ones have ended. Returns their times in milliseconds.
async fn paced(channel: &BalancedChannel, calls: usize) -> Result<Vec<f64>> {
    let mut ticks = interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut tasks = JoinSet::new();
    for _ in 0..calls {
        let due = ticks.tick().await.into_std();
        let channel = channel.clone();
        tasks.spawn(async move {
            call(channel).await?;
            Ok::<_, Status>(due.elapsed().as_secs_f64() * 1e3)
        });
    }
    let mut times = Vec::with_capacity(calls);
    while let Some(done) = timeout(TIMEOUT, tasks.join_next()).await.context("calls do not end")? {
        times.push(done??);
    }
    Ok(times)
}

async fn call<C>(channel: C) -> Result<String, Status>
where
    C: GrpcService<Body>,
    C::Error: Into<StdError>,
    C::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <C::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.into().to_string()))?;
    let codec = ProstCodec::<String, String>::default();
    let request = Request::new(String::new());
    Ok(client.unary(request, PathAndQuery::from_static(CALL), codec).await?.into_inner())
}
