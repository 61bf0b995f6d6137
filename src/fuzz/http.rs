//! Bytes on connections, over pipes in memory: nothing panics, and every connection ends once its peer has gone.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, split},
    task::yield_now,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    draw::InputCursor,
    world::{FuzzServer, runtime},
};
use crate::transport::{ListenerConfig, serve};

/// Bytes that a pipe holds: a peer that does not read soon stops its writer.
const PIPE: usize = 64 * 1024;
/// No server should still hold a connection so long after its peer closed it. By a clock that moves on when all wait.
const PATIENCE: Duration = Duration::from_mins(10);
/// Most frames of an input.
const LONGEST: usize = 200;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a peer writes on a gRPC connection: anything, or frames that make some sense.
pub(super) fn two(input: &[u8]) {
    let mut draw = InputCursor::new(input);
    let chunks = if draw.flag() { vec![draw.rest().to_vec()] } else { frames(draw) };
    FuzzServer::visit(|world| drop(converse(world, &world.grpc, chunks)));
}

/// What a peer writes on an HTTP connection.
pub(super) fn one(input: &[u8]) {
    FuzzServer::visit(|world| {
        let answer = converse(world, &world.http, vec![input.to_vec()]);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{:?}", String::from_utf8_lossy(&answer));
        assert!(!answer.starts_with(b"HTTP/1.1 5"), "{:?}", String::from_utf8_lossy(&answer));
    });
}

/// A connection's whole life, and what the peer was sent.
fn converse(world: &FuzzServer, port: &ListenerConfig, chunks: Vec<Vec<u8>>) -> Vec<u8> {
    let runtime = runtime(); // what it spawned ends with it, before anybody looks around
    let connection = world.connection(port);
    let worker = Arc::clone(connection.worker_state());
    let answer = runtime.block_on(async {
        let (pipe, peer) = tokio::io::duplex(PIPE);
        let serving = serve(async { Ok(pipe) }, connection, port, CancellationToken::new());
        let ended = timeout(PATIENCE, async { tokio::join!(serving, talk(peer, chunks)).1 }).await;
        ended.unwrap_or_else(|_| panic!("the connection outlives its peer"))
    });
    drop(runtime);
    assert_eq!(worker.open_streams(), 0, "a stream is still counted");
    answer
}

/// Writes the chunks, with a turn for the server after each, then closes; and reads to the end.
async fn talk(peer: DuplexStream, chunks: Vec<Vec<u8>>) -> Vec<u8> {
    let (mut from, mut to) = split(peer);
    let write = async move {
        for chunk in chunks {
            if to.write_all(&chunk).await.is_err() {
                break; // it has had enough
            }
            yield_now().await;
        }
        drop(to.shutdown().await);
    };
    let mut answer = Vec::new();
    let read = from.read_to_end(&mut answer);
    let ((), _) = tokio::join!(write, read);
    answer
}

/// HTTP/2 frames: the preface, settings, then requests to methods that exist, with data and whatever else there is.
fn frames(mut draw: InputCursor<'_>) -> Vec<Vec<u8>> {
    let mut chunks = vec![[PREFACE, &frame(4, 0, 0, &[])].concat()];
    let mut stream = 1;
    for _ in 0..LONGEST {
        if draw.is_empty() {
            break;
        }
        let flags = draw.byte();
        let chunk = match draw.below(16) {
            0..5 => {
                stream += 2;
                let path = draw.one_of(PATHS);
                frame(1, 4 | flags & 1, stream, &headers(path))
            }
            5..9 => {
                let message = draw.bytes();
                let length = u32::try_from(message.len()).unwrap_or_default().to_be_bytes();
                frame(0, flags & 1, stream, &[&[0], &length[..], message].concat())
            }
            9 => frame(0, flags, stream, draw.bytes()),
            10 => frame(1, flags, stream + 2, draw.bytes()),
            11 => frame(8, 0, if draw.flag() { stream } else { 0 }, &draw.number().to_be_bytes()),
            12 => frame(3, 0, u32::from(draw.byte()), &draw.number().to_be_bytes()),
            13 => frame(4, flags & 1, 0, draw.bytes()),
            14 => frame(draw.byte() % 12, flags, draw.number() % 16, draw.bytes()),
            _ => draw.bytes().to_vec(),
        };
        chunks.push(chunk);
    }
    chunks
}

const PATHS: &[&str] = &[
    "/callboard.v1.RegistryService/Register",
    "/callboard.v1.RegistryService/KeepAlive",
    "/callboard.v1.DiscoveryService/Watch",
    "/callboard.v1.DiscoveryService/ListServices",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/nowhere",
];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A gRPC request's headers, as HPACK's literals without an index.
fn headers(path: &str) -> Vec<u8> {
    let pairs = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a")];
    let pairs = pairs.into_iter().chain([("content-type", "application/grpc"), ("te", "trailers")]);
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap_or_default()], text.as_bytes()].concat();
    pairs.flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}
