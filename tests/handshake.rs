//! Connections without a handshake: they are closed in time on every listener, and delay no other.

use std::{net::SocketAddr, time::Duration};

use callboard::config::Config;
use tokio::time::sleep;

use crate::harness::{PREFACE, Raw, TestClient, TestServer, get, instance, metric_becomes, wall, within};

const DEADLINE: Duration = Duration::from_millis(400);

fn short_deadline(config: &mut Config) {
    config.handshake_timeout = DEADLINE;
}

/// Asserts that the server closes a connection, and not before the deadline.
async fn assert_closed_at_deadline(what: &str, raw: impl Future<Output = Raw>) {
    // Taken before the connection begins: a busy machine may resume this test late.
    let start = wall();
    let mut raw = raw.await;
    let answer = raw.hear_the_end().await;
    let took = wall() - start;
    assert!(took >= 200, "{what} was closed after {took} ms, with {:?}", String::from_utf8_lossy(&answer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshake_past_its_deadline_is_closed_on_every_listener() {
    let server = TestServer::with(short_deadline);
    for (address, beginnings) in [
        (server.grpc(), [&b""[..], &PREFACE[..10], &PREFACE[..24], &PREFACE[..PREFACE.len() - 1]]),
        (server.http(), [&b""[..], b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: callboard\r\n"]),
    ] {
        for beginning in beginnings {
            assert_closed_at_deadline(&format!("{beginning:?}"), Raw::saying(address, beginning)).await;
        }
    }
    metric_becomes(server.http(), "callboard_evicted_connections_total{reason=\"handshake_timeout\"}", |number| {
        number >= 8.0
    })
    .await;
}

/// Sends the bytes one by one, with pauses below the deadline. Returns the milliseconds until the connection was closed.
async fn send_slowly(address: SocketAddr, bytes: &[u8]) -> u64 {
    let mut raw = Raw::connect(address).await;
    let start = wall();
    for byte in bytes {
        raw.say(&[*byte]).await;
        if !raw.stays_open(DEADLINE / 8).await {
            break;
        }
    }
    wall() - start
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_handshake_is_closed_at_the_deadline() {
    let server = TestServer::with(short_deadline);
    let head = b"GET / HTTP/1.1\r\nHost: callboard\r\nUser-Agent: slow\r\nAccept: everything\r\n";
    let (grpc, http) = tokio::join!(send_slowly(server.grpc(), PREFACE), send_slowly(server.http(), head));
    for took in [grpc, http] {
        assert!((300..1_500).contains(&took), "closed after {took} ms");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_handshake_are_rejected_at_once() {
    let server = TestServer::open();
    let noise: Vec<u8> = (0..5_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for bytes in [&noise[..], b"GET / HTTP/1.1\r\n\r\n", &[&PREFACE[..24], &[0, 0, 0, 6, 0, 0, 0, 0, 0]].concat()] {
        let start = wall();
        Raw::saying(server.grpc(), bytes).await.hear_the_end().await;
        assert!(wall() - start < 4_000, "without the deadline of 5 s");
    }
    metric_becomes(server.http(), "callboard_failed_handshakes_total{listener=\"grpc\"}", |number| number >= 3.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connection_after_its_handshake_stays_open() {
    let server = TestServer::with(short_deadline);
    let mut idle = Raw::saying(server.grpc(), PREFACE).await;
    let client = server.client().await;
    let mut kept = Raw::saying(server.http(), b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(idle.stays_open(DEADLINE * 3).await, "HTTP/2 without a request");
    assert!(kept.stays_open(DEADLINE).await, "HTTP/1.1 after one");
    client.register(instance("web", "a")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_does_not_wait_for_handshakes() {
    let server = TestServer::with(|config| config.handshake_timeout = Duration::from_mins(1));
    let mut open = Vec::new();
    for address in [server.grpc(), server.http()] {
        for beginning in [&b""[..], b"P", b"G", &PREFACE[..24], PREFACE] {
            open.push(Raw::saying(address, beginning).await);
        }
    }
    sleep(Duration::from_millis(100)).await;
    let start = wall();
    server.leave().await;
    assert!(wall() - start < 3_000, "the shutdown took {} ms", wall() - start);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_do_not_delay_others() {
    let server = TestServer::with(short_deadline);
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(Raw::connect(server.grpc()).await);
    }
    let start = wall();
    let client = TestClient::connect(server.grpc()).await;
    client.register(instance("web", "a")).await.unwrap();
    assert!(wall() - start < 2_000);
    let (status, _) = within("a page", get(server.http(), "/healthz")).await;
    assert_eq!(status, 200);
    drop(silent);
}
