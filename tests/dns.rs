//! DNS over UDP and TCP, about instances that are registered over gRPC.

pub mod client;
mod names;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use callboard::pb::callboard::v1::{RegisterRequest, UpdateInstanceRequest};
use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{RData, RecordType},
};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::harness::{Child, ServerProcess, TestClient, address, instance, within};
use client::{DnsClient, data, query};

/// Starts a server, and returns it with a gRPC and a DNS client.
async fn start() -> (ServerProcess, TestClient, DnsClient) {
    let server = ServerProcess::start(&["--dns", "127.0.0.1:0", "--datacenter", "dc1", "--node-name", "n1"]).await;
    let client = server.client().await;
    let dns = DnsClient::new(server.dns.unwrap()).await;
    (server, client, dns)
}

async fn register(client: &TestClient, service: &str, id: &str, host: &str, tags: &[&str]) {
    let request = RegisterRequest {
        addresses: vec![address(host, 80)],
        tags: tags.iter().map(ToString::to_string).collect(),
        ..instance(service, id)
    };
    client.register(request).await.unwrap();
}

/// Asserts that a response has this code and no records but the SOA record of the zone.
fn assert_empty(response: &Message, code: ResponseCode) {
    let Message { metadata, answers, authorities, .. } = response;
    assert_eq!((metadata.response_code, answers.len(), authorities.len()), (code, 0, 1), "{response:?}");
    assert_eq!(authorities[0].record_type(), RecordType::SOA);
    assert!(metadata.authoritative);
}

