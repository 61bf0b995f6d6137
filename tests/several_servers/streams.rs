//! Streams that go on at another server.

use std::collections::BTreeMap;

use callboard::{
    client::{Registration, Servers},
    pb::callboard::v1::{ListWatchersRequest, UpdateInstanceRequest, WatchProtocol},
};
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Child, ServerProcess, instance, refusing, registry, seconds, wall};
use crate::harness::{Stalls, TestClient, steady_port, within};

/// Starts two registries, and returns them with the list of their addresses.
async fn two() -> (BTreeMap<String, ServerProcess>, String) {
    let (one, other) = (registry("a").await, registry("b").await);
    let servers = format!("{},{}", one.address(), other.address());
    ([one, other].map(|serve| (serve.address(), serve)).into(), servers)
}

fn server(line: &Value) -> String {
    line["server"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_resumes_at_a_server_with_the_same_data() {
    let data = tempfile::tempdir().unwrap();
    let data_dir = ["--data-dir", data.path().to_str().unwrap()];
    let one = ServerProcess::start(&data_dir).await;
    let mut request = instance("web", "a");
    request.ttl = seconds(600.0);
    one.client().await.register(request.clone()).await.unwrap();
    let second = format!("127.0.0.1:{}", steady_port());
    let servers = format!("{second},{}", one.address());
    let mut watch = Child::start(&["watch", "web", "-o", "json", "--server", &servers]);
    watch.of_type("synced").await;
    one.child.kill().await;
    let other = ServerProcess::start_at(&second, &data_dir).await;
    // No reset and no removal: the token is valid at the other server.
    assert_eq!(watch.line_where("the next line", |line| line["type"] != "bookmark").await["type"], "synced");
    "b".clone_into(&mut request.id);
    other.client().await.register(request).await.unwrap();
    let changed = watch.line_where("the change", |line| line["type"] != "bookmark").await;
    assert_eq!((&changed["type"], &changed["instance"]["id"]), (&"changed".into(), &"b".into()), "{changed}");
}

/// Returns the id of the first instance of a snapshot, and reads up to its end. A removal must not occur.
async fn snapshot(watch: &mut Child) -> String {
    let mut first = None;
    loop {
        let line = watch.line().await;
        match line["type"].as_str().unwrap() {
            "snapshot" => first = first.or(line["instance"]["id"].as_str().map(str::to_owned)),
            "synced" if first.is_some() => return first.unwrap(),
            kind => assert!(["reset", "bookmark"].contains(&kind), "{line}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_leaves_servers_that_are_killed_or_hang_without_a_removal() {
    for signal in [Signal::KILL, Signal::STOP] {
        let (one, other) = (registry("a").await, registry("b").await);
        let servers = format!("{},{}", one.address(), other.address());
        let mut watch = Child::start(&["watch", "web", "-o", "json", "--server", &servers]);
        let before = snapshot(&mut watch).await;
        let (lost, start) = (if before == "a" { &one } else { &other }, wall());
        lost.child.signal(signal);
        // Pings find a server that hangs within 30 s.
        assert_ne!(snapshot(&mut watch).await, before);
        let (took, excused) = (wall() - start, Stalls::of_this_machine().since(start));
        let limit = if signal == Signal::KILL { 3_000 } else { 34_000 };
        assert!(took <= limit + excused, "{signal:?}: {took} ms, {excused} of which were this machine's");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_leaves_servers_that_are_killed_or_hang_within_its_ttl() {
    for signal in [Signal::KILL, Signal::STOP] {
        let (registries, servers) = two().await;
        let servers = format!("{},{servers}", refusing());
        let register = ["register", "api", "127.0.0.1:9001", "--ttl", "12s", "-o", "json", "--server", &servers];
        let mut registering = Child::start(&register);
        let first = server(&registering.of_type("registered").await);
        let start = wall();
        registries[&first].child.signal(signal);
        let interrupted = registering.of_type("interrupted").await;
        assert_eq!(server(&interrupted), first);
        let second = server(&registering.of_type("registered").await);
        let (took, excused) = (wall() - start, Stalls::of_this_machine().since(start));
        assert_ne!(first, second);
        assert!(took <= 12_000 + excused, "{signal:?}: {took} ms, {excused} of which were this machine's");
        let listed = registries[&second].client().await.list("api").await;
        assert_eq!(listed.len(), 1);
        registering.signal(Signal::INT);
        let ended = registering.ended().await;
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        assert!(ended.stderr.contains(&first), "{}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_deregisters_at_another_server_after_its_own_was_killed() {
    let (mut registries, servers) = two().await;
    let port = super::free_port().to_string();
    let running =
        Child::start(&["run", "--service", "api", "--port", &port, "--server", &servers, "--", "sleep", "60"]);
    let first = within("a registration", async {
        loop {
            for (address, serve) in &registries {
                if !serve.client().await.list("api").await.is_empty() {
                    return address.clone();
                }
            }
        }
    })
    .await;
    registries.remove(&first).unwrap().child.kill().await;
    let (second, serve) = registries.pop_first().unwrap();
    within("a registration", async { while serve.client().await.list("api").await.is_empty() {} }).await;
    running.signal(Signal::TERM);
    let ended = running.ended().await;
    assert_eq!(ended.code(), Some(143), "{}", ended.stderr);
    assert!(serve.client().await.list("api").await.is_empty(), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("server {second})")), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_spread_over_the_servers() {
    let (registries, servers) = two().await;
    let servers: Servers = servers.parse().unwrap();
    let (sender, mut events) = mpsc::unbounded_channel();
    let mut registrations = Vec::new();
    for number in 0..24 {
        let (sender, request) = (sender.clone(), instance("api", &format!("i{number}")));
        registrations.push(Registration::start(&servers, request, move |event| drop(sender.send(event))).unwrap());
    }
    for _ in 0..24 {
        within("a registration", events.recv()).await.unwrap();
    }
    for (address, serve) in &registries {
        // All at one of two has a chance of one in eight million.
        assert!(!serve.client().await.list("api").await.is_empty(), "{address} has none");
    }
}

async fn health_watches(client: &TestClient) -> usize {
    let answer = within("ListWatchers", client.admin.clone().list_watchers(ListWatchersRequest::default())).await;
    let watchers = answer.unwrap().into_inner().watchers;
    watchers.iter().filter(|watcher| watcher.protocol() == WatchProtocol::GrpcHealth).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_watch_prints_changes_only_when_it_goes_on_at_another_server() {
    let (mut registries, servers) = two().await;
    let mut watch = Child::start(&["health", "web", "--watch", "-o", "json", "--server", &servers]);
    assert_eq!(watch.line().await["status"], "SERVING");
    let mut first = None;
    for (address, serve) in &registries {
        if health_watches(&serve.client().await).await == 1 {
            first = Some(address.clone());
        }
    }
    registries.remove(&first.unwrap()).unwrap().child.kill().await;
    let (_, serve) = registries.pop_first().unwrap();
    let client = serve.client().await;
    within("the watch at the other server", async { while health_watches(&client).await == 0 {} }).await;
    let id = client.list("web").await.remove(0).id;
    let drain = UpdateInstanceRequest { service: "web".to_owned(), id, draining: true, ..Default::default() };
    client.update(&["draining"], drain).await.unwrap();
    assert_eq!(watch.line().await["status"], "NOT_SERVING", "SERVING is not printed again");
}
