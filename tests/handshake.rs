//! Connections that never become one: cut off in time on every listener, and in nobody's way.

use std::{net::SocketAddr, time::Duration};

use callboard::config::Config;
use tokio::time::sleep;

use crate::harness::{PREFACE, Raw, TestClient, TestServer, get, instance, metric_becomes, wall, within};

const DEADLINE: Duration = Duration::from_millis(400);

fn hasty(config: &mut Config) {
    config.handshake_timeout = DEADLINE;
}

/// Asserts that the server ends it, and not before it had the time to become honest.
async fn is_cut_off(what: &str, raw: impl Future<Output = Raw>) {
    // Before it is there: a busy machine may come back to this test late.
    let start = wall();
    let mut raw = raw.await;
    let said = raw.hear_the_end().await;
    let took = wall() - start;
    assert!(took >= 200, "{what} was cut off after {took} ms, with {:?}", String::from_utf8_lossy(&said));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_has_a_deadline_on_every_listener() {
    let house = TestServer::with(hasty);
    for (address, beginnings) in [
        (house.grpc(), [&b""[..], &PREFACE[..10], &PREFACE[..24], &PREFACE[..PREFACE.len() - 1]]),
        (house.http(), [&b""[..], b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: callboard\r\n"]),
    ] {
        for beginning in beginnings {
            is_cut_off(&format!("{beginning:?}"), Raw::saying(address, beginning)).await;
        }
    }
    metric_becomes(house.http(), "callboard_evicted_connections_total{reason=\"handshake_timeout\"}", |number| {
        number >= 8.0
    })
    .await;
}

/// Sends the bytes one after the other, with pauses within which nobody could call it silent.
async fn slowly(address: SocketAddr, bytes: &[u8]) -> u64 {
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
async fn a_slow_handshake_is_no_better_than_none() {
    let house = TestServer::with(hasty);
    let head = b"GET / HTTP/1.1\r\nHost: callboard\r\nUser-Agent: slow\r\nAccept: everything\r\n";
    let (grpc, http) = tokio::join!(slowly(house.grpc(), PREFACE), slowly(house.http(), head));
    for took in [grpc, http] {
        assert!((300..1_500).contains(&took), "cut off after {took} ms");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_handshake_is_closed_at_once() {
    let house = TestServer::open();
    let noise: Vec<u8> = (0..5_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for bytes in [&noise[..], b"GET / HTTP/1.1\r\n\r\n", &[&PREFACE[..24], &[0, 0, 0, 6, 0, 0, 0, 0, 0]].concat()] {
        let start = wall();
        Raw::saying(house.grpc(), bytes).await.hear_the_end().await;
        assert!(wall() - start < 4_000, "without the deadline of 5 s");
    }
    metric_becomes(house.http(), "callboard_failed_handshakes_total{listener=\"grpc\"}", |number| number >= 3.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_that_has_shaken_hands_stays() {
    let house = TestServer::with(hasty);
    let mut idle = Raw::saying(house.grpc(), PREFACE).await;
    let peer = house.peer().await;
    let mut kept = Raw::saying(house.http(), b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(idle.stays_open(DEADLINE * 3).await, "HTTP/2 without a request");
    assert!(kept.stays_open(DEADLINE).await, "HTTP/1.1 after one");
    peer.register(instance("web", "a")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_handshake_to_leave() {
    let house = TestServer::with(|config| config.handshake_timeout = Duration::from_mins(1));
    let mut open = Vec::new();
    for address in [house.grpc(), house.http()] {
        for beginning in [&b""[..], b"P", b"G", &PREFACE[..24], PREFACE] {
            open.push(Raw::saying(address, beginning).await);
        }
    }
    sleep(Duration::from_millis(100)).await;
    let start = wall();
    house.leave().await;
    assert!(wall() - start < 3_000, "it took {} ms to leave", wall() - start);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_keep_nobody_waiting() {
    let house = TestServer::with(hasty);
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(Raw::connect(house.grpc()).await);
    }
    let start = wall();
    let peer = TestClient::connect(house.grpc()).await;
    peer.register(instance("web", "a")).await.unwrap();
    assert!(wall() - start < 2_000);
    let (status, _) = within("a page", get(house.http(), "/healthz")).await;
    assert_eq!(status, 200);
    drop(silent);
}
