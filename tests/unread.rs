//! Answers of every kind that are not read: their connections are evicted in time, cost little memory in the process and in the kernel, and delay no other.

use std::{fs, net::SocketAddr, time::Duration};

use callboard::pb::callboard::v1::{
    Heartbeat, KeepAliveRequest, ListInstancesRequest, RegisterRequest, UpdateInstanceRequest, WatchRequest,
};
use rustix::process::Signal;
use tokio::{task::JoinSet, time::interval};

use crate::harness::{
    Child, HeartbeatStream, Http2Client, Raw, Reads, ServerProcess, Stalls, TestClient, instance, metric,
    metric_becomes, seconds, wall, within,
};

/// Number of instances of the service.
const INSTANCES: u32 = 10_000;
/// Connections of each kind.
const CONNECTIONS: usize = 10;
/// Streams on each connection.
const STREAMS: usize = 10;
/// Memory of the process that one unread stream may take, in KiB.
const MAX_STREAM_KIB: u64 = 64;
/// Milliseconds until a connection is evicted. One that answers no ping is closed 30 s after its last frame.
const MAX_EVICTION_MS: u64 = 32_000;

const WATCH: &str = "/callboard.v1.DiscoveryService/Watch";
const LIST: &str = "/callboard.v1.DiscoveryService/ListInstances";
const KEEP_ALIVE: &str = "/callboard.v1.RegistryService/KeepAlive";

/// Kind of a client that does not read.
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
    async fn open(self, server: SocketAddr) -> Http2Client {
        let mut http2_client = Http2Client::connect(server, self.window, self.reads).await;
        let service = "web".to_owned();
        for _ in 0..STREAMS {
            match self.path {
                WATCH => {
                    let request = WatchRequest { services: vec![service.clone()], ..WatchRequest::default() };
                    http2_client.call(WATCH, &request, true).await;
                }
                LIST => {
                    // More than one frame, and made fast: otherwise a busy machine rejects some.
                    let (service, page_size) = (service.clone(), 150);
                    let request = ListInstancesRequest { service, page_size, ..ListInstancesRequest::default() };
                    http2_client.call(LIST, &request, true).await;
                }
                _ => {
                    let heartbeat = Heartbeat { lease_id: vec![7; 16].into(), load: None };
                    http2_client.call(KEEP_ALIVE, &KeepAliveRequest { heartbeats: vec![heartbeat; 200] }, false).await;
                }
            }
        }
        http2_client
    }
}

/// Bytes in the kernel's send queues of the sockets of this port.
fn kernel_queue_bytes(address: SocketAddr) -> u64 {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", address.port());
    let queued = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let queue = fields[1].ends_with(&port).then(|| fields[4].split(':').next().unwrap())?;
        u64::from_str_radix(queue, 16).ok()
    });
    queued.sum()
}

/// Registers a service of many instances.
async fn register_many(client: &TestClient) {
    let mut registering = JoinSet::new();
    for part in 0..100 {
        let client = client.clone();
        registering.spawn(async move {
            for number in 0..INSTANCES / 100 {
                let request = RegisterRequest {
                    ttl: seconds(600.0),
                    metadata: [("zone".to_owned(), "a".to_owned()), ("version".to_owned(), "1.2.3".to_owned())].into(),
                    ..instance("web", &format!("i{part}-{number}"))
                };
                client.register(request).await.unwrap();
            }
        });
    }
    within("many instances", registering.join_all()).await;
}

async fn change(client: &TestClient, weight: u32) {
    let (service, id) = ("web".to_owned(), "i0-0".to_owned());
    client.update(&["weight"], UpdateInstanceRequest { service, id, weight, ..Default::default() }).await.unwrap();
}

/// Opens connections of every kind.
async fn open_all(server: SocketAddr) -> Vec<Http2Client> {
    let mut speakers = Vec::new();
    for kind in KINDS {
        for _ in 0..CONNECTIONS {
            speakers.push(kind.open(server).await);
        }
    }
    speakers
}

