//! Connections on which a test says, byte by byte, what it wants.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::within;

/// The start of an HTTP/2 connection, and the empty SETTINGS that follow it.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A socket.
#[derive(Debug)]
pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        Self(within("a connection", TcpStream::connect(address)).await.unwrap())
    }

    pub async fn saying(address: SocketAddr, bytes: &[u8]) -> Self {
        let mut raw = Self::connect(address).await;
        raw.say(bytes).await;
        raw
    }

    pub async fn say(&mut self, bytes: &[u8]) {
        Self::say_on(&mut self.0, bytes).await;
    }

    /// Writes to a socket.
    pub async fn say_on(socket: &mut TcpStream, bytes: &[u8]) {
        // A connection that was closed in the meantime is noticed when it is read.
        let _closed = socket.write_all(bytes).await;
    }

    /// Reads until the server closes; a reset is a way to close.
    pub async fn hear_the_end(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        let _reset = within("the server closes", self.0.read_to_end(&mut said)).await;
        said
    }

    /// Returns whether it stays open for this time.
    pub async fn stays_open(&mut self, span: Duration) -> bool {
        timeout(span, async { while self.0.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {} }).await.is_err()
    }

    /// Returns whether the server sends bytes instead of closing.
    pub async fn hears_something(&mut self) -> bool {
        within("an answer", self.0.read(&mut [0; 1024])).await.is_ok_and(|read| read > 0)
    }
}
