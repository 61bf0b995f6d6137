//! Commands that ask all servers.

use serde_json::Value;

use super::{Child, Ended, refusing, registry, run};
use crate::harness::Reader;

fn json(ended: &Ended) -> Vec<Value> {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {} {}", ended.stdout, ended.stderr))
}

fn replicas(ended: &Ended) -> Vec<String> {
    json(ended).iter().map(|item| item["replica"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_all_servers_are_listed_with_their_replica() {
    let (one, other) = (registry("a").await, registry("b").await);
    let _first = Reader::synced(&one.client().await, &["web"]).await;
    let _second = Reader::synced(&other.client().await, &["web"]).await;
    let servers = format!("{},{}", one.address(), other.address());
    let listed = run(&["clients", "-o", "json"], &servers).await;
    // Both have the name of this host, so their addresses are shown.
    assert_eq!(replicas(&listed), [one.address(), other.address()], "{}", listed.stdout);
    let table = run(&["clients"], &servers).await;
    assert!(table.stdout.starts_with("REPLICA "), "{}", table.stdout);
    let single = run(&["clients", "-o", "json"], &one.address()).await;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(replicas(&single), [host]);
    let table = run(&["clients"], &one.address()).await;
    assert!(table.stdout.starts_with("ID "), "{}", table.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_lacks_a_server_that_does_not_answer_and_says_so() {
    let (serve, down) = (registry("a").await, refusing());
    let servers = format!("{},{down}", serve.address());
    for (arguments, items) in [
        (&["events", "-o", "json"][..], 1),
        (&["clients", "-o", "json"], 0),
        (&["self-preservation", "-o", "json"], 0),
        (&["self-preservation", "events", "-o", "json"], 0),
    ] {
        let ended = run(arguments, &servers).await;
        assert_eq!(json(&ended).len(), items, "{arguments:?}: {}", ended.stdout);
        assert_eq!(ended.code(), Some(4), "{arguments:?}: {}", ended.stderr);
        let missing = format!("1 of 2 replicas did not answer: {down}: connection refused");
        assert!(ended.stderr.contains(&missing), "{arguments:?}: {}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_one_registry_are_listed_once_and_those_of_another_beside_them() {
    let (one, other) = (registry("a").await, registry("b").await);
    let port = one.grpc.port();
    // Two addresses of one server answer like two replicas of one registry.
    let servers = format!("127.0.0.1:{port},localhost:{port},{}", other.address());
    let ended = run(&["events", "-o", "json"], &servers).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let shown: Vec<_> = json(&ended)
        .iter()
        .map(|event| format!("{} {}", event["replica"].as_str().unwrap(), event["instance_id"].as_str().unwrap()))
        .collect();
    assert_eq!(shown, [format!("127.0.0.1:{port},localhost:{port} a"), format!("{} b", other.address())]);
    let newest = run(&["events", "--limit", "1", "-o", "name"], &servers).await;
    assert_eq!(newest.stdout, "web/b\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_of_self_preservation_reaches_every_server() {
    let (one, other) = (registry("a").await, registry("b").await);
    let servers = format!("{},{}", one.address(), other.address());
    let ended = Child::run(&["self-preservation", "reset", "--all", "--server", &servers]).await;
    let line = |address: String| format!("{address}: *: no instances miss heartbeats\n");
    assert_eq!(ended.stdout, line(one.address()) + &line(other.address()), "{}", ended.stderr);
}