/// Requests pages that are never read. A page of 10,000 targets is larger than the buffers of both kernels.
async fn request_pages(http: SocketAddr) -> Vec<Raw> {
    let request = b"GET /prometheus/sd HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut pages = Vec::new();
    for _ in 0..CONNECTIONS {
        pages.push(Raw::saying(http, request).await);
    }
    pages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_that_does_not_read_is_evicted_in_time_for_every_kind_of_answer() {
    let stalls = Stalls::of_this_machine();
    let serve = ServerProcess::start(&[]).await;
    let client = serve.client().await;
    register_many(&client).await;
    let lease = client.register(instance("web", "honest")).await.unwrap().lease_id;
    let mut heartbeats = HeartbeatStream::open(&client).await;
    let start = wall();
    let _speakers = open_all(serve.grpc).await;
    let mut weight = 0;
    let _pages = request_pages(serve.http).await;
    // A stopped process, for which the kernel acknowledges what arrives.
    let address = serve.address();
    let stopped = Child::start(&["watch", "web", "--server", &address, "-o", "json"]);
    metric_becomes(serve.http, "callboard_watches", |open| open > 40.0).await;
    stopped.signal(Signal::STOP);
    let bad = KINDS.len() * CONNECTIONS + 1;
    // A client that closes its half is closed at once.
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
        change(&client, weight).await;
        let asked = wall();
        heartbeats.beat(&[&lease]).await.unwrap();
        slowest = slowest.max(wall() - asked);
        kernel = kernel.max(kernel_queue_bytes(serve.grpc));
        let excused = stalls.since(opened);
        let grpc = metric(serve.http, "callboard_open_connections{listener=\"grpc\"}").await;
        let http = metric(serve.http, "callboard_open_connections{listener=\"http\"}").await;
        if grpc <= 1.0 && http <= 1.0 {
            break wall();
        }
        if wall() > opened + MAX_EVICTION_MS + excused {
            let (_, metrics) = crate::harness::get(serve.http, "/metrics").await;
            let counts = metrics.lines().filter(|line| line.contains("connections") && !line.starts_with('#'));
            panic!("{grpc} and {http} connections are still there: {:?}", counts.collect::<Vec<_>>());
        }
    };
    println!(
        "all closed after {} ms; {} KiB in the kernel at most; heartbeats up to {slowest} ms",
        gone - start,
        kernel / 1024
    );
    assert!(kernel / 1024 / (bad as u64) < 300, "{kernel} bytes in the kernel");
    assert!(
        kernel_queue_bytes(serve.grpc) < 1_000,
        "unread data does not stay in the kernel: {}",
        kernel_queue_bytes(serve.grpc)
    );
    assert!(slowest < 2_000 + stalls.since(start), "a heartbeat took {slowest} ms");
    let evicted =
        async |why| metric(serve.http, &format!("callboard_evicted_connections_total{{reason=\"{why}\"}}")).await;
    assert!(evicted("stream_stalled").await >= 40.0 && evicted("socket_stalled").await >= 10.0);
}

/// Measures one kind. Returns the bytes of a stream in the process and in the kernel, and the milliseconds until all are closed.
async fn measure(kind: Kind) -> (u64, u64, u64) {
    let serve = ServerProcess::start(&[]).await;
    let client = serve.client().await;
    register_many(&client).await;
    // Encoded answers that all readers share are made before.
    crate::harness::Reader::synced(&client, &["web"]).await;
    client.list("web").await;
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
        kernel = kernel.max(kernel_queue_bytes(serve.grpc));
        if metric(serve.http, "callboard_open_connections{listener=\"grpc\"}").await <= 1.0 || wall() > start + 90_000 {
            return (process * 1024 / all, kernel / all, wall() - start);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "benchmark; half a minute for each kind: just pressure"]
async fn unread_streams_of_each_kind_take_bounded_memory() {
    for kind in KINDS {
        let (process, kernel, gone) = measure(kind).await;
        println!(
            "{}: {process} bytes a stream in the process, {kernel} in the kernel, closed after {gone} ms",
            kind.name
        );
        assert!(process <= MAX_STREAM_KIB * 1024 && gone <= MAX_EVICTION_MS + 5_000, "{kind:?}");
    }
}
