//! Somebody who asks.

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

pub fn query(name: &str, kind: RecordType) -> Message {
    let number = u16::try_from(callboard::random::u64() & 0xffff).unwrap();
    let mut message = Message::new(number, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// The same by somebody who takes packets of this size.
pub fn offering(mut message: Message, bytes: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(bytes);
    message.set_edns(edns);
    message
}

/// What is answered, sorted.
pub fn data(reply: &Message) -> Vec<String> {
    let mut data: Vec<_> = reply.answers.iter().map(|record| record.data.to_string()).collect();
    data.sort();
    data
}

/// A socket for packets; each question over TCP has a connection of its own.
pub struct Asker {
    socket: UdpSocket,
    door: SocketAddr,
}

impl Asker {
    pub async fn new(door: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(door).await.unwrap();
        Self { socket, door }
    }

    pub async fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.patiently(&query(name, kind)).await
    }

    /// Packets are lost sometimes: asks again, as everybody does.
    pub async fn patiently(&self, query: &Message) -> Message {
        for _ in 0..20 {
            if let Some((reply, _)) = self.send(query).await {
                return reply;
            }
        }
        panic!("no answer to {query:?}")
    }

    /// The answer and its length, if it comes.
    pub async fn send(&self, query: &Message) -> Option<(Message, usize)> {
        self.shout(&query.to_vec().unwrap()).await;
        let answer = async {
            let mut packet = vec![0; 65_535];
            loop {
                let length = self.socket.recv(&mut packet).await.unwrap();
                let reply = Message::from_vec(&packet[..length]).unwrap();
                if reply.metadata.id == query.metadata.id {
                    return (reply, length);
                }
            }
        };
        timeout(Duration::from_secs(5), answer).await.ok()
    }

    /// Sends bytes, whatever they are.
    pub async fn shout(&self, packet: &[u8]) {
        self.socket.send(packet).await.unwrap();
    }

    pub async fn ask_tcp(&self, query: &Message) -> Message {
        let asking = async {
            let mut stream = TcpStream::connect(self.door).await.unwrap();
            let bytes = query.to_vec().unwrap();
            let length = u16::try_from(bytes.len()).unwrap();
            stream.write_all(&[&length.to_be_bytes(), &*bytes].concat()).await.unwrap();
            let length = stream.read_u16().await.unwrap();
            let mut packet = vec![0; length.into()];
            stream.read_exact(&mut packet).await.unwrap();
            Message::from_vec(&packet).unwrap()
        };
        within("an answer over TCP", asking).await
    }
}
