//! Latency of heartbeats and deliveries under load, bounded by ratios to the latency without it: `just pressure`.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use callboard::pb::callboard::v1::{ListInstancesRequest, RegisterRequest, UpdateInstanceRequest};
use tokio::{
    net::TcpStream,
    task::{AbortHandle, JoinSet},
    time::{interval, sleep},
};

use crate::harness::{
    HeartbeatStream, Http2Client, Reader, Reads, ServerProcess, TestClient, instance, metric, seconds, wall, within,
};

/// Heartbeat streams of well-behaved clients, each on a connection of its own.
const CLIENTS: usize = 20;
/// Length of each stage, in milliseconds.
const STAGE_MS: u64 = 8_000;
/// Number of watches of a service that changes often. A debug build serves fewer in time.
const WATCHES: usize = if cfg!(debug_assertions) { 1_000 } else { 5_000 };
/// Latency in microseconds below which ratios are not compared.
const FLOOR_US: u128 = 2_000;
/// Maximum slowdown of heartbeats and deliveries under load.
const MAX_SLOWDOWN: u128 = 20;
const WATCH: &str = "/callboard.v1.DiscoveryService/Watch";

/// Times in microseconds, sorted.
#[derive(Debug)]
struct Times(Vec<u128>);

impl Times {
    fn of(mut times: Vec<u128>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    fn at(&self, percent: usize) -> u128 {
        self.0.get((self.0.len() * percent / 100).min(self.0.len().saturating_sub(1))).copied().unwrap_or(0)
    }

    /// Asserts that the median and the 99th percentile are at most so many times those without the load. Latencies below
    /// [`FLOOR_US`] count as that: a ratio of shorter ones measures the scheduler.
    fn assert_within(&self, slowdown: u128, without_load: &Self, what: &str) {
        for percent in [50, 99] {
            let (with, without) = (self.at(percent), without_load.at(percent).max(FLOOR_US));
            assert!(with <= without * slowdown, "{what}: p{percent} is {with} µs, without load {without} µs");
        }
    }

    fn print(&self, what: &str) {
        println!(
            "{what}: {} of them, p50 {} µs, p99 {} µs, worst {} µs",
            self.0.len(),
            self.at(50),
            self.at(99),
            self.at(100)
        );
    }
}

#[expect(clippy::disallowed_methods, reason = "latency is measured from outside")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Measures the round trip of every heartbeat during a stage; all are answered. On a thread of its own, so that the load of this process
/// does not count.
async fn heartbeats(server: SocketAddr) -> Times {
    let measuring = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut beating = JoinSet::new();
            for number in 0..CLIENTS {
                let client = TestClient::connect(server).await;
                let lease = client.register(instance("honest", &format!("i{number}"))).await.unwrap().lease_id;
                beating.spawn(beat(client, lease));
            }
            Times::of(beating.join_all().await.concat())
        })
    });
    measuring.await.unwrap()
}

async fn beat(client: TestClient, lease: Bytes) -> Vec<u128> {
    let mut beats = HeartbeatStream::open(&client).await;
    let (mut pace, mut times, until) = (interval(Duration::from_millis(40)), Vec::new(), wall() + STAGE_MS);
    while wall() < until {
        pace.tick().await;
        let start = now();
        beats.beat(&[&lease]).await.unwrap();
        times.push(start.elapsed().as_micros());
    }
    times
}

/// Changes a service ten times a second.
async fn churn(client: TestClient, service: &'static str) {
    let mut pace = interval(Duration::from_millis(100));
    for weight in (1..60_000).cycle() {
        pace.tick().await;
        let (service, id) = (service.to_owned(), "i0".to_owned());
        client.update(&["weight"], UpdateInstanceRequest { service, id, weight, ..Default::default() }).await.unwrap();
    }
}

async fn service(client: &TestClient, name: &str, instances: usize) {
    for number in 0..instances {
        let request = RegisterRequest { ttl: seconds(600.0), ..instance(name, &format!("i{number}")) };
        client.register(request).await.unwrap();
    }
}

