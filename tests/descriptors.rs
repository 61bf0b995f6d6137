//! A server that runs out of file descriptors: it goes on with what it has, does not spin, and recovers.

use std::{fs, time::Duration};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_on_without_descriptors_and_recovers() {
    let serve = ServerProcess::start(&[]).await;
    let peer = serve.peer().await;
    let lease = peer.register(instance("web", "a")).await.unwrap().lease_id;
    let mut beats = HeartbeatStream::open(&peer).await;
    metric(serve.http, "callboard_instances").await;

    // Behind its back: it has made its limits of what it was given at first.
    let few = Rlimit { current: Some(open_descriptors(&serve) + 20), maximum: Some(20_000) };
    let before = prlimit(Some(serve.child.pid()), Resource::Nofile, few).unwrap();
    let (mut open, mut turned_away) = (Vec::new(), 0);
    for _ in 0..100 {
        let mut raw = Raw::saying(serve.grpc, PREFACE).await;
        if raw.hears_something().await {
            open.push(raw);
        } else {
            turned_away += 1;
        }
    }
    assert!(open.len() <= 25 && turned_away >= 75, "{} open, {turned_away} turned away", open.len());

    // Some wait all the time, while it has something better to do.
    let mut waiting = Vec::new();
    let (from, start) = (ticks(&serve), wall());
    while wall() < start + 1_000 {
        waiting.push(Raw::connect(serve.grpc).await);
        beats.beat(&[&lease]).await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    let (used, took) = (ticks(&serve) - from, (wall() - start) / 10);
    assert!(used < took / 2, "{used} of {took} ticks: it spins");

    let start = wall();
    prlimit(Some(serve.child.pid()), Resource::Nofile, before).unwrap();
    let peer = within("a connection", serve.peer()).await;
    peer.register(instance("web", "b")).await.unwrap();
    assert!(wall() - start < 5_000);
    println!("{turned_away} turned away, {used} of {took} ticks used, back after {} ms", wall() - start);
    metric_becomes(serve.http, "callboard_rejected_connections_total{reason=\"descriptors\"}", |n| n >= 75.0).await;
    // It is told once now and then, not for each.
    serve.child.signal(rustix::process::Signal::TERM);
    let complaints = serve.child.ended().await.stderr;
    let told = complaints.lines().filter(|line| line.contains("descriptors")).count();
    assert!((0..=3).contains(&told), "{complaints}");
}
