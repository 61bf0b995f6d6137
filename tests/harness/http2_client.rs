//! HTTP/2 by hand, for peers that no client library would be.

use std::{net::SocketAddr, sync::Arc};

use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Mutex,
    task::JoinSet,
};

use super::{
    Wall, wall,
    wire::{ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PING, SETTINGS, WINDOW_UPDATE, call_headers, put},
    within,
};

const INITIAL_WINDOW: u16 = 4;

/// Reading behaviour of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// The client never reads its socket.
    Nothing,
    /// The client reads frames and answers pings, and never increases its window.
    Frames,
}

/// A connection.
#[derive(Debug)]
pub struct Http2Client {
    writer: Arc<Mutex<OwnedWriteHalf>>,
    /// Socket of a client that reads nothing.
    unread: Option<OwnedReadHalf>,
    /// Time at which the server ended the connection.
    ended: JoinSet<Wall>,
    next: u32,
}

impl Http2Client {
    /// Each stream may be sent `window` bytes.
    pub async fn connect(address: SocketAddr, window: u32, reads: Reads) -> Self {
        let socket = within("a connection", TcpStream::connect(address)).await.unwrap();
        let (reader, mut writer) = socket.into_split();
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let setting = [&INITIAL_WINDOW.to_be_bytes()[..], &window.to_be_bytes()].concat();
        put(&mut hello, SETTINGS, 0, 0, &setting);
        put(&mut hello, WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes());
        writer.write_all(&hello).await.unwrap();
        let writer = Arc::new(Mutex::new(writer));
        let mut ended = JoinSet::new();
        let unread = match reads {
            Reads::Nothing => Some(reader),
            Reads::Frames => {
                ended.spawn(read(reader, Arc::clone(&writer)));
                None
            }
        };
        Self { writer, unread, ended, next: 1 }
    }

    /// Calls a method with one message. `whole`: there are no more.
    pub async fn call(&mut self, path: &str, message: &impl Message, whole: bool) {
        let headers = call_headers(path);
        let message = message.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let mut frames = Vec::new();
        put(&mut frames, HEADERS, END_HEADERS, self.next, &headers);
        put(&mut frames, DATA, if whole { END_STREAM } else { 0 }, self.next, &[&[0], &length[..], &message].concat());
        self.next += 2;
        within("a request", self.writer.lock().await.write_all(&frames)).await.unwrap();
    }

    /// Shuts down its sending side.
    pub async fn half_close(&mut self) {
        self.writer.lock().await.shutdown().await.unwrap();
    }

    /// Returns the time at which the server ended the connection. A client that reads nothing reads from now on, to notice it.
    pub async fn ended(mut self) -> Wall {
        if let Some(reader) = self.unread.take() {
            self.ended.spawn(read(reader, self.writer));
        }
        within("the end", self.ended.join_next()).await.unwrap().unwrap()
    }
}

/// Reads frames and answers pings, until the end.
async fn read(mut reader: OwnedReadHalf, writer: Arc<Mutex<OwnedWriteHalf>>) -> Wall {
    let mut head = [0; 9];
    while reader.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if reader.read_exact(&mut payload).await.is_err() {
            break;
        }
        let mut answer = Vec::new();
        if head[3] == PING && head[4] & ACK == 0 {
            put(&mut answer, PING, ACK, 0, &payload);
        } else if head[3] == SETTINGS && head[4] & ACK == 0 {
            put(&mut answer, SETTINGS, ACK, 0, &[]);
        }
        if writer.lock().await.write_all(&answer).await.is_err() {
            break;
        }
    }
    wall()
}
