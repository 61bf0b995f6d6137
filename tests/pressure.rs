//! What others feel while a registry is pressed. Figures: `just pressure`.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use callboard::pb::callboard::v1::{ListInstancesRequest, RegisterRequest, UpdateInstanceRequest};
use tokio::{
    net::TcpStream,
    task::{AbortHandle, JoinSet},
    time::{interval, sleep},
};

use crate::harness::{
    HeartbeatStream, Reader, Reads, ServerProcess, Speaker, TestClient, instance, metric, seconds, wall, within,
};

/// Heartbeat streams of honest clients, each on a connection of its own.
const HONEST: usize = 20;
/// How long each stage lasts, in milliseconds.
const STAGE: u64 = 8_000;
/// Watches of a hot service. A debug build cannot tell that many of them in time.
const WATCHES: usize = if cfg!(debug_assertions) { 1_000 } else { 5_000 };
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

    fn say(&self, what: &str) {
        println!(
            "{what}: {} of them, p50 {} µs, p99 {} µs, worst {} µs",
            self.0.len(),
            self.at(50),
            self.at(99),
            self.at(100)
        );
    }
}

#[expect(clippy::disallowed_methods, reason = "figures are measured from outside")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Every heartbeat's round trip while a stage lasts: all are answered. On a thread of its own, so that what is measured is
/// the server and not this process.
async fn heartbeats(server: SocketAddr) -> Times {
    let measuring = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut beating = JoinSet::new();
            for number in 0..HONEST {
                let peer = TestClient::connect(server).await;
                let lease = peer.register(instance("honest", &format!("i{number}"))).await.unwrap().lease_id;
                beating.spawn(beat(peer, lease));
            }
            Times::of(beating.join_all().await.concat())
        })
    });
    measuring.await.unwrap()
}

async fn beat(peer: TestClient, lease: Bytes) -> Vec<u128> {
    let mut beats = HeartbeatStream::open(&peer).await;
    let (mut pace, mut times, until) = (interval(Duration::from_millis(40)), Vec::new(), wall() + STAGE);
    while wall() < until {
        pace.tick().await;
        let start = now();
        beats.beat(&[&lease]).await.unwrap();
        times.push(start.elapsed().as_micros());
    }
    times
}

/// Changes a service without a pause to speak of.
async fn churn(peer: TestClient, service: &'static str) {
    let mut pace = interval(Duration::from_millis(100));
    for weight in (1..60_000).cycle() {
        pace.tick().await;
        let (service, id) = (service.to_owned(), "i0".to_owned());
        peer.update(&["weight"], UpdateInstanceRequest { service, id, weight, ..Default::default() }).await.unwrap();
    }
}

async fn service(peer: &TestClient, name: &str, instances: usize) {
    for number in 0..instances {
        let request = RegisterRequest { ttl: seconds(600.0), ..instance(name, &format!("i{number}")) };
        peer.register(request).await.unwrap();
    }
}

/// So many watches, read to the end.
async fn watches(server: SocketAddr, service: &'static str, number: usize) -> Vec<AbortHandle> {
    let mut reading = Vec::new();
    for _ in 0..number / 500 {
        let peer = TestClient::connect(server).await;
        for _ in 0..500 {
            let mut reader = Reader::of(&peer, &[service]).await;
            reading.push(tokio::spawn(async move { while reader.message().await.is_ok() {} }).abort_handle());
        }
    }
    reading
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures; minutes: just pressure"]
async fn fifteen_thousand_silent_connections() {
    let serve = ServerProcess::start(&[]).await;
    let before = heartbeats(serve.grpc).await;
    before.say("heartbeats, alone");
    let server = serve.grpc;
    let mut silent = JoinSet::new();
    for _ in 0..15 {
        silent.spawn(async move {
            let mut open = Vec::new();
            for _ in 0..1_000 {
                open.push(within("a connection", TcpStream::connect(server)).await.unwrap());
            }
            loop {
                // Whoever was cut off comes again.
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
    during.say("heartbeats, beside 15,000 silent connections");
    println!("{} open at the end, {resident} KiB resident", metric(serve.http, open).await);
    silent.shutdown().await;
    println!("p99 is {} % of what it is alone", during.at(99) * 100 / before.at(99));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures; minutes: just pressure"]
async fn heartbeats_beside_hot_watches_and_lists() {
    let serve = ServerProcess::start(&[]).await;
    let peer = serve.peer().await;
    service(&peer, "hot", 1).await;
    service(&peer, "large", 3_000).await;
    heartbeats(serve.grpc).await.say("heartbeats, alone");
    let mut pressing = JoinSet::new();
    for _ in 0..32 {
        let peer = serve.peer().await;
        pressing.spawn(async move {
            let request = ListInstancesRequest { service: "large".to_owned(), ..ListInstancesRequest::default() };
            loop {
                // Refusals are answers too.
                let _page = peer.discovery.clone().list_instances(request.clone()).await;
            }
        });
    }
    heartbeats(serve.grpc).await.say("heartbeats, beside 32 that ask for pages of 3,000 instances without a pause");
    let reading = watches(serve.grpc, "hot", WATCHES).await;
    pressing.spawn(churn(peer.clone(), "hot"));
    heartbeats(serve.grpc).await.say("heartbeats, beside these and watches of what changes 10 times a second");
    reading.iter().for_each(AbortHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures; minutes: just pressure"]
async fn one_in_a_hundred_readers_stalls() {
    let serve = ServerProcess::start(&[]).await;
    let peer = serve.peer().await;
    service(&peer, "hot", 1).await;
    let reading = watches(serve.grpc, "hot", WATCHES * 2 / 5).await;
    let changing = tokio::spawn(churn(peer.clone(), "hot"));
    let (beats, delays) = tokio::join!(heartbeats(serve.grpc), deliveries(&peer));
    beats.say("heartbeats, all read");
    delays.say("deliveries, all read");
    let mut stalled = Vec::new();
    for (window, reads) in [(0, Reads::Frames), (1 << 30, Reads::Nothing)] {
        let mut speaker = Speaker::connect(serve.grpc, window, reads).await;
        for _ in 0..10 {
            let request =
                callboard::pb::callboard::v1::WatchRequest { services: vec!["hot".into()], ..Default::default() };
            speaker.call(WATCH, &request, true).await;
        }
        stalled.push(speaker);
    }
    let (beats, delays) = tokio::join!(heartbeats(serve.grpc), deliveries(&peer));
    beats.say("heartbeats, 1 % stalled");
    delays.say("deliveries, 1 % stalled");
    changing.abort();
    reading.iter().for_each(AbortHandle::abort);
    drop(stalled);
}

/// How long changes of a quiet service take to a reader, while a stage lasts.
async fn deliveries(peer: &TestClient) -> Times {
    service(peer, "quiet", 1).await;
    let mut reader = Reader::synced(peer, &["quiet"]).await;
    let (mut times, until, mut pace) = (Vec::new(), wall() + STAGE, interval(Duration::from_millis(20)));
    for weight in (1..60_000).cycle() {
        pace.tick().await;
        let start = now();
        let (service, id) = ("quiet".to_owned(), "i0".to_owned());
        let request = UpdateInstanceRequest { service, id, weight, ..Default::default() };
        let revision = peer.update(&["weight"], request).await.unwrap().revision;
        reader.until("it", |view| view.revision >= revision).await;
        times.push(start.elapsed().as_micros());
        if wall() > until {
            break;
        }
    }
    Times::of(times)
}
