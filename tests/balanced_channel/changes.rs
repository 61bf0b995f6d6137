//! Changes while calls run: no call fails, except those in progress on an instance that is killed.

use std::time::Duration;

use callboard::{
    client::{BalancedChannel, ConnectionState, Discovery, Registration, Servers},
    pb::callboard::v1::{RegisterRequest, WatchRequest, discovery_service_client::DiscoveryServiceClient},
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{
    SHORT,
    backend::{self, Backend, call},
    connected, discovery, knows,
    load::{Load, Outcomes},
};
use crate::harness::{ServerProcess, TestServer, address, steady_port, within};

/// Number of tasks that call.
const CALLERS: usize = 16;

fn assert_none_failed(outcomes: &Outcomes) {
    assert!(outcomes.failures.is_empty(), "{} of {} calls failed: {:?}", outcomes.failures.len(), outcomes.calls(), {
        &outcomes.failures[0]
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_replacement_fails_no_call() {
    let server = TestServer::open();
    let mut backends = Vec::new();
    for id in ["a1", "b1", "c1", "d1"] {
        backends.push(Backend::start(&server.grpc(), id).await);
    }
    let channel = discovery(&server).channel("echo");
    connected(&channel, 4).await;
    let load = Load::start(CALLERS, {
        let channel = channel.clone();
        move || {
            let channel = channel.clone();
            async move { call(&channel).await }
        }
    });
    let mut replacements = Vec::new();
    for (old, id) in backends.into_iter().zip(["a2", "b2", "c2", "d2"]) {
        load.more(500).await;
        let new = Backend::start(&server.grpc(), id).await;
        connected(&channel, 5).await;
        old.shut_down().await;
        knows(&channel, 4).await;
        replacements.push(new);
    }
    load.more(500).await;
    let outcomes = load.stop().await;
    assert_none_failed(&outcomes);
    assert_eq!(outcomes.by_instance.len(), 8, "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_of_the_registry_fails_no_call() {
    let at = format!("127.0.0.1:{}", steady_port());
    let registry = ServerProcess::start_at(&at, &["--settle", "1s"]).await;
    let (a, b) = (Backend::start(&registry.grpc, "a").await, Backend::start(&registry.grpc, "b").await);
    let channel = Discovery::new(at.parse::<Servers>().unwrap()).channel("echo");
    connected(&channel, 2).await;
    let load = Load::start(CALLERS, {
        let channel = channel.clone();
        move || {
            let channel = channel.clone();
            async move { call(&channel).await }
        }
    });
    registry.child.kill().await;
    within("a disconnection", channel.wait_for(|channel| channel.status().registry_error.is_some())).await.unwrap();
    load.more(1_000).await;
    assert_eq!(channel.instances().len(), 2, "the last set is kept");
    let registry = ServerProcess::start_at(&at, &["--settle", "1s"]).await;
    within("a reconnection", channel.wait_for(|channel| channel.status().registry_error.is_none())).await.unwrap();
    let c = Backend::start(&registry.grpc, "c").await;
    connected(&channel, 3).await;
    load.more(1_000).await;
    let outcomes = load.stop().await;
    assert_none_failed(&outcomes);
    assert!(outcomes.of("c") > 0, "{outcomes:?}");
    let connections = [&a, &b, &c].map(Backend::connections);
    assert_eq!(connections, [1; 3], "the restart of the registry costs no connection to an instance");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drained_instance_finishes_its_calls_and_gets_no_new_ones() {
    let server = TestServer::open();
    let (a, b) = (Backend::start(&server.grpc(), "a").await, Backend::start(&server.grpc(), "b").await);
    let channel = discovery(&server).channel("echo");
    connected(&channel, 2).await;
    a.set_delay(Duration::from_secs(1));
    let slow: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn({
                let channel = channel.clone();
                async move { call(&channel).await }
            })
        })
        .collect();
    within("calls to both", async {
        while a.calls() + b.calls() < 8 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let before = a.calls();
    assert!(before > 0);
    a.shut_down().await;
    for call in slow {
        within("a slow call", call).await.unwrap().unwrap();
    }
    for _ in 0..50 {
        assert_eq!(within("a call", call(&channel)).await.unwrap(), "b");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_survives_the_drain_of_its_instance() {
    let server = TestServer::open();
    let a = Backend::start(&server.grpc(), "a").await;
    let channel = discovery(&server).channel("echo");
    let mut stream = within("a stream", backend::open(&channel)).await.unwrap();
    assert_eq!(within("a message", stream.message()).await.unwrap().unwrap(), "a");
    within("the drain", a.registration().set_draining(true)).await;
    let unused = |channel: &BalancedChannel| {
        channel.instances().iter().all(|instance| instance.connection == ConnectionState::Unused)
    };
    within("the drain", channel.wait_for(unused)).await.unwrap();
    assert_eq!(within("a call", call(&channel)).await.unwrap_err().code(), Code::Unavailable);
    assert!(tokio::time::timeout(SHORT, stream.message()).await.is_err(), "the stream is still open");
}

/// Registers a registry, as a server of gRPC, as an instance of the service `target`.
fn register(registry: &TestServer, target: &ServerProcess, id: &str) -> Registration {
    let request = RegisterRequest {
        service: "target".to_owned(),
        id: id.to_owned(),
        boot_id: id.to_owned(),
        addresses: vec![address("127.0.0.1", target.grpc.port().into())],
        ..RegisterRequest::default()
    };
    Registration::start(registry.grpc().to_string().parse::<Servers>().unwrap(), request, |_| {}).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_instance_fails_only_calls_in_progress() {
    let registry = TestServer::open();
    let mut targets = Vec::new();
    for id in ["a", "b", "c"] {
        let target = ServerProcess::start(&[]).await;
        let registration = register(&registry, &target, id);
        targets.push((target, registration));
    }
    let channel = discovery(&registry).channel("target");
    connected(&channel, 3).await;
    // Six streams, two on each instance, in turn.
    let mut streams = Vec::new();
    for _ in 0..6 {
        let request = WatchRequest { services: vec!["web".to_owned()], ..WatchRequest::default() };
        let mut client = DiscoveryServiceClient::new(channel.clone());
        let mut stream = within("a stream", client.watch(request)).await.unwrap().into_inner();
        within("a message", stream.message()).await.unwrap().unwrap();
        streams.push(stream);
    }
    let load = Load::start(CALLERS, {
        let channel = channel.clone();
        move || {
            let mut client = HealthClient::new(channel.clone());
            async move { client.check(HealthCheckRequest::default()).await.map(|_| String::new()) }
        }
    });
    load.more(300).await;
    let (killed, _registration) = targets.remove(0);
    killed.child.kill().await;
    load.more(1_000).await;
    let outcomes = load.stop().await;
    let failures = &outcomes.failures;
    assert!(failures.len() <= CALLERS, "{} calls failed: {}", failures.len(), failures[0]);
    assert!(failures.iter().all(|status| status.code() == Code::Unavailable), "{failures:?}");
    let mut broken = 0;
    for mut stream in streams {
        match tokio::time::timeout(SHORT, async {
            while stream.message().await?.is_some() {}
            Ok::<_, tonic::Status>(())
        })
        .await
        {
            Ok(Err(status)) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                broken += 1;
            }
            Ok(Ok(())) => panic!("the stream ended without a status"),
            Err(_still_open) => {}
        }
    }
    assert_eq!(broken, 2, "the streams of the other instances stay open");
}
