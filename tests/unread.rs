//! Answers that nobody takes, of every kind: each is cut off in time, costs little, in the process and in the kernel, and
//! is in nobody's way.

use std::{fs, net::SocketAddr, time::Duration};

use callboard::pb::callboard::v1::{
    Heartbeat, KeepAliveRequest, ListInstancesRequest, RegisterRequest, UpdateInstanceRequest, WatchRequest,
};
use rustix::process::Signal;
use tokio::{task::JoinSet, time::interval};

use crate::harness::{
    Child, HeartbeatStream, Raw, Reads, ServerProcess, Speaker, Stalls, TestClient, instance, metric, metric_becomes,
    seconds, wall, within,
};

/// Instances of the service that is not read.
const INSTANCES: u32 = 10_000;
/// Of each kind.
const CONNECTIONS: usize = 10;
/// On each connection.
const STREAMS: usize = 10;
/// What one that is not taken may cost, in the process, in KiB.
const EACH: u64 = 64;
/// In milliseconds. Who answers no ping is gone 30 s after its last frame, and a little.
const ALLOWED: u64 = 32_000;

const WATCH: &str = "/callboard.v1.DiscoveryService/Watch";
const LIST: &str = "/callboard.v1.DiscoveryService/ListInstances";
const KEEP_ALIVE: &str = "/callboard.v1.RegistryService/KeepAlive";

/// How somebody does not read.
#[derive(Debug, Clone, Copy)]
struct Kind {
    name: &'static str,
    path: &'static str,
    window: u32,
    reads: Reads,
}

const KINDS: [Kind; 6] = [
    Kind { name: "watch, socket never read", path: WATCH, window: 1 << 30, reads: Reads::Nothing },
    Kind { name: "watch, no window", path: WATCH, window: 0, reads: Reads::Frames },
    Kind { name: "watch, window not renewed", path: WATCH, window: 65_535, reads: Reads::Frames },
    Kind { name: "list, socket never read", path: LIST, window: 1 << 30, reads: Reads::Nothing },
    Kind { name: "list, window of a byte", path: LIST, window: 1, reads: Reads::Frames },
    Kind { name: "heartbeats, window of a byte", path: KEEP_ALIVE, window: 1, reads: Reads::Frames },
];

impl Kind {
    async fn open(self, server: SocketAddr) -> Speaker {
        let mut speaker = Speaker::connect(server, self.window, self.reads).await;
        let service = "web".to_owned();
        for _ in 0..STREAMS {
            match self.path {
                WATCH => {
                    let request = WatchRequest { services: vec![service.clone()], ..WatchRequest::default() };
                    speaker.call(WATCH, &request, true).await;
                }
                LIST => {
                    // More than a frame, and soon made: else a busy machine refuses some.
                    let (service, page_size) = (service.clone(), 150);
                    let request = ListInstancesRequest { service, page_size, ..ListInstancesRequest::default() };
                    speaker.call(LIST, &request, true).await;
                }
                _ => {
                    let heartbeat = Heartbeat { lease_id: vec![7; 16].into(), load: None };
                    speaker.call(KEEP_ALIVE, &KeepAliveRequest { heartbeats: vec![heartbeat; 200] }, false).await;
                }
            }
        }
        speaker
    }
}

/// Bytes that the kernel keeps for sockets of this port.
fn in_kernel(address: SocketAddr) -> u64 {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", address.port());
    let queued = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let queue = fields[1].ends_with(&port).then(|| fields[4].split(':').next().unwrap())?;
        u64::from_str_radix(queue, 16).ok()
    });
    queued.sum()
}

/// A service of many instances.
async fn crowd(peer: &TestClient) {
    let mut registering = JoinSet::new();
    for part in 0..100 {
        let peer = peer.clone();
        registering.spawn(async move {
            for number in 0..INSTANCES / 100 {
                let request = RegisterRequest {
                    ttl: seconds(600.0),
                    metadata: [("zone".to_owned(), "a".to_owned()), ("version".to_owned(), "1.2.3".to_owned())].into(),
                    ..instance("web", &format!("i{part}-{number}"))
                };
                peer.register(request).await.unwrap();
            }
        });
    }
    within("many instances", registering.join_all()).await;
}

async fn change(peer: &TestClient, weight: u32) {
    let (service, id) = ("web".to_owned(), "i0-0".to_owned());
    peer.update(&["weight"], UpdateInstanceRequest { service, id, weight, ..Default::default() }).await.unwrap();
}

