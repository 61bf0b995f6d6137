//! Bytes that are not gRPC.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::Bystander;
use crate::harness::{PREFACE, TestServer, within};

/// Sends bytes, and reads until the server closes. A reset is a way to close.
async fn say(house: &TestServer, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(house.grpc()).await.unwrap();
    let _closed_meanwhile = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _reset = within("the server closes", stream.read_to_end(&mut answer)).await;
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_grpc_end_their_connection_and_nothing_else() {
    let house = TestServer::open();
    let mut bystander = Bystander::arrive(&house).await;
    let noise: Vec<u8> = (0..20_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    say(&house, b"GET / HTTP/1.1\r\nHost: callboard\r\n\r\n").await;
    bystander.is_well().await;
    say(&house, &noise).await;
    say(&house, &[PREFACE, &noise].concat()).await;
    bystander.is_well().await;
    // A frame longer than the server has said that it takes.
    say(&house, &[PREFACE, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat()).await;
    // Headers that cannot be decoded.
    say(&house, &[PREFACE, &[0, 0, 4, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]].concat()).await;
    bystander.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_or_stop_half_way_harm_nobody() {
    let house = TestServer::open();
    let mut bystander = Bystander::arrive(&house).await;
    let mut open = Vec::new();
    for length in [0, 10, PREFACE.len() - 1, PREFACE.len()] {
        let mut stream = TcpStream::connect(house.grpc()).await.unwrap();
        stream.write_all(&PREFACE[..length]).await.unwrap();
        open.push(stream);
    }
    bystander.is_well().await;
    drop(open);
    bystander.is_well().await;
}
