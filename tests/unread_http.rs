//! Unread answers over HTTP: they take bounded memory, and their client is rejected.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use callboard::pb::callboard::v1::{ListInstancesRequest, ListServicesRequest, RegisterRequest, WatchRequest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::harness::{
    Filter, Http2Client, Reader, Reads, Scope, ServerProcess, TestClient, instance, metric, metric_becomes, seconds,
    wall, within,
};

const INSTANCES: u32 = 3_000;
/// Instances of which large answers are made quickly.
const QUICK: Size = Size { instances: 400, long_values: 16 };
const USUAL: Size = Size { instances: INSTANCES, long_values: 1 };
const ATTACKER: &str = "127.0.0.1";
const OTHER: &str = "127.0.0.2";
const WATCH: &str = "/callboard.v1.DiscoveryService/Watch";

/// Size of a service.
#[derive(Debug, Clone, Copy)]
struct Size {
    instances: u32,
    /// Number of values of 200 bytes in the metadata of each instance.
    long_values: u32,
}

async fn register_many(serve: &ServerProcess, size: Size) -> TestClient {
    let client = serve.client().await;
    let mut registering = JoinSet::new();
    for part in 0..50 {
        let client = client.clone();
        registering.spawn(async move {
            for number in 0..size.instances / 50 {
                let long = (0..size.long_values).map(|key| (format!("build{key}"), "x".repeat(200)));
                let metadata = long.chain([("zone".to_owned(), "a".to_owned())]).collect();
                let request =
                    RegisterRequest { ttl: seconds(600.0), metadata, ..instance("web", &format!("i{part}-{number}")) };
                client.register(request).await.unwrap();
            }
        });
    }
    within("many instances", registering.join_all()).await;
    client
}

/// Connects from this address of this machine.
async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // A small window: what the client does not read stays at the server.
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    within("a connection", socket.connect(to)).await.unwrap()
}

async fn request(from: &str, to: SocketAddr, path: &str) -> TcpStream {
    let mut socket = connect(from, to).await;
    socket
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    socket
}

