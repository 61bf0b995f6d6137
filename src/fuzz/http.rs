//! Bytes on connections over pipes in memory. Every connection must end after its peer has closed it.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, split},
    task::yield_now,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    input_cursor::InputCursor,
    server::{FuzzServer, runtime},
};
use crate::transport::{ListenerConfig, serve};

/// Capacity of a pipe in bytes. A peer that does not read soon blocks the writer.
const PIPE_BYTES: usize = 64 * 1024;
/// Maximum time from the end of the peer to the end of the connection, by a clock that advances when all tasks wait.
const MAX_CLOSE_TIME: Duration = Duration::from_mins(10);
/// Maximum number of frames of an input.
const MAX_FRAMES: usize = 200;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Writes any bytes, or plausible frames, on a gRPC connection.
pub(super) fn two(input: &[u8]) {
    let mut input = InputCursor::new(input);
    let chunks = if input.flag() { vec![input.rest().to_vec()] } else { frames(input) };
    FuzzServer::with(|server| drop(converse(server, &server.grpc, chunks)));
}

/// Writes any bytes on an HTTP connection.
pub(super) fn one(input: &[u8]) {
    FuzzServer::with(|server| {
        let answer = converse(server, &server.http, vec![input.to_vec()]);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{:?}", String::from_utf8_lossy(&answer));
        assert!(!answer.starts_with(b"HTTP/1.1 5"), "{:?}", String::from_utf8_lossy(&answer));
    });
}

/// Serves one connection from start to end. Returns the bytes that the peer received.
fn converse(server: &FuzzServer, port: &ListenerConfig, chunks: Vec<Vec<u8>>) -> Vec<u8> {
    let runtime = runtime(); // its tasks end with it, before the state is verified
    let connection = server.connection(port);
    let worker = Arc::clone(connection.worker_state());
    let answer = runtime.block_on(async {
        let (pipe, peer) = tokio::io::duplex(PIPE_BYTES);
        let serving = serve(async { Ok(pipe) }, connection, port, CancellationToken::new());
        let ended = timeout(MAX_CLOSE_TIME, async { tokio::join!(serving, talk(peer, chunks)).1 }).await;
        ended.unwrap_or_else(|_| panic!("the connection is still open after its peer has closed it"))
    });
    drop(runtime);
    assert_eq!(worker.open_streams(), 0, "a stream is still counted");
    answer
}

/// Writes the chunks, yields to the server after each, then closes. Reads to the end meanwhile.
async fn talk(peer: DuplexStream, chunks: Vec<Vec<u8>>) -> Vec<u8> {
    let (mut from, mut to) = split(peer);
    let write = async move {
        for chunk in chunks {
            if to.write_all(&chunk).await.is_err() {
                break; // the server has closed the connection
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

/// Makes HTTP/2 frames: the preface, settings, then requests to existing methods, data and other frames.
fn frames(mut input: InputCursor<'_>) -> Vec<Vec<u8>> {
    let mut chunks = vec![[PREFACE, &frame(4, 0, 0, &[])].concat()];
    let mut stream = 1;
    for _ in 0..MAX_FRAMES {
        if input.is_empty() {
            break;
        }
        let flags = input.byte();
        let chunk = match input.below(16) {
            0..5 => {
                stream += 2;
                let path = input.one_of(PATHS);
                frame(1, 4 | flags & 1, stream, &headers(path))
            }
            5..9 => {
                let message = input.bytes();
                let length = u32::try_from(message.len()).unwrap_or_default().to_be_bytes();
                frame(0, flags & 1, stream, &[&[0], &length[..], message].concat())
            }
            9 => frame(0, flags, stream, input.bytes()),
            10 => frame(1, flags, stream + 2, input.bytes()),
            11 => frame(8, 0, if input.flag() { stream } else { 0 }, &input.number().to_be_bytes()),
            12 => frame(3, 0, u32::from(input.byte()), &input.number().to_be_bytes()),
            13 => frame(4, flags & 1, 0, input.bytes()),
            14 => frame(input.byte() % 12, flags, input.number() % 16, input.bytes()),
            _ => input.bytes().to_vec(),
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

/// Encodes the headers of a gRPC request as HPACK literals without an index.
fn headers(path: &str) -> Vec<u8> {
    let pairs = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a")];
    let pairs = pairs.into_iter().chain([("content-type", "application/grpc"), ("te", "trailers")]);
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap_or_default()], text.as_bytes()].concat();
    pairs.flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}
