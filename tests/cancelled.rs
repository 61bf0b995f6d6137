//! Clients that cancel calls: gateways may; floods are evicted with a reason, and their other streams end properly.

use std::time::Duration;

use callboard::pb::callboard::v1::{Heartbeat, KeepAliveRequest, Notice, WatchRequest, watch_response::Message};
use prost::Message as _;
use tokio::{net::TcpStream, time::interval};

use crate::harness::{
    HeartbeatStream, PREFACE, Raw, Reader, TestServer, instance, metric, metric_becomes, no_connections, wall,
    wire::{
        ACK, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frame, HEADERS, PING, RST_STREAM, WINDOW_UPDATE,
        call_headers, put,
    },
    within,
};

const KEEP_ALIVE: &str = "/callboard.v1.RegistryService/KeepAlive";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const EVICTED: &str = "callboard_evicted_connections_total{reason=\"rapid_reset\"}";
const CANCEL: u32 = 8;

/// Writes a call that is cancelled at once.
fn put_cancelled_call(to: &mut Vec<u8>, stream: u32) {
    put(to, HEADERS, END_HEADERS, stream, &call_headers(KEEP_ALIVE));
    put(to, RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
}

/// Empty gRPC message: a health check of the whole server.
const EMPTY: &[u8] = &[0; 5];

/// Writes a health check.
fn put_answered_call(to: &mut Vec<u8>, stream: u32) {
    put(to, HEADERS, END_HEADERS, stream, &call_headers(CHECK));
    put(to, DATA, END_STREAM, stream, EMPTY);
}

/// Reads frames until the connection ends, and answers pings.
async fn read(socket: &mut TcpStream) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(frame) = within("a frame or the end", Frame::read(socket)).await {
        if frame.kind == PING && frame.flags & ACK == 0 {
            let mut answer = Vec::new();
            put(&mut answer, PING, ACK, 0, &frame.payload);
            Raw::say_on(socket, &answer).await;
        }
        frames.push(frame);
    }
    frames
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_cancelled_calls_ends_with_go_away_and_reason() {
    let server = TestServer::with(|config| config.max_cancelled_calls_per_second = 50.try_into().unwrap());
    let mut bytes = PREFACE.to_vec();
    // A heartbeat stream with one heartbeat, which stays open.
    put(&mut bytes, HEADERS, END_HEADERS, 1, &call_headers(KEEP_ALIVE));
    let heartbeats = KeepAliveRequest { heartbeats: vec![Heartbeat { lease_id: vec![7; 16].into(), load: None }] };
    let message = heartbeats.encode_to_vec();
    put(&mut bytes, DATA, 0, 1, &[&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()], &message[..]].concat());
    for call in 1..=60 {
        put_cancelled_call(&mut bytes, 2 * call + 1);
    }
    let mut raw = Raw::saying(server.grpc(), &bytes).await;
    let frames = read(&mut raw.0).await;
    let away: Vec<_> = frames.iter().filter_map(Frame::go_away).collect();
    assert!(!away.is_empty(), "{frames:?}");
    for (_, code, reason) in &away {
        assert_eq!(*code, ENHANCE_YOUR_CALM, "{away:?}");
        assert!(
            reason.contains("more than 50 calls were cancelled") && reason.contains("--max-cancelled-calls-per-second")
        );
    }
    let first = frames.iter().position(|frame| frame.go_away().is_some()).unwrap();
    let ended =
        frames.iter().position(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0 && frame.kind == HEADERS);
    assert!(ended.is_some_and(|ended| ended > first), "the heartbeat stream ends properly, after GOAWAY: {frames:?}");
    metric_becomes(server.http(), EVICTED, |number| number >= 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evicted_client_keeps_its_watch_and_its_lease_on_another_connection() {
    let server = TestServer::with(|config| config.max_cancelled_calls_per_second = 50.try_into().unwrap());
    let client = server.client().await;
    let lease = client.register(instance("web", "a")).await.unwrap().lease_id;
    let mut reader = Reader::synced(&client, &["web"]).await;
    let mut beats = HeartbeatStream::open(&client).await;
    beats.beat(&[&lease]).await.unwrap();
    let request = WatchRequest { services: vec!["web".to_owned()], ..WatchRequest::default() };
    while metric(server.http(), EVICTED).await < 1.0 {
        for _ in 0..60 {
            // An error once the connection is closing.
            drop(client.discovery.clone().watch(request.clone()).await);
        }
    }
    let notice = loop {
        if let Some(Message::Notice(notice)) = within("a notice", reader.message()).await.unwrap().message {
            break notice;
        }
    };
    assert_eq!(notice, i32::from(Notice::Reconnect));
    // The channel reconnects.
    reader.reopen().await.unwrap();
    reader.until("synced again", |view| view.get("web", "a").is_some()).await;
    HeartbeatStream::open(&client).await.beat(&[&lease]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_floods_after_goaway_is_disconnected() {
    let server = TestServer::with(|config| config.max_cancelled_calls_per_second = 50.try_into().unwrap());
    let mut raw = Raw::saying(server.grpc(), PREFACE).await;
    let mut stream = 1;
    // It never answers the ping after GOAWAY, so the server still accepts its new calls.
    let gone = async {
        loop {
            let mut bytes = Vec::new();
            for _ in 0..20 {
                put_cancelled_call(&mut bytes, stream);
                stream += 2;
            }
            if tokio::io::AsyncWriteExt::write_all(&mut raw.0, &bytes).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    within("the end", gone).await;
    no_connections(server.http()).await;
    assert!(metric(server.http(), EVICTED).await >= 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_that_cancels_thousands_of_calls_among_answered_ones_stays() {
    const SPAN: u64 = 4_000;
    let server = TestServer::open();
    let mut raw = Raw::saying(server.grpc(), PREFACE).await;
    let (mut stream, mut pace, start) = (1, interval(Duration::from_millis(10)), wall());
    let (mut made, mut called, mut answered) = (0, 0, 0);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while wall() < start + SPAN {
        pace.tick().await;
        let mut bytes = Vec::new();
        for call in 0..30 {
            if call % 6 == 5 {
                put_answered_call(&mut bytes, stream);
            } else {
                put_cancelled_call(&mut bytes, stream);
            }
            stream += 2;
        }
        put(&mut bytes, WINDOW_UPDATE, 0, 0, &10_000_u32.to_be_bytes());
        (made, called) = (made + 25, called + 5);
        raw.say(&bytes).await;
        while answered < called {
            let frame = within("a frame", Frame::read(&mut raw.0)).await.expect("the connection stays");
            assert!(frame.go_away().is_none(), "{:?}", frame.go_away());
            answered += usize::from(frame.kind == HEADERS && frame.flags & END_STREAM != 0);
        }
    }
    println!(
        "{} cancelled and {} answered calls a second",
        made * 1_000 / (wall() - start),
        answered as u64 * 1_000 / (wall() - start)
    );
    assert!(metric(server.http(), EVICTED).await < 1.0);
}
