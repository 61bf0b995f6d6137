//! Bytes that are not gRPC.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::Bystander;
use crate::harness::{PREFACE, TestServer, within};

/// Sends bytes, and reads until the server closes. A reset is a way to close.
async fn send_bytes(server: &TestServer, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.grpc()).await.unwrap();
    let _closed_meanwhile = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _reset = within("the server closes", stream.read_to_end(&mut answer)).await;
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_not_grpc_end_only_their_connection() {
    let server = TestServer::open();
    let mut bystander = Bystander::connect(&server).await;
    let noise: Vec<u8> = (0..20_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    send_bytes(&server, b"GET / HTTP/1.1\r\nHost: callboard\r\n\r\n").await;
    bystander.assert_unaffected().await;
    send_bytes(&server, &noise).await;
    send_bytes(&server, &[PREFACE, &noise].concat()).await;
    bystander.assert_unaffected().await;
    // A frame longer than the server's limit.
    send_bytes(&server, &[PREFACE, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat()).await;
    // Headers that cannot be decoded.
    send_bytes(&server, &[PREFACE, &[0, 0, 4, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]].concat()).await;
    bystander.assert_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_or_incomplete_connections_do_not_affect_other_clients() {
    let server = TestServer::open();
    let mut bystander = Bystander::connect(&server).await;
    let mut open = Vec::new();
    for length in [0, 10, PREFACE.len() - 1, PREFACE.len()] {
        let mut stream = TcpStream::connect(server.grpc()).await.unwrap();
        stream.write_all(&PREFACE[..length]).await.unwrap();
        open.push(stream);
    }
    bystander.assert_unaffected().await;
    drop(open);
    bystander.assert_unaffected().await;
}