/// Connections of every kind.
async fn open_all(server: SocketAddr) -> Vec<Speaker> {
    let mut speakers = Vec::new();
    for kind in KINDS {
        for _ in 0..CONNECTIONS {
            speakers.push(kind.open(server).await);
        }
    }
    speakers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_nothing_is_cut_off_in_time_whatever_the_answer() {
    let stalls = Stalls::of_this_machine();
    let serve = ServerProcess::start(&[]).await;
    let peer = serve.peer().await;
    crowd(&peer).await;
    let lease = peer.register(instance("web", "honest")).await.unwrap().lease_id;
    let mut beats = HeartbeatStream::open(&peer).await;
    let start = wall();
    let _speakers = open_all(serve.grpc).await;
    let mut weight = 0;
    // A page of 10,000 targets is more than the kernels of both sides take.
    let request = b"GET /prometheus/sd HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut pages = Vec::new();
    for _ in 0..CONNECTIONS {
        pages.push(Raw::saying(serve.http, request).await);
    }
    // A process that stands still, whose kernel acknowledges whatever comes.
    let address = serve.address();
    let stopped = Child::start(&["watch", "web", "--server", &address, "-o", "json"]);
    metric_becomes(serve.http, "callboard_watches", |open| open > 40.0).await;
    stopped.signal(Signal::STOP);
    let bad = KINDS.len() * CONNECTIONS + 1;
    // Who only closes its half is gone at once.
    for _ in 0..CONNECTIONS {
        let mut half = Kind { window: 1 << 30, reads: Reads::Frames, ..KINDS[1] }.open(serve.grpc).await;
        half.half_close().await;
        assert!(half.ended().await < start + 20_000);
    }
    let opened = wall();
    let (mut slowest, mut kernel) = (0, 0);
    let mut pace = interval(Duration::from_millis(100));
    let gone = loop {
        pace.tick().await;
        weight += 1;
        change(&peer, weight).await;
        let asked = wall();
        beats.beat(&[&lease]).await.unwrap();
        slowest = slowest.max(wall() - asked);
        kernel = kernel.max(in_kernel(serve.grpc));
        let excused = stalls.since(opened);
        let grpc = metric(serve.http, "callboard_open_connections{listener=\"grpc\"}").await;
        let http = metric(serve.http, "callboard_open_connections{listener=\"http\"}").await;
        if grpc <= 1.0 && http <= 1.0 {
            break wall();
        }
        if wall() > opened + ALLOWED + excused {
            let (_, metrics) = crate::harness::get(serve.http, "/metrics").await;
            let counts = metrics.lines().filter(|line| line.contains("connections") && !line.starts_with('#'));
            panic!("{grpc} and {http} connections are still there: {:?}", counts.collect::<Vec<_>>());
        }
    };
    println!(
        "all gone after {} ms; {} KiB in the kernel at most; heartbeats up to {slowest} ms",
        gone - start,
        kernel / 1024
    );
    assert!(kernel / 1024 / (bad as u64) < 300, "{kernel} bytes in the kernel");
    assert!(in_kernel(serve.grpc) < 1_000, "what was not taken does not stay: {}", in_kernel(serve.grpc));
    assert!(slowest < 2_000 + stalls.since(start), "a heartbeat took {slowest} ms");
    let evicted =
        async |why| metric(serve.http, &format!("callboard_evicted_connections_total{{reason=\"{why}\"}}")).await;
    assert!(evicted("stream_stalled").await >= 40.0 && evicted("socket_stalled").await >= 10.0);
}

/// What one kind costs: in the process and in the kernel, for a stream, in bytes; and after how long all are gone, in ms.
async fn cost(kind: Kind) -> (u64, u64, u64) {
    let serve = ServerProcess::start(&[]).await;
    let peer = serve.peer().await;
    crowd(&peer).await;
    // What is made once for all readers is there before.
    crate::harness::Reader::synced(&peer, &["web"]).await;
    peer.list("web").await;
    let before = serve.resident();
    let start = wall();
    let mut speakers = Vec::new();
    for _ in 0..CONNECTIONS {
        speakers.push(kind.open(serve.grpc).await);
    }
    let (mut process, mut kernel) = (0, 0);
    let mut pace = interval(Duration::from_millis(200));
    let all = (CONNECTIONS * STREAMS) as u64;
    loop {
        pace.tick().await;
        process = process.max(serve.resident().saturating_sub(before));
        kernel = kernel.max(in_kernel(serve.grpc));
        if metric(serve.http, "callboard_open_connections{listener=\"grpc\"}").await <= 1.0 || wall() > start + 90_000 {
            return (process * 1024 / all, kernel / all, wall() - start);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures; half a minute for each kind: just pressure"]
async fn what_each_kind_costs() {
    for kind in KINDS {
        let (process, kernel, gone) = cost(kind).await;
        println!(
            "{}: {process} bytes a stream in the process, {kernel} in the kernel, gone after {gone} ms",
            kind.name
        );
        assert!(process <= EACH * 1024 && gone <= ALLOWED + 5_000, "{kind:?}");
    }
}
