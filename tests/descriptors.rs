//! A server without file descriptors: it continues with those that it has, rejects new connections at once, does not spin, and recovers.

use std::{fs, net::SocketAddr, time::Duration};

use rustix::process::{Resource, Rlimit, prlimit};
use tokio::time::sleep;

use crate::harness::{HeartbeatStream, PREFACE, Raw, ServerProcess, instance, metric, metric_becomes, wall, within};

/// Processor time that a process has used, in clock ticks of 10 ms.
fn ticks(serve: &ServerProcess) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", serve.child.pid().as_raw_nonzero())).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn open_descriptors(serve: &ServerProcess) -> u64 {
    fs::read_dir(format!("/proc/{}/fd", serve.child.pid().as_raw_nonzero())).unwrap().count() as u64
}

/// Leaves a running server so many descriptors. Its limits on connections stay those of the descriptors that it started with. Returns the limit before.
fn leave_descriptors(serve: &ServerProcess, spare: u64) -> Rlimit {
    let few = Rlimit { current: Some(open_descriptors(serve) + spare), maximum: Some(20_000) };
    prlimit(Some(serve.child.pid()), Resource::Nofile, few).unwrap()
}

/// Opens this many connections to an address with these first bytes. Returns those that are answered, and the number of those that are closed.
async fn open_connections(address: SocketAddr, number: usize, first: &[u8]) -> (Vec<Raw>, usize) {
    let (mut open, mut rejected) = (Vec::new(), 0);
    for _ in 0..number {
        let mut raw = Raw::saying(address, first).await;
        if raw.hears_something().await {
            open.push(raw);
        } else {
            rejected += 1;
        }
    }
    (open, rejected)
}

/// A question for `a.service.consul`, of type A, as it is sent over TCP.
const QUESTION: &[u8] =
    b"\x00\x22\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07service\x06consul\x00\x00\x01\x00\x01";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_connection_without_descriptors_is_closed_at_once() {
    let serve = ServerProcess::start(&["--dns", "127.0.0.1:0"]).await;
    let dns = serve.dns.unwrap();
    let client = serve.client().await;
    let lease = client.register(instance("web", "a")).await.unwrap().lease_id;
    let mut heartbeats = HeartbeatStream::open(&client).await;
    metric(serve.http, "callboard_instances").await;
    let before = leave_descriptors(&serve, 5);
    let start = wall();
    let (open, rejected) = open_connections(dns, 50, QUESTION).await;
    assert!(open.len() <= 10 && rejected >= 40, "{} open, {rejected} rejected", open.len());
    assert!(wall() - start < 5_000, "rejected after {} ms: each at once, not after a pause", wall() - start);
    heartbeats.beat(&[&lease]).await.unwrap();
    prlimit(Some(serve.child.pid()), Resource::Nofile, before).unwrap();
    let (answered, _) = open_connections(dns, 1, QUESTION).await;
    assert_eq!(answered.len(), 1);
    metric_becomes(serve.http, "callboard_rejected_connections_total{reason=\"descriptors\"}", |n| n >= 40.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_without_descriptors_continues_and_recovers() {
    let serve = ServerProcess::start(&[]).await;
    let client = serve.client().await;
    let lease = client.register(instance("web", "a")).await.unwrap().lease_id;
    let mut heartbeats = HeartbeatStream::open(&client).await;
    metric(serve.http, "callboard_instances").await;

    let before = leave_descriptors(&serve, 20);
    let (open, rejected) = open_connections(serve.grpc, 100, PREFACE).await;
    assert!(open.len() <= 25 && rejected >= 75, "{} open, {rejected} rejected", open.len());

    // Some wait all the time, while an instance sends heartbeats.
    let mut waiting = Vec::new();
    let (from, start) = (ticks(&serve), wall());
    while wall() < start + 1_000 {
        waiting.push(Raw::connect(serve.grpc).await);
        heartbeats.beat(&[&lease]).await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    let (used, took) = (ticks(&serve) - from, (wall() - start) / 10);
    assert!(used < took / 2, "{used} of {took} ticks: it spins");

    let start = wall();
    prlimit(Some(serve.child.pid()), Resource::Nofile, before).unwrap();
    let client = within("a connection", serve.client()).await;
    client.register(instance("web", "b")).await.unwrap();
    assert!(wall() - start < 5_000);
    println!("{rejected} rejected, {used} of {took} ticks used, back after {} ms", wall() - start);
    metric_becomes(serve.http, "callboard_rejected_connections_total{reason=\"descriptors\"}", |n| n >= 75.0).await;
    // One line every ten seconds, not one for each.
    serve.child.signal(rustix::process::Signal::TERM);
    let logged = serve.child.ended().await.stderr;
    let lines = logged.lines().filter(|line| line.contains("descriptors")).count();
    assert!((0..=3).contains(&lines), "{logged}");
}
