//! Channels of the Rust client: real tonic servers that register themselves, and calls over the instances of a registry.

mod backend;
mod changes;
mod choice;
mod faults;
mod faulty_server;
mod instance_tls;
mod load;
mod policies;
mod weights;

use std::time::Duration;

use callboard::client::{BalancedChannel, ConnectionState, Discovery, Servers};
use tonic::{Code, Request};

use crate::harness::{ServerProcess, TestServer, free_port, within};
use backend::{Backend, BackendSettings, call, echo};

/// Time in which nothing should happen.
const SHORT: Duration = Duration::from_millis(300);

fn discovery(server: &TestServer) -> Discovery {
    Discovery::new(server.grpc().to_string().parse::<Servers>().unwrap())
}

/// Waits until this number of instances of a channel is connected.
async fn connected(channel: &BalancedChannel, instances: usize) {
    within("connections", channel.connected(instances)).await.unwrap();
}

/// Waits until the channel knows exactly this number of instances.
async fn knows(channel: &BalancedChannel, instances: usize) {
    within("instances", channel.wait_for(|channel| channel.instances().len() == instances)).await.unwrap();
}

#[tokio::test]
async fn first_call_waits_for_the_instances() {
    let server = TestServer::open();
    let backend = Backend::start(&server.grpc(), "a").await;
    let channel = discovery(&server).channel("echo");
    assert_eq!(within("a call", call(&channel)).await.unwrap(), "a");
    assert_eq!(backend.calls(), 1);
    let status = channel.status();
    assert!(status.revision.is_some() && status.registry_error.is_none(), "{status:?}");
}

#[tokio::test]
async fn call_without_instances_fails_at_once_or_waits() {
    let server = TestServer::open();
    let discovery = discovery(&server);
    let status = within("a call", call(&discovery.channel("echo"))).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "echo: no instance is registered"));
    let patient = discovery.builder("echo").wait_for_ready(true).open();
    let waiting = tokio::spawn(async move { call(&patient).await });
    let mut limited = Request::new(String::new());
    limited.set_timeout(SHORT);
    let patient = discovery.builder("echo").wait_for_ready(true).open();
    let late = within("a call", echo(&patient, limited)).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    let _backend = Backend::start(&server.grpc(), "a").await;
    assert_eq!(within("a call", waiting).await.unwrap().unwrap(), "a");
}

#[tokio::test]
async fn instance_that_is_not_ready_is_not_called_and_named_in_the_error() {
    let server = TestServer::open();
    let starting = BackendSettings { starting: true, ..BackendSettings::default() };
    let backend = Backend::start_with(&server.grpc(), "a", starting).await;
    let channel = discovery(&server).channel("echo");
    let status = within("a call", call(&channel)).await.unwrap_err();
    assert_eq!(status.message(), "echo: no instance can be called: 1 STARTING");
    backend.registration().serving();
    connected(&channel, 1).await;
    assert_eq!(within("a call", call(&channel)).await.unwrap(), "a");
}

