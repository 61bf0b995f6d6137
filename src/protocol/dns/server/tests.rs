use std::net::Ipv4Addr;

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RData, RecordType},
};

use super::*;
use crate::{
    app::Views,
    engine::Memory,
    model::{Address, Incarnation},
    protocol::dns::Zone,
    registry::{
        Command,
        test_support::{NoListener, register},
    },
    transport::ConnectionLimits,
};

const INSTANCES: u32 = 50_000;

/// Returns a server over a registry with 50,000 instances, the addresses of which start at 10.0.0.0.
fn server() -> DnsServer {
    let (clock, metrics) = (Arc::new(Clock::new(0)), Metrics::new());
    let memory = Memory::new(Incarnation(7), clock.now(), Arc::new(NoListener));
    for n in 0..INSTANCES {
        let host = Ipv4Addr::from_bits(u32::from_be_bytes([10, 0, 0, 0]) + n).to_string();
        let mut request = register("web", &format!("i{n}"), "boot", 1);
        request.description.addresses = Address::parse_all([(host.as_str(), 80, "")].into_iter()).unwrap();
        memory.submit(Command::Register(request), clock.now()).unwrap();
    }
    let zone = Zone::new("consul", "dc1", "n1", Duration::ZERO, Ipv4Addr::LOCALHOST.into());
    let engine: Arc<dyn Engine> = Arc::new(memory);
    DnsServer::new(
        &engine,
        &clock,
        &metrics,
        Default::default(),
        Authority::new(zone, &Views::new(&metrics.views), &Arc::default()),
    )
}

fn request(id: u16, name: &str, record_type: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message.to_vec().unwrap()
}

/// The requests are in the socket's buffer in this order before the server starts. If the first one held the thread until the index
/// of addresses is complete, its response would be the first one.
#[tokio::test]
async fn requests_are_answered_while_the_first_reverse_question_waits() {
    let server = Arc::new(server());
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(socket.local_addr().unwrap()).await.unwrap();
    client.send(&request(1, "1.0.0.10.in-addr.arpa.", RecordType::PTR)).await.unwrap();
    client.send(&request(2, "n1.node.consul.", RecordType::A)).await.unwrap();
    client.send(&request(3, "unknown.node.consul.", RecordType::A)).await.unwrap();
    let serving = tokio::spawn(server.serve_udp(socket));
    let mut responses = Vec::new();
    let mut packet = vec![0; MAX_REQUEST_BYTES];
    while responses.len() < 3 {
        let length = client.recv(&mut packet).await.unwrap();
        responses.push(Message::from_vec(&packet[..length]).unwrap());
    }
    let ids: Vec<u16> = responses.iter().map(|response| response.metadata.id).collect();
    assert_eq!(ids, [2, 3, 1]);
    let RData::PTR(name) = &responses[2].answers[0].data else { panic!("{responses:?}") };
    assert_eq!(name.to_string(), "web.service.dc1.consul.");
    serving.abort();
}

#[tokio::test]
async fn connections_whose_tasks_are_about_to_end_do_not_use_up_the_limit() {
    let (open_connections, peer) = (Arc::new(OpenConnections::default()), SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
    let limiter = ConnectionLimiter::new(ConnectionLimits::default(), Metrics::new());
    while let Ok(connection) = open_connections.admit(peer.ip()) {
        tokio::spawn(async move { drop(connection) });
    }
    assert!(admit(&open_connections, &limiter, peer).await.is_ok());
}

#[tokio::test]
async fn connection_beyond_the_limit_of_its_address_is_rejected() {
    let (open_connections, peer) = (Arc::new(OpenConnections::default()), SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
    let limiter = ConnectionLimiter::new(ConnectionLimits::default(), Metrics::new());
    let _open: Vec<_> = std::iter::from_fn(|| open_connections.admit(peer.ip()).ok()).collect();
    assert_eq!(admit(&open_connections, &limiter, peer).await.unwrap_err(), RejectReason::Address);
}
