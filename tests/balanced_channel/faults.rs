//! Instances and registries that hang, come and go, or are not what they seem.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use callboard::client::{BalancedChannel, BalancingMethod, ConnectionState, Discovery, Servers};
use tonic::Code;

use super::{
    backend::{Backend, BackendSettings, call},
    connected, discovery,
    faulty_server::{Fault, FaultyServer},
    knows,
    load::Load,
};
use crate::harness::{TestServer, free_port, within};

/// Number of tasks that call.
const CALLERS: usize = 64;

fn load(channel: &BalancedChannel, callers: usize) -> Load {
    let channel = channel.clone();
    Load::start(callers, move || {
        let channel = channel.clone();
        async move { call(&channel).await }
    })
}

fn error_of(channel: &BalancedChannel, id: &str) -> Option<String> {
    let instances = channel.instances();
    let found = instances.into_iter().find(|instance| instance.instance.id == id)?;
    match found.connection {
        ConnectionState::Failing(error) => Some(error),
        ConnectionState::Unused | ConnectionState::Connecting | ConnectionState::Connected => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instance_whose_connections_come_and_go_gets_no_calls_while_there_are_others() {
    for fault in [Fault::Flapping, Fault::HalfClosing] {
        let registry = TestServer::open();
        let _backend = Backend::start(&registry.grpc(), "a").await;
        let faulty = FaultyServer::register(&registry, "faulty", fault).await;
        // Calls to an instance that fails end at once, so it always seems to have the fewest.
        let channel = discovery(&registry).builder("echo").method(BalancingMethod::LeastRequest).open();
        let failed = channel.wait_for(|channel| error_of(channel, "faulty").is_some());
        within("the end of the first connection", failed).await.unwrap();
        let error = error_of(&channel, "faulty").unwrap();
        assert!(error.starts_with("the connection ended"), "{error}");
        connected(&channel, 1).await;
        let (load, before) = (load(&channel, 16), faulty.connections());
        within("further connections", async {
            while faulty.connections() < before + 4 {
                load.more(10).await;
            }
        })
        .await;
        let outcomes = load.stop().await;
        assert_eq!(outcomes.failures.first().map(ToString::to_string), None, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_does_not_wait_for_instances_whose_connections_come_and_go() {
    let registry = TestServer::open();
    let _faulty = FaultyServer::register(&registry, "faulty", Fault::Flapping).await;
    let channel = discovery(&registry).channel("echo");
    within("a call that fails at once", async {
        loop {
            let status = call(&channel).await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            if status.message().starts_with("echo: no connection to any of 1 instances") {
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instance_that_accepts_connections_and_hangs_gets_no_calls() {
    let registry = TestServer::open();
    let _silent = FaultyServer::register(&registry, "silent", Fault::Silent).await;
    let lone = discovery(&registry).channel("echo");
    let _backend = Backend::start(&registry.grpc(), "a").await;
    let channel = discovery(&registry).channel("echo");
    connected(&channel, 1).await;
    let load = load(&channel, 16);
    within("the error", channel.wait_for(|channel| error_of(channel, "silent").is_some())).await.unwrap();
    let outcomes = load.stop().await;
    assert_eq!(outcomes.failures.first().map(ToString::to_string), None);
    assert_eq!(error_of(&channel, "silent").unwrap(), "no HTTP/2 connection within 3s");
    drop(lone);
}

#[tokio::test]
async fn goaway_is_unavailable() {
    let registry = TestServer::open();
    let _faulty = FaultyServer::register(&registry, "faulty", Fault::GoingAway).await;
    let channel = discovery(&registry).channel("echo");
    let status = within("a call", call(&channel)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

#[tokio::test]
async fn rejected_watch_goes_on_to_the_next_registry() {
    let registry = TestServer::open();
    let backend = Backend::start(&registry.grpc(), "a").await;
    // A server of another API answers UNIMPLEMENTED.
    let servers = format!("{},{}", backend.address(), registry.grpc());
    let channel = Discovery::new(servers.parse::<Servers>().unwrap()).channel("echo");
    assert_eq!(within("a call", call(&channel)).await.unwrap(), "a");
    assert_eq!(channel.status().registry_error, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registries_that_hang_or_refuse_are_passed_over() {
    let (registry, silent) = (TestServer::open(), FaultyServer::start(Fault::Silent).await);
    let servers = format!("{},127.0.0.1:{},{}", silent.address, free_port(), registry.grpc());
    let servers: Servers = servers.parse().unwrap();
    let channel = Discovery::new(&servers).builder("echo").first_snapshot_timeout(Duration::from_mins(1)).open();
    let backend = Backend::start_on(&servers, "a", BackendSettings::default()).await;
    connected(&channel, 1).await;
    assert_eq!(within("a call", call(&channel)).await.unwrap(), "a");
    drop(backend);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_dropped_calls_survive_instances_that_come_and_go() {
    let registry = TestServer::open();
    let mut backends = VecDeque::new();
    let start = async |number: u32| {
        let backend = Backend::start(&registry.grpc(), &format!("i-{number}")).await;
        backend.set_delay(Duration::from_millis(2));
        backend
    };
    for number in 0..3 {
        backends.push_back(start(number).await);
    }
    let channel = discovery(&registry).builder("echo").method(BalancingMethod::LeastRequest).open();
    connected(&channel, 3).await;
    let number = Arc::new(AtomicU64::new(0));
    let load = Load::start(CALLERS, {
        let channel = channel.clone();
        move || {
            let (channel, number) = (channel.clone(), number.fetch_add(1, Ordering::Relaxed));
            async move {
                if number.is_multiple_of(3) {
                    let patience = Duration::from_micros(number % 4_000);
                    let dropped = tokio::time::timeout(patience, call(&channel)).await;
                    return dropped.unwrap_or_else(|_| Ok("dropped".to_owned()));
                }
                call(&channel).await
            }
        }
    });
    for number in 3..9 {
        load.more(500).await;
        backends.push_back(start(number).await);
        connected(&channel, 4).await;
        backends.pop_front().unwrap().shut_down().await;
        knows(&channel, 3).await;
    }
    load.more(500).await;
    let outcomes = load.stop().await;
    assert_eq!(outcomes.failures.first().map(ToString::to_string), None, "{} calls failed", outcomes.failures.len());
    assert!(outcomes.of("dropped") > 0 && outcomes.by_instance.len() == 10, "{:?}", outcomes.by_instance);
    let counts: Vec<_> = channel.instances().iter().map(callboard::client::ChannelInstance::in_flight).collect();
    assert_eq!(counts, [0; 3], "a dropped call is no longer in progress");
}
