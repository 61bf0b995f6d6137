//! DNS client.

use std::{net::SocketAddr, time::Duration};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::harness::within;

/// Returns a request without EDNS, with a random id.
pub fn query(name: &str, record_type: RecordType) -> Message {
    let id = u16::try_from(callboard::random::u64() & 0xffff).unwrap();
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message
}

/// Adds EDNS to a request, which offers to take responses of this size.
pub fn with_edns(mut message: Message, max_bytes: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(max_bytes);
    message.set_edns(edns);
    message
}

/// Returns the data of the answers, sorted.
pub fn data(response: &Message) -> Vec<String> {
    let mut data: Vec<_> = response.answers.iter().map(|record| record.data.to_string()).collect();
    data.sort();
    data
}

/// Client with a UDP socket. Each request over TCP gets a connection of its own.
pub struct DnsClient {
    socket: UdpSocket,
    server: SocketAddr,
}

impl DnsClient {
    pub async fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(server).await.unwrap();
        Self { socket, server }
    }

    pub async fn ask(&self, name: &str, record_type: RecordType) -> Message {
        self.ask_udp(&query(name, record_type)).await
    }

    /// Sends a request until there is a response, since packets may be lost.
    pub async fn ask_udp(&self, query: &Message) -> Message {
        for _ in 0..20 {
            if let Some((response, _)) = self.send(query).await {
                return response;
            }
        }
        panic!("no response to {query:?}")
    }

    /// Sends a request once. Returns the response and its bytes, unless a packet was lost.
    pub async fn send(&self, query: &Message) -> Option<(Message, usize)> {
        self.send_bytes(&query.to_vec().unwrap()).await;
        let response = async {
            let mut packet = vec![0; 65_535];
            loop {
                let length = self.socket.recv(&mut packet).await.unwrap();
                let response = Message::from_vec(&packet[..length]).unwrap();
                if response.metadata.id == query.metadata.id {
                    return (response, length);
                }
            }
        };
        timeout(Duration::from_secs(5), response).await.ok()
    }

    pub async fn send_bytes(&self, packet: &[u8]) {
        self.socket.send(packet).await.unwrap();
    }

    pub async fn ask_tcp(&self, query: &Message) -> Message {
        let response = async {
            let mut stream = TcpStream::connect(self.server).await.unwrap();
            let bytes = query.to_vec().unwrap();
            let length = u16::try_from(bytes.len()).unwrap();
            stream.write_all(&[&length.to_be_bytes(), &*bytes].concat()).await.unwrap();
            let length = stream.read_u16().await.unwrap();
            let mut packet = vec![0; length.into()];
            stream.read_exact(&mut packet).await.unwrap();
            Message::from_vec(&packet).unwrap()
        };
        within("a response over TCP", response).await
    }
}