/// Reads a response. Returns its status and all of its text.
async fn response(mut socket: TcpStream) -> (u16, String) {
    let mut answer = String::new();
    within("an answer", socket.read_to_string(&mut answer)).await.unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

async fn connect_from(from: &str, to: SocketAddr) -> TestClient {
    let from: IpAddr = from.parse().unwrap();
    TestClient::connect_with(to, |endpoint| endpoint.local_address(Some(from))).await
}

/// Asserts that lists over gRPC are answered to this address.
async fn assert_gets_lists(from: &str, serve: &ServerProcess) {
    let client = connect_from(from, serve.grpc).await;
    let request = ListInstancesRequest { service: "web".into(), ..Default::default() };
    let page = within("ListInstances", client.discovery.clone().list_instances(request)).await.unwrap().into_inner();
    assert!(!page.instances.is_empty());
    within("ListServices", client.discovery.clone().list_services(ListServicesRequest::default())).await.unwrap();
}

async fn assert_gets_pages(from: &str, serve: &ServerProcess) {
    for path in ["/v1/catalog/services", "/v1/health/service/web", "/metrics", "/prometheus/sd"] {
        let (status, answer) = response(request(from, serve.http, path).await).await;
        assert_eq!(status, 200, "{path} for {from}: {}", &answer[..answer.len().min(600)]);
    }
}

/// Measures the largest growth of the server's memory within a time, in MiB.
async fn growth(serve: &ServerProcess, before: u64, span: Duration) -> u64 {
    let (mut most, until) = (0, wall() + u64::try_from(span.as_millis()).unwrap());
    while wall() < until {
        most = most.max(serve.resident().saturating_sub(before) / 1024);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_targets_take_bounded_memory_and_leave_answers_to_others() {
    let serve = ServerProcess::start(&[]).await;
    register_many(&serve, QUICK).await;
    assert_gets_pages(OTHER, &serve).await;
    let before = serve.resident();
    // Each request differs, so that no two share an answer.
    let mut unread = Vec::new();
    for number in 0..250 {
        let path = format!("/prometheus/sd?filter=weight%20%21%3D%20{}", number + 2);
        unread.push(request(ATTACKER, serve.http, &path).await);
    }
    let grew = growth(&serve, before, Duration::from_millis(1_500)).await;
    println!("{grew} MiB for 250 unread answers");
    assert!(grew < 80, "{grew} MiB");
    assert_gets_lists(OTHER, &serve).await;
    assert_gets_pages(OTHER, &serve).await;
    // Another client of the same address gets pages.
    assert_gets_lists(ATTACKER, &serve).await;
    // Connections that keep memory from others are evicted within seconds, and those that wait are rejected with a reason.
    metric_becomes(serve.http, "callboard_evicted_connections_total{reason=\"stream_stalled\"}", |n| n >= 5.0).await;
    let mut refused = 0;
    for socket in unread {
        let mut answer = Vec::new();
        let (mut socket, read) = (socket, &mut answer);
        let _cut_off = within("the end", socket.read_to_end(read)).await;
        if answer.starts_with(b"HTTP/1.1 429 ") {
            let answer = String::from_utf8_lossy(&answer);
            assert!(
                answer.contains("unread answers reached for this address") && answer.contains("--max-unread-responses"),
                "{answer}"
            );
            refused += 1;
        }
    }
    println!("{refused} were rejected");
    assert!(refused > 100, "{refused}");
    assert_gets_pages(ATTACKER, &serve).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_answers_of_many_readers_count_once() {
    let serve = ServerProcess::start(&[]).await;
    register_many(&serve, USUAL).await;
    for path in ["/prometheus/sd", "/v1/health/service/web", "/v1/catalog/service/web"] {
        // The answer is made before, and shared by all readers.
        response(request(OTHER, serve.http, path).await).await;
        let before = serve.resident();
        let mut unread = Vec::new();
        for _ in 0..100 {
            unread.push(request(ATTACKER, serve.http, path).await);
        }
        let grew = growth(&serve, before, Duration::from_secs(1)).await;
        println!("{grew} MiB for 100 readers of {path}");
        assert!(grew < 40, "{path}: {grew} MiB");
        for address in [ATTACKER, OTHER] {
            assert_gets_lists(address, &serve).await;
            assert_gets_pages(address, &serve).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_queries_that_wake_together_are_all_answered() {
    let serve = ServerProcess::start(&[]).await;
    let first = register_many(&serve, QUICK).await;
    let (_, answer) = response(request(OTHER, serve.http, "/v1/health/service/web").await).await;
    let index = answer.lines().find_map(|line| line.strip_prefix("X-Consul-Index: ")).unwrap();
    let mut waiting = Vec::new();
    for number in 0..24 {
        // Distinct answers of several MiB together: they wait for each other, and none is rejected.
        let filter = format!("Service.Port%20%21%3D%20{}", 1 + number % 12);
        let path = format!("/v1/health/service/web?index={index}&wait=60s&filter={filter}");
        waiting.push(request(OTHER, serve.http, &path).await);
    }
    metric_becomes(serve.http, "callboard_blocking_queries", |number| number >= 24.0).await;
    first.register(instance("web", "one-more")).await.unwrap();
    let mut reading = JoinSet::new();
    for socket in waiting {
        reading.spawn(response(socket));
    }
    for (status, answer) in reading.join_all().await {
        assert_eq!(status, 200, "{}", &answer[..answer.len().min(400)]);
    }
}

/// Opens a thousand watches on one connection, each with a window of so many bytes. Returns the connection and the growth of memory in MiB.
async fn watches(serve: &ServerProcess, window: u32) -> (Http2Client, u64) {
    let before = serve.resident();
    let mut http2_client = Http2Client::connect(serve.grpc, window, Reads::Frames).await;
    for number in 0..1_000 {
        // A filter of its own makes a snapshot of its own.
        let filter = format!("weight != {}", number + 2);
        let request = WatchRequest { services: vec!["web".into()], filter, ..WatchRequest::default() };
        http2_client.call(WATCH, &request, true).await;
    }
    metric_becomes(serve.http, "callboard_watches", |number| number >= 1_000.0).await;
    let grew = growth(serve, before, Duration::from_secs(3)).await;
    (http2_client, grew)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_snapshots_of_one_connection_take_bounded_memory() {
    // Without a window, and with one in which a message begins.
    for window in [0, 1] {
        let serve = ServerProcess::start(&[]).await;
        register_many(&serve, USUAL).await;
        let (_unread, grew) = watches(&serve, window).await;
        println!("{grew} MiB for 1,000 unread snapshots");
        assert!(grew < 25, "{grew} MiB");
        for address in [ATTACKER, OTHER] {
            assert_gets_lists(address, &serve).await;
            assert_gets_pages(address, &serve).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_filtered_watches_of_one_connection_that_reads_are_all_synced() {
    let serve = ServerProcess::start(&[]).await;
    register_many(&serve, USUAL).await;
    let client = serve.client().await;
    let mut reading = JoinSet::new();
    for _ in 0..60 {
        let client = client.clone();
        reading.spawn(async move {
            let filter = Filter { text: "metadata.zone == a", ..Filter::NONE };
            let mut reader = Reader::open(&client, "web", Scope::names(&["web"]), filter).await;
            reader.until("synced", |view| view.revision > 0).await;
            reader.view.set.len()
        });
    }
    let start = wall();
    let sets = within("all are synced", reading.join_all()).await;
    println!("60 watches of {INSTANCES} instances after {} ms", wall() - start);
    assert!(sets.iter().all(|set| *set == INSTANCES as usize));
    assert!(metric(serve.http, "callboard_evicted_connections_total{reason=\"stream_stalled\"}").await < 1.0);
}