/// Opens this number of watches and reads them until they are aborted.
async fn watches(server: SocketAddr, service: &'static str, number: usize) -> Vec<AbortHandle> {
    let mut reading = Vec::new();
    for _ in 0..number / 500 {
        let client = TestClient::connect(server).await;
        for _ in 0..500 {
            let mut reader = Reader::of(&client, &[service]).await;
            reading.push(tokio::spawn(async move { while reader.message().await.is_ok() {} }).abort_handle());
        }
    }
    reading
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes of load: just pressure"]
async fn heartbeats_beside_silent_connections_stay_fast() {
    let serve = ServerProcess::start(&[]).await;
    let before = heartbeats(serve.grpc).await;
    before.print("heartbeats, alone");
    let server = serve.grpc;
    let mut silent = JoinSet::new();
    for _ in 0..15 {
        silent.spawn(async move {
            let mut open = Vec::new();
            for _ in 0..1_000 {
                open.push(within("a connection", TcpStream::connect(server)).await.unwrap());
            }
            loop {
                // Connections that the server closes are opened again.
                for socket in &mut open {
                    if socket.try_read(&mut [0; 1]).is_ok() || socket.take_error().is_ok_and(|error| error.is_some()) {
                        *socket = TcpStream::connect(server).await.unwrap();
                    }
                }
                sleep(Duration::from_millis(200)).await;
            }
        });
    }
    let open = "callboard_open_connections{listener=\"grpc\"}";
    crate::harness::metric_becomes(serve.http, open, |open| open > 14_000.0).await;
    let resident = serve.resident();
    let during = heartbeats(serve.grpc).await;
    during.print("heartbeats, beside 15,000 silent connections");
    println!("{} open at the end, {resident} KiB resident", metric(serve.http, open).await);
    silent.shutdown().await;
    during.assert_within(MAX_SLOWDOWN, &before, "heartbeats beside silent connections");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes of load: just pressure"]
async fn heartbeats_beside_lists_and_watches_stay_fast() {
    let serve = ServerProcess::start(&[]).await;
    let client = serve.client().await;
    service(&client, "hot", 1).await;
    service(&client, "large", 3_000).await;
    let alone = heartbeats(serve.grpc).await;
    alone.print("heartbeats, alone");
    let mut pressing = JoinSet::new();
    for _ in 0..32 {
        let client = serve.client().await;
        pressing.spawn(async move {
            let request = ListInstancesRequest { service: "large".to_owned(), ..ListInstancesRequest::default() };
            loop {
                // A rejection is a response too.
                let _page = client.discovery.clone().list_instances(request.clone()).await;
            }
        });
    }
    let beside_lists = heartbeats(serve.grpc).await;
    beside_lists.print("heartbeats, beside 32 clients that list 3,000 instances without a pause");
    beside_lists.assert_within(MAX_SLOWDOWN, &alone, "heartbeats beside lists");
    let reading = watches(serve.grpc, "hot", WATCHES).await;
    pressing.spawn(churn(client.clone(), "hot"));
    let beside_watches = heartbeats(serve.grpc).await;
    beside_watches.print("heartbeats, beside these and watches of a service that changes 10 times a second");
    beside_watches.assert_within(MAX_SLOWDOWN, &alone, "heartbeats beside lists and watches");
    reading.iter().for_each(AbortHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes of load: just pressure"]
async fn heartbeats_and_deliveries_beside_stalled_readers_stay_fast() {
    let serve = ServerProcess::start(&[]).await;
    let client = serve.client().await;
    service(&client, "hot", 1).await;
    let reading = watches(serve.grpc, "hot", WATCHES * 2 / 5).await;
    let changing = tokio::spawn(churn(client.clone(), "hot"));
    let (beats_alone, deliveries_alone) = tokio::join!(heartbeats(serve.grpc), deliveries(&client));
    beats_alone.print("heartbeats, all read");
    deliveries_alone.print("deliveries, all read");
    let mut stalled = Vec::new();
    for (window, reads) in [(0, Reads::Frames), (1 << 30, Reads::Nothing)] {
        let mut http2_client = Http2Client::connect(serve.grpc, window, reads).await;
        for _ in 0..10 {
            let request =
                callboard::pb::callboard::v1::WatchRequest { services: vec!["hot".into()], ..Default::default() };
            http2_client.call(WATCH, &request, true).await;
        }
        stalled.push(http2_client);
    }
    let (beats, delays) = tokio::join!(heartbeats(serve.grpc), deliveries(&client));
    beats.print("heartbeats, 1 % stalled");
    delays.print("deliveries, 1 % stalled");
    beats.assert_within(MAX_SLOWDOWN, &beats_alone, "heartbeats beside stalled readers");
    delays.assert_within(MAX_SLOWDOWN, &deliveries_alone, "deliveries beside stalled readers");
    changing.abort();
    reading.iter().for_each(AbortHandle::abort);
    drop(stalled);
}

/// Measures the time from a change of a quiet service to its reader, during a stage.
async fn deliveries(client: &TestClient) -> Times {
    service(client, "quiet", 1).await;
    let mut reader = Reader::synced(client, &["quiet"]).await;
    let (mut times, until, mut pace) = (Vec::new(), wall() + STAGE_MS, interval(Duration::from_millis(20)));
    for weight in (1..60_000).cycle() {
        pace.tick().await;
        let start = now();
        let (service, id) = ("quiet".to_owned(), "i0".to_owned());
        let request = UpdateInstanceRequest { service, id, weight, ..Default::default() };
        let revision = client.update(&["weight"], request).await.unwrap().revision;
        reader.until("it", |view| view.revision >= revision).await;
        times.push(start.elapsed().as_micros());
        if wall() > until {
            break;
        }
    }
    Times::of(times)
}
