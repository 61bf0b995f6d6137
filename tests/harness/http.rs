//! A page over plain HTTP/1.1.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::within;

/// Status and body.
pub async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    try_get(address, path).await.unwrap()
}

/// Status and body, if the server lets this connection in.
pub async fn try_get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    within(path, stream.read_to_string(&mut answer)).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).unwrap();
    Ok((status.parse().unwrap(), body.to_owned()))
}
