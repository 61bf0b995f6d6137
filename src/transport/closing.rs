//! Closes connections with a reason.
//!
//! A socket that is closed while its peer still sends is reset, and the peer may never see what was written last. So after the reason is written, the
//! writing side is shut down, and data from the peer is read and discarded for a moment. Permits bound the number of such sockets; without one, a
//! connection is closed at once.

use std::{io, net::SocketAddr, os::fd::AsFd as _, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};

use super::{
    ConnectionLimiter, ListenerConfig, Protocol,
    goaway::{EMPTY_SETTINGS, go_away},
};
use crate::metrics::RejectReason;

/// Time that a rejected peer has to send a request: a client that has sent none does not expect an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Delay before a gRPC client is rejected, because it may reconnect immediately.
const GRPC_DELAY: Duration = Duration::from_millis(200);
/// Maximum time for which a peer is read after the reason.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_DRAINED_BYTES: u64 = 1024 * 1024;
/// Maximum size of the request head that is read before the reason is sent, in bytes.
const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// Rejects a connection with the reason. A connection with TLS is closed without a reason, because a handshake would cost more than the
/// connection itself.
pub(super) fn reject(limiter: &ConnectionLimiter, socket: TcpStream, config: &ListenerConfig, reason: RejectReason) {
    if config.tls.is_some() {
        return;
    }
    let Some(permit) = limiter.permit_explained_close() else { return };
    let text = text(limiter, reason);
    let protocol = config.protocol;
    tokio::spawn(async move {
        if let Err(error) = send_reason(socket, protocol, reason, &text, permit).await {
            tracing::debug!(%error, "a rejected connection ended by itself");
        }
    });
}

fn text(limiter: &ConnectionLimiter, reason: RejectReason) -> String {
    let limits = limiter.limits();
    match reason {
        RejectReason::Address => format!(
            "connection limit {} reached for this address: close some connections, or raise --max-connections-per-address where the \
             registry runs",
            limits.connections_per_address.max
        ),
        RejectReason::All => format!(
            "connection limit {} of the registry reached: try again later, or raise --max-connections where it runs",
            limits.connections
        ),
        RejectReason::Descriptors => "the registry has no file descriptors left: try again later".to_owned(),
    }
}

async fn send_reason(
    mut socket: TcpStream,
    protocol: Protocol,
    reason: RejectReason,
    text: &str,
    permit: OwnedSemaphorePermit,
) -> io::Result<()> {
    timeout(REQUEST_TIMEOUT, read_request(&mut socket, protocol)).await??;
    let response = match protocol {
        Protocol::Http1 => http(reason, text).into_bytes(),
        Protocol::Http2 => {
            sleep(GRPC_DELAY).await;
            [EMPTY_SETTINGS, &go_away(0, text)].concat()
        }
    };
    // The send buffer of a new socket has space for these bytes.
    timeout(DRAIN_TIMEOUT, socket.write_all(&response)).await??;
    drain(socket, permit).await;
    Ok(())
}

/// Reads the head of a request, or the beginning of HTTP/2.
async fn read_request(socket: &mut TcpStream, protocol: Protocol) -> io::Result<()> {
    let mut read = Vec::with_capacity(1024);
    while read.len() < MAX_REQUEST_BYTES {
        if socket.read_buf(&mut read).await? == 0 {
            break;
        }
        if protocol == Protocol::Http2 || read.windows(4).any(|end| end == b"\r\n\r\n") {
            break;
        }
    }
    Ok(())
}

fn http(reason: RejectReason, text: &str) -> String {
    let status = match reason {
        RejectReason::Address => "429 Too Many Requests",
        RejectReason::All | RejectReason::Descriptors => "503 Service Unavailable",
    };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {}\r\n\
         Retry-After: 1\r\nConnection: close\r\n\r\n{text}\n",
        text.len() + 1
    )
}

/// Closes a connection whose peer was sent a reason, so that the peer can read it.
pub(super) fn close_gently(limiter: &ConnectionLimiter, peer: SocketAddr, socket: &TcpStream) {
    let Some(permit) = limiter.permit_explained_close() else { return };
    // The socket itself is being dropped.
    let copy = socket.as_fd().try_clone_to_owned().map(std::net::TcpStream::from).and_then(TcpStream::from_std);
    match (copy, tokio::runtime::Handle::try_current()) {
        (Ok(copy), Ok(runtime)) => drop(runtime.spawn(drain(copy, permit))),
        (Err(error), _) => tracing::debug!(%peer, %error, "a connection is closed at once"),
        // The runtime has ended.
        (_, Err(_)) => {}
    }
}

/// Shuts the writing side down, and discards data from the peer until the peer closes the connection.
async fn drain(mut socket: TcpStream, permit: OwnedSemaphorePermit) {
    let reading = async {
        socket.shutdown().await?;
        let mut rest = socket.take(MAX_DRAINED_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    if let Ok(Err(error)) = timeout(DRAIN_TIMEOUT, reading).await {
        tracing::debug!(%error, "the peer of a rejected connection has gone");
    }
    drop(permit);
}
