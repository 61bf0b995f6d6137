//! HTTP/1.1 client with one request at a time on a persistent connection. It needs less CPU time than the server.

use std::{mem, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Bytes of one read.
const READ_BYTES: usize = 32 * 1024;

/// Persistent connection.
#[derive(Debug)]
pub struct HttpConnection {
    stream: TcpStream,
    /// Head of an answer and the bytes read with it. Not allocated before the first answer.
    buffer: Vec<u8>,
}

/// Fields of an answer that are used.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// `X-Consul-Index`, or 0.
    pub index: u64,
    /// Length of the body in bytes.
    pub length: usize,
}

impl HttpConnection {
    /// Opens a connection.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Opens this number of connections.
    pub async fn open_all(address: SocketAddr, count: usize) -> Result<Vec<Self>> {
        let mut lines = Vec::with_capacity(count);
        for _ in 0..count {
            lines.push(Self::open(address).await?);
        }
        Ok(lines)
    }

    /// Sends a request and waits for the answer.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer> {
        self.send(request).await?;
        self.answer().await
    }

    /// Sends a request.
    pub async fn send(&mut self, request: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(request).await?)
    }

    /// Waits for the answer, whose body is read and dropped.
    pub async fn answer(&mut self) -> Result<Answer> {
        let (head, answer) = self.head().await?;
        let came = self.buffer.len() - head;
        let mut left = answer.length.checked_sub(came).context("the body is longer than its Content-Length")?;
        while left > 0 {
            self.buffer.clear();
            let came = self.more().await?;
            left = left.checked_sub(came).context("the body is longer than its Content-Length")?;
        }
        Ok(answer)
    }

    /// Sends a request and returns the whole answer, byte for byte.
    pub async fn whole(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        self.send(request).await?;
        let (head, answer) = self.head().await?;
        while self.buffer.len() < head + answer.length {
            self.more().await?;
        }
        Ok(mem::take(&mut self.buffer))
    }

    /// Reads the head of the next answer and returns its length. A status other than 200 is an error, with the body read so far.
    async fn head(&mut self) -> Result<(usize, Answer)> {
        self.buffer.clear();
        loop {
            self.more().await?;
            let Some((length, head)) = head(&self.buffer)? else { continue };
            let text = || String::from_utf8_lossy(&self.buffer);
            ensure!(head.starts_with("HTTP/1.1 200 "), "the status of an answer is not 200: {}", text());
            let mut answer = Answer { index: 0, length: 0 };
            for (name, value) in fields(head) {
                if name.eq_ignore_ascii_case("content-length") {
                    answer.length = value.parse()?;
                } else if name.eq_ignore_ascii_case("x-consul-index") {
                    answer.index = value.parse()?;
                }
            }
            return Ok((length, answer));
        }
    }

    async fn more(&mut self) -> Result<usize> {
        self.buffer.reserve(READ_BYTES);
        let came = self.stream.read_buf(&mut self.buffer).await?;
        ensure!(came > 0, "the server closed a connection");
        Ok(came)
    }
}

/// Returns the head at the beginning of the bytes, and its length with the empty line behind it; `None` if it is incomplete.
pub fn head(bytes: &[u8]) -> Result<Option<(usize, &str)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    Ok(Some((end + 4, str::from_utf8(&bytes[..end])?)))
}

/// Returns the header fields of a head: names and values.
pub fn fields(head: &str) -> impl Iterator<Item = (&str, &str)> {
    head.lines().filter_map(|line| line.split_once(": "))
}

/// Returns a GET request with further header lines.
pub fn get(path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n").into_bytes()
}

/// Returns a PUT request.
pub fn put(path: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// Returns a PUT request with a JSON body.
pub fn put_json(path: &str, body: &Value) -> Vec<u8> {
    put(path, body.to_string().as_bytes())
}