#[tokio::test]
async fn call_fails_in_time_if_no_registry_answers() {
    let nowhere: Servers = format!("127.0.0.1:{}", free_port()).parse().unwrap();
    let channel = Discovery::new(&nowhere).builder("echo").first_snapshot_timeout(SHORT).open();
    let status = within("a call", call(&channel)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let expected = "echo: no instances from the registry within 300ms";
    assert!(status.message().starts_with(expected), "{status}");
}

#[tokio::test]
async fn watch_uses_the_next_registry_and_stays_with_it() {
    let server = TestServer::open();
    let backend = Backend::start(&server.grpc(), "a").await;
    let servers = format!("127.0.0.1:{},{}", free_port(), server.grpc());
    let channel = Discovery::new(servers.parse::<Servers>().unwrap()).channel("echo");
    assert_eq!(within("a call", call(&channel)).await.unwrap(), "a");
    assert_eq!(backend.calls(), 1);
}

#[tokio::test]
async fn registration_moves_to_the_next_registry() {
    let (mut first, mut second) = (ServerProcess::start(&[]).await, ServerProcess::start(&[]).await);
    let servers = format!("{},{}", first.grpc, second.grpc);
    let backend = Backend::start_on(&servers.parse().unwrap(), "a", BackendSettings::default()).await;
    if first.client().await.list("echo").await.is_empty() {
        std::mem::swap(&mut first, &mut second);
    }
    assert_eq!(first.client().await.list("echo").await.len(), 1);
    let channel = Discovery::new(second.address().parse::<Servers>().unwrap()).channel("echo");
    assert_eq!(within("a call", call(&channel)).await.unwrap_err().code(), Code::Unavailable);
    first.child.kill().await;
    connected(&channel, 1).await;
    assert_eq!(within("a call", call(&channel)).await.unwrap(), "a");
    drop(backend);
}

#[tokio::test]
async fn refusing_instance_is_not_called_while_there_are_others() {
    let server = TestServer::open();
    let _backend = Backend::start(&server.grpc(), "a").await;
    let client = server.client().await;
    let mut refusing = crate::harness::instance("echo", "refusing");
    refusing.addresses = vec![crate::harness::address("127.0.0.1", free_port().into())];
    client.register(refusing).await.unwrap();
    let channel = discovery(&server).channel("echo");
    for _ in 0..100 {
        assert_eq!(within("a call", call(&channel)).await.unwrap(), "a");
    }
    let fails = |channel: &BalancedChannel| {
        let instances = channel.instances();
        let refusing = instances.iter().find(|instance| instance.instance.id == "refusing");
        refusing.is_some_and(|instance| matches!(instance.connection, ConnectionState::Failing(_)))
    };
    within("a refusal", channel.wait_for(fails)).await.unwrap();
    assert_eq!(within("a call", call(&channel)).await.unwrap(), "a");
}

#[tokio::test]
async fn call_to_refusing_instances_only_names_the_cause() {
    let server = TestServer::open();
    let client = server.client().await;
    let mut refusing = crate::harness::instance("echo", "refusing");
    let port = free_port();
    refusing.addresses = vec![crate::harness::address("127.0.0.1", port.into())];
    client.register(refusing).await.unwrap();
    let status = within("a call", call(&discovery(&server).channel("echo"))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let expected = format!("echo: no connection to any of 1 instances; 127.0.0.1:{port}: connection refused");
    assert!(status.message().starts_with(&expected), "{status}");
}

#[tokio::test]
async fn timeout_of_the_builder_limits_calls_and_streams() {
    let server = TestServer::open();
    let backend = Backend::start(&server.grpc(), "a").await;
    backend.set_delay(Duration::from_mins(1));
    let channel = discovery(&server).builder("echo").timeout(SHORT).open();
    let status = within("a call", call(&channel)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    backend.set_delay(Duration::ZERO);
    let mut stream = within("a stream", backend::open(&channel)).await.unwrap();
    assert_eq!(within("a message", stream.message()).await.unwrap().unwrap(), "a");
    assert_eq!(within("the end", stream.message()).await.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn longest_durations_are_no_limits() {
    let server = TestServer::open();
    let backend = Backend::start(&server.grpc(), "a").await;
    backend.set_delay(SHORT);
    let builder = discovery(&server).builder("echo").timeout(Duration::MAX);
    let channel = builder.first_snapshot_timeout(Duration::MAX).keep_alive(Duration::MAX).open();
    assert_eq!(within("a call", call(&channel)).await.unwrap(), "a");
    assert_eq!(within("a second call on the same connection", call(&channel)).await.unwrap(), "a");
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn heartbeats_report_the_load_of_the_server() {
    let server = TestServer::open();
    let backend = Backend::start(&server.grpc(), "a").await;
    let channel = discovery(&server).channel("echo");
    for _ in 0..5 {
        within("a call", call(&channel)).await.unwrap();
    }
    within("a call", echo(&channel, Request::new("fail".to_owned()))).await.unwrap_err();
    let client = server.client().await;
    let reported = async {
        loop {
            let request = callboard::pb::callboard::v1::GetInstanceRequest {
                service: "echo".into(),
                id: "a".into(),
                ..Default::default()
            };
            let answer = client.discovery.clone().get_instance(request).await.unwrap().into_inner();
            match answer.load {
                Some(load) if load.requests > 0 => return load,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let load = within("a report", reported).await;
    assert_eq!((load.requests, load.errors, load.in_flight), (6, 1, 0));
    assert!(load.response_time.is_some());
    drop(backend);
}