#[tokio::test]
async fn routable_instances_and_nodes_are_answered() {
    let (server, client, dns) = start().await;
    register(&client, "web", "a", "10.0.0.1", &["v1"]).await;
    register(&client, "web", "b", "10.0.0.2", &["v2"]).await;
    let response = dns.ask("WEB.Service.consul.", RecordType::A).await;
    assert_eq!(data(&response), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(response.answers[0].name.to_ascii(), "WEB.Service.consul.", "in the spelling of the question");
    assert!(response.answers.iter().all(|record| record.ttl == 0) && response.metadata.authoritative);
    assert_eq!(data(&dns.ask("v1.web.service.dc1.consul.", RecordType::A).await), ["10.0.0.1"]);

    let response = dns.ask("_web._tcp.service.consul.", RecordType::SRV).await;
    let targets = ["1 1 80 0a000001.addr.dc1.consul.", "1 1 80 0a000002.addr.dc1.consul."];
    assert_eq!(data(&response), targets);
    let additionals: BTreeSet<_> =
        response.additionals.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    let addresses = ["0a000001.addr.dc1.consul. 10.0.0.1", "0a000002.addr.dc1.consul. 10.0.0.2"];
    assert_eq!(additionals, addresses.map(str::to_owned).into());

    let drain = UpdateInstanceRequest {
        service: "web".into(),
        id: "a".into(),
        draining: true,
        ..UpdateInstanceRequest::default()
    };
    client.update(&["draining"], drain).await.unwrap();
    assert_eq!(data(&dns.ask("web.service.consul.", RecordType::A).await), ["10.0.0.2"]);
    assert_empty(&dns.ask("v1.web.service.consul.", RecordType::A).await, ResponseCode::NXDomain);
    assert_empty(&dns.ask("web.service.consul.", RecordType::AAAA).await, ResponseCode::NoError);
    assert_empty(&dns.ask("none.service.consul.", RecordType::A).await, ResponseCode::NXDomain);
    assert_empty(&dns.ask("web.service.dc2.consul.", RecordType::A).await, ResponseCode::NXDomain);

    assert_eq!(data(&dns.ask("1.0.0.10.in-addr.arpa.", RecordType::PTR).await), ["web.service.dc1.consul."]);
    let unused = dns.ask("9.0.0.10.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(unused.metadata.response_code, ResponseCode::NXDomain);
    let out_of_zone = dns.ask("example.com.", RecordType::A).await;
    assert_eq!(out_of_zone.metadata.response_code, ResponseCode::Refused);
    assert_eq!(data(&dns.ask("n1.node.consul.", RecordType::A).await), ["127.0.0.1"]);
    assert_eq!(data(&dns.ask("consul.", RecordType::NS).await), ["n1.node.dc1.consul."]);
    let authority = dns.ask("consul.", RecordType::SOA).await;
    assert!(matches!(&authority.answers[0].data, RData::SOA(soa) if soa.serial > 1_700_000_000));
    assert!(server.metric("callboard_dns_queries_total").await >= 14.0);
}

#[tokio::test]
async fn answer_that_does_not_fit_is_truncated_over_udp_and_complete_over_tcp() {
    let (_serve, client, dns) = start().await;
    for n in 0..100 {
        register(&client, "web", &format!("i{n}"), &format!("10.0.0.{n}"), &[]).await;
    }
    let name = "web.service.consul.";
    let small = dns.send(&query(name, RecordType::A)).await;
    let (response, length) = small.unwrap();
    assert!(response.metadata.truncation && length <= 512 && (25..32).contains(&response.answers.len()), "{length}");
    let (response, length) = dns.send(&client::with_edns(query(name, RecordType::A), 1_232)).await.unwrap();
    assert!(response.metadata.truncation && length <= 1_232 && (70..77).contains(&response.answers.len()), "{length}");
    assert_eq!(response.edns.unwrap().max_payload(), 1_232);
    for (record_type, additionals) in [(RecordType::A, 0), (RecordType::SRV, 100)] {
        // HAProxy asks in this way, and never retries over TCP.
        let (response, length) = dns.send(&client::with_edns(query(name, record_type), 8_192)).await.unwrap();
        assert!(!response.metadata.truncation && length <= 8_192, "{length}");
        assert_eq!((response.answers.len(), response.additionals.len()), (100, additionals));
        let response = dns.ask_tcp(&query(name, record_type)).await;
        assert!(!response.metadata.truncation);
        assert_eq!((response.answers.len(), response.additionals.len()), (100, additionals));
    }
}

/// Bytes of the id at the start of a packet.
const ID_BYTES: usize = 2;

#[tokio::test]
async fn invalid_packets_do_not_disturb_other_requests() {
    let (server, client, dns) = start().await;
    register(&client, "web", "a", "10.0.0.1", &[]).await;
    let good = query("web.service.consul.", RecordType::A).to_vec().unwrap();
    for n in 0..2_000_u64 {
        let mut packet = good.clone();
        for change in 0..=n % 4 {
            let random = usize::try_from(callboard::random::u64() % 0xffff).unwrap();
            // The id stays, so that no response to an invalid packet looks like one to a valid request.
            let at = ID_BYTES + random % (packet.len() - ID_BYTES).max(1);
            if at >= packet.len() {
                break;
            }
            packet[at] ^= u8::try_from(random >> 8).unwrap();
            packet.truncate(if change == 3 { at } else { packet.len() });
        }
        dns.send_bytes(&packet).await;
        if n % 100 == 0 {
            // The response to a valid request arrives among those to the invalid packets.
            assert_eq!(data(&dns.ask("web.service.consul.", RecordType::A).await), ["10.0.0.1"]);
        }
    }
    let mut update = query("consul.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    let (response, _) = dns.send(&update).await.unwrap();
    assert_eq!(response.metadata.response_code, ResponseCode::NotImp);

    // Over TCP: a length above the limit, half of a request, and an empty one. The server closes these connections, not others.
    for bytes in [&[0xff_u8, 0xff, 0][..], &[0, 1, 7], &[0, 0]] {
        let mut stream = TcpStream::connect(server.dns.unwrap()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        assert_eq!(within("the end of the connection", stream.read(&mut [0; 16])).await.unwrap_or(0), 0);
    }
    assert_eq!(data(&dns.ask_tcp(&query("web.service.consul.", RecordType::A)).await), ["10.0.0.1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_requests_are_answered() {
    let (server, client, _) = start().await;
    register(&client, "web", "a", "10.0.0.1", &[]).await;
    let address = server.dns.unwrap();
    let mut all = JoinSet::new();
    for n in 0..200 {
        all.spawn(async move {
            let dns = DnsClient::new(address).await;
            for _ in 0..10 {
                let query = query("web.service.consul.", RecordType::A);
                let response = if n % 4 == 0 { dns.ask_tcp(&query).await } else { dns.ask_udp(&query).await };
                assert_eq!(data(&response), ["10.0.0.1"]);
            }
        });
    }
    while let Some(done) = within("all responses", all.join_next()).await {
        done.unwrap();
    }
}

/// The instances of a large service are read once after each change, not for each question.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "the test measures")]
async fn question_about_large_service_does_not_read_all_instances() {
    let (_serve, client, dns) = start().await;
    let mut registering = JoinSet::new();
    for part in 0..20 {
        let client = client.clone();
        registering.spawn(async move {
            for n in 0..500 {
                let host = format!("10.{part}.{}.{}", n / 250, n % 250);
                register(&client, "web", &format!("{part}-{n}"), &host, &["v1"]).await;
            }
        });
    }
    while let Some(done) = registering.join_next().await {
        done.unwrap();
    }
    let mut slowest = Duration::ZERO;
    let begin = Instant::now();
    for (n, record_type) in (0..200).zip([RecordType::A, RecordType::SRV].into_iter().cycle()) {
        let before = Instant::now();
        let name = if n % 3 == 0 { "v1.web.service.consul." } else { "web.service.consul." };
        let (response, _) = dns.send(&query(name, record_type)).await.unwrap();
        assert!(response.metadata.truncation);
        slowest = slowest.max(before.elapsed());
    }
    let mean = begin.elapsed() / 200;
    let before = Instant::now();
    let whole = dns.ask_tcp(&query("web.service.consul.", RecordType::SRV)).await;
    println!("slowest {slowest:?}, mean {mean:?}, TCP {:?} for {}", before.elapsed(), whole.answers.len());
    assert!(whole.metadata.truncation && whole.answers.len() > 900);
    // A bound for slow machines: an idle one takes a hundredth of it.
    assert!(mean < Duration::from_millis(50), "{mean:?}");
}

#[tokio::test]
async fn server_starts_without_dns_if_default_port_is_taken() {
    // This fails if another process has the port, which serves as well.
    let _taken = std::net::TcpListener::bind("127.0.0.1:8600");
    let mut command = Child::command(&["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "-o", "json"]);
    command.env_remove("CALLBOARD_DNS").env("CALLBOARD_LOG", "warn");
    let mut child = Child::spawn(command);
    let ready = child.line().await;
    assert!(ready["dns"].is_null() && ready["grpc"].is_string(), "{ready}");
    child.signal(Signal::TERM);
    let ended = child.ended().await;
    assert_eq!(ended.code(), Some(0));
    assert!(ended.stderr.contains("--dns off"), "{}", ended.stderr);
}

#[tokio::test]
async fn configured_port_that_is_taken_is_an_error() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _taken = std::net::UdpSocket::bind(taken).unwrap();
    let arguments = ["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--dns", &taken.to_string()];
    let ended = Child::run(&arguments).await;
    assert_ne!(ended.code(), Some(0));
    assert!(ended.stderr.contains("for DNS: the port is taken"), "{}", ended.stderr);
    assert!(ended.stderr.contains("--dns"), "{}", ended.stderr);
}

#[tokio::test]
async fn server_stops_with_open_connections() {
    let (server, client, dns) = start().await;
    register(&client, "web", "a", "10.0.0.1", &[]).await;
    let address: SocketAddr = server.dns.unwrap();
    let mut idle = TcpStream::connect(address).await.unwrap();
    assert_eq!(data(&dns.ask("web.service.consul.", RecordType::A).await), ["10.0.0.1"]);
    drop(client);
    server.child.signal(Signal::TERM);
    let ended = within("the end of the server", server.child.ended()).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert_eq!(within("the end of the connection", idle.read(&mut [0; 1])).await.unwrap_or(0), 0);
}
