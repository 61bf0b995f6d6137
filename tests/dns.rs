//! The DNS door: real packets, over UDP and TCP, about what was registered over gRPC.

pub mod asker;
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
use asker::{Asker, data, query};

/// A registry that answers DNS, who registers there, and who asks.
async fn house() -> (ServerProcess, TestClient, Asker) {
    let serve = ServerProcess::start(&["--dns", "127.0.0.1:0", "--datacenter", "dc1", "--node-name", "n1"]).await;
    let peer = serve.peer().await;
    let asker = Asker::new(serve.dns.unwrap()).await;
    (serve, peer, asker)
}

async fn register(peer: &TestClient, service: &str, id: &str, host: &str, tags: &[&str]) {
    let request = RegisterRequest {
        addresses: vec![address(host, 80)],
        tags: tags.iter().map(ToString::to_string).collect(),
        ..instance(service, id)
    };
    peer.register(request).await.unwrap();
}

/// There is no such name, or no such record: both with the zone's authority.
fn denied(reply: &Message, code: ResponseCode) {
    assert_eq!((reply.metadata.response_code, reply.answers.len(), reply.authorities.len()), (code, 0, 1), "{reply:?}");
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    assert!(reply.metadata.authoritative);
}

#[tokio::test]
async fn who_serves_is_found() {
    let (serve, peer, asker) = house().await;
    register(&peer, "web", "a", "10.0.0.1", &["v1"]).await;
    register(&peer, "web", "b", "10.0.0.2", &["v2"]).await;
    let reply = asker.ask("WEB.Service.consul.", RecordType::A).await;
    assert_eq!(data(&reply), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(reply.answers[0].name.to_ascii(), "WEB.Service.consul.", "as it was spelt");
    assert!(reply.answers.iter().all(|record| record.ttl == 0) && reply.metadata.authoritative);
    assert_eq!(data(&asker.ask("v1.web.service.dc1.consul.", RecordType::A).await), ["10.0.0.1"]);

    let reply = asker.ask("_web._tcp.service.consul.", RecordType::SRV).await;
    let targets = ["1 1 80 0a000001.addr.dc1.consul.", "1 1 80 0a000002.addr.dc1.consul."];
    assert_eq!(data(&reply), targets);
    let additionals: BTreeSet<_> =
        reply.additionals.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    let addresses = ["0a000001.addr.dc1.consul. 10.0.0.1", "0a000002.addr.dc1.consul. 10.0.0.2"];
    assert_eq!(additionals, addresses.map(str::to_owned).into());

    let drain = UpdateInstanceRequest {
        service: "web".into(),
        id: "a".into(),
        draining: true,
        ..UpdateInstanceRequest::default()
    };
    peer.update(&["draining"], drain).await.unwrap();
    assert_eq!(data(&asker.ask("web.service.consul.", RecordType::A).await), ["10.0.0.2"]);
    denied(&asker.ask("v1.web.service.consul.", RecordType::A).await, ResponseCode::NXDomain);
    denied(&asker.ask("web.service.consul.", RecordType::AAAA).await, ResponseCode::NoError);
    denied(&asker.ask("none.service.consul.", RecordType::A).await, ResponseCode::NXDomain);
    denied(&asker.ask("web.service.dc2.consul.", RecordType::A).await, ResponseCode::NXDomain);

    assert_eq!(data(&asker.ask("1.0.0.10.in-addr.arpa.", RecordType::PTR).await), ["web.service.dc1.consul."]);
    let nobody = asker.ask("9.0.0.10.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(nobody.metadata.response_code, ResponseCode::NXDomain);
    let foreign = asker.ask("example.com.", RecordType::A).await;
    assert_eq!(foreign.metadata.response_code, ResponseCode::Refused);
    assert_eq!(data(&asker.ask("n1.node.consul.", RecordType::A).await), ["127.0.0.1"]);
    assert_eq!(data(&asker.ask("consul.", RecordType::NS).await), ["n1.node.dc1.consul."]);
    let authority = asker.ask("consul.", RecordType::SOA).await;
    assert!(matches!(&authority.answers[0].data, RData::SOA(soa) if soa.serial > 1_700_000_000));
    assert!(serve.metric("callboard_dns_queries_total").await >= 14.0);
}

#[tokio::test]
async fn what_does_not_fit_comes_over_tcp() {
    let (_serve, peer, asker) = house().await;
    for n in 0..100 {
        register(&peer, "web", &format!("i{n}"), &format!("10.0.0.{n}"), &[]).await;
    }
    let name = "web.service.consul.";
    let small = asker.send(&query(name, RecordType::A)).await;
    let (reply, length) = small.unwrap();
    assert!(reply.metadata.truncation && length <= 512 && (25..32).contains(&reply.answers.len()), "{length}");
    let (reply, length) = asker.send(&asker::offering(query(name, RecordType::A), 1_232)).await.unwrap();
    assert!(reply.metadata.truncation && length <= 1_232 && (70..77).contains(&reply.answers.len()), "{length}");
    assert_eq!(reply.edns.unwrap().max_payload(), 1_232);
    for (kind, helped) in [(RecordType::A, 0), (RecordType::SRV, 100)] {
        // As HAProxy asks, which never comes over TCP.
        let (reply, length) = asker.send(&asker::offering(query(name, kind), 8_192)).await.unwrap();
        assert!(!reply.metadata.truncation && length <= 8_192, "{length}");
        assert_eq!((reply.answers.len(), reply.additionals.len()), (100, helped));
        let reply = asker.ask_tcp(&query(name, kind)).await;
        assert!(!reply.metadata.truncation);
        assert_eq!((reply.answers.len(), reply.additionals.len()), (100, helped));
    }
}

#[tokio::test]
async fn garbage_hurts_nobody() {
    let (serve, peer, asker) = house().await;
    register(&peer, "web", "a", "10.0.0.1", &[]).await;
    let good = query("web.service.consul.", RecordType::A).to_vec().unwrap();
    for n in 0..2_000_u64 {
        let mut packet = good.clone();
        for turn in 0..=n % 4 {
            let draw = usize::try_from(callboard::random::u64() % 0xffff).unwrap();
            let at = draw % packet.len();
            packet[at] ^= u8::try_from(draw >> 8).unwrap();
            packet.truncate(if turn == 3 { at } else { packet.len() });
        }
        asker.shout(&packet).await;
        if n % 100 == 0 {
            // Its own answer among those to the garbage: the door keeps up.
            assert_eq!(data(&asker.ask("web.service.consul.", RecordType::A).await), ["10.0.0.1"]);
        }
    }
    let mut update = query("consul.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    let (reply, _) = asker.send(&update).await.unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::NotImp);

    // Over TCP: too long a question, half of one, and none. The door closes, and stays open to others.
    for bytes in [&[0xff_u8, 0xff, 0][..], &[0, 1, 7], &[0, 0]] {
        let mut stream = TcpStream::connect(serve.dns.unwrap()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        assert_eq!(within("the end", stream.read(&mut [0; 16])).await.unwrap_or(0), 0);
    }
    assert_eq!(data(&asker.ask_tcp(&query("web.service.consul.", RecordType::A)).await), ["10.0.0.1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_ask_at_once() {
    let (serve, peer, _) = house().await;
    register(&peer, "web", "a", "10.0.0.1", &[]).await;
    let door = serve.dns.unwrap();
    let mut all = JoinSet::new();
    for n in 0..200 {
        all.spawn(async move {
            let asker = Asker::new(door).await;
            for _ in 0..10 {
                let query = query("web.service.consul.", RecordType::A);
                let reply = if n % 4 == 0 { asker.ask_tcp(&query).await } else { asker.patiently(&query).await };
                assert_eq!(data(&reply), ["10.0.0.1"]);
            }
        });
    }
    while let Some(done) = within("all answers", all.join_next()).await {
        done.unwrap();
    }
}

/// A service of thousands costs a walk for each change of it, not for each question.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "tests measure from outside")]
async fn a_large_service_is_answered_at_once() {
    let (_serve, peer, asker) = house().await;
    let mut registering = JoinSet::new();
    for part in 0..20 {
        let peer = peer.clone();
        registering.spawn(async move {
            for n in 0..500 {
                let host = format!("10.{part}.{}.{}", n / 250, n % 250);
                register(&peer, "web", &format!("{part}-{n}"), &host, &["v1"]).await;
            }
        });
    }
    while let Some(done) = registering.join_next().await {
        done.unwrap();
    }
    let mut slowest = Duration::ZERO;
    let begin = Instant::now();
    for (n, kind) in (0..200).zip([RecordType::A, RecordType::SRV].into_iter().cycle()) {
        let before = Instant::now();
        let name = if n % 3 == 0 { "v1.web.service.consul." } else { "web.service.consul." };
        let (reply, _) = asker.send(&query(name, kind)).await.unwrap();
        assert!(reply.metadata.truncation);
        slowest = slowest.max(before.elapsed());
    }
    let mean = begin.elapsed() / 200;
    let before = Instant::now();
    let whole = asker.ask_tcp(&query("web.service.consul.", RecordType::SRV)).await;
    println!("slowest {slowest:?}, mean {mean:?}, TCP {:?} for {}", before.elapsed(), whole.answers.len());
    assert!(whole.metadata.truncation && whole.answers.len() > 900);
    // A bound for any machine; on a quiet one it is a hundredth of it.
    assert!(mean < Duration::from_millis(50), "{mean:?}");
}

#[tokio::test]
async fn a_taken_port_that_nobody_chose_is_done_without() {
    // Whoever has it, be it another test: it is taken.
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
async fn a_taken_port_that_was_chosen_is_an_error() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _taken = std::net::UdpSocket::bind(taken).unwrap();
    let arguments = ["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--dns", &taken.to_string()];
    let ended = Child::run(&arguments).await;
    assert_ne!(ended.code(), Some(0));
    assert!(ended.stderr.contains("for DNS: the port is taken"), "{}", ended.stderr);
    assert!(ended.stderr.contains("--dns"), "{}", ended.stderr);
}

#[tokio::test]
async fn it_leaves_while_others_ask() {
    let (serve, peer, asker) = house().await;
    register(&peer, "web", "a", "10.0.0.1", &[]).await;
    let door: SocketAddr = serve.dns.unwrap();
    let mut idle = TcpStream::connect(door).await.unwrap();
    assert_eq!(data(&asker.ask("web.service.consul.", RecordType::A).await), ["10.0.0.1"]);
    drop(peer);
    serve.child.signal(Signal::TERM);
    let ended = within("its end", serve.child.ended()).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert_eq!(within("the end of the connection", idle.read(&mut [0; 1])).await.unwrap_or(0), 0);
}
