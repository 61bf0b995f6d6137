//! Ends of connections that say why.
//!
//! A socket that is closed while its peer still sends is reset, and the peer may never see what was written last. So after the
//! reason the writing side is shut down, and what the peer sends is read and dropped for a moment. The number of such sockets is
//! bounded by permits; without one, a connection is closed at once.

use std::{io, os::fd::AsFd as _, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};

use super::{
    Connection, ConnectionLimiter, ListenerConfig, Protocol,
    goaway::{EMPTY_SETTINGS, go_away},
};
use crate::metrics::RejectReason;

/// Time that a refused peer has to say something: a client that has asked nothing yet does not expect an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Time before a gRPC client is refused, since it may come back at once.
const GRPC_PAUSE: Duration = Duration::from_millis(200);
/// Time and bytes for which a peer is still read.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_DRAINED_BYTES: u64 = 1024 * 1024;
/// Longest request that is read before it is refused.
const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// Tells a peer that is not let in why. Over TLS a handshake would cost more than the connection that is refused, so there the
/// connection is closed.
pub(super) fn refuse(gate: &ConnectionLimiter, socket: TcpStream, port: &ListenerConfig, why: RejectReason) {
    if port.tls.is_some() {
        return;
    }
    let Some(permit) = gate.farewell() else { return };
    let reason = reason(gate, why);
    let protocol = port.protocol;
    tokio::spawn(async move {
        if let Err(error) = tell(socket, protocol, why, &reason, permit).await {
            tracing::debug!(%error, "a refused connection ended by itself");
        }
    });
}

fn reason(gate: &ConnectionLimiter, why: RejectReason) -> String {
    let rules = gate.rules();
    match why {
        RejectReason::Address => format!(
            "this address has as many connections as it may have ({}): close some, or raise --max-connections-per-address where the \
             registry runs",
            rules.connections_per_address.most
        ),
        RejectReason::All => format!(
            "the registry has as many connections as it may have ({}): try again later, or raise --max-connections where it runs",
            rules.connections
        ),
        RejectReason::Descriptors => "the registry has no descriptors left: try again later".to_owned(),
    }
}

async fn tell(
    mut socket: TcpStream,
    protocol: Protocol,
    why: RejectReason,
    reason: &str,
    permit: OwnedSemaphorePermit,
) -> io::Result<()> {
    timeout(REQUEST_TIMEOUT, read_request(&mut socket, protocol)).await??;
    let words = match protocol {
        Protocol::Http1 => http(why, reason).into_bytes(),
        Protocol::Http2 => {
            sleep(GRPC_PAUSE).await;
            [EMPTY_SETTINGS, &go_away(0, reason)].concat()
        }
    };
    // So few bytes fit the buffer of a new socket.
    timeout(DRAIN_TIMEOUT, socket.write_all(&words)).await??;
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

fn http(why: RejectReason, reason: &str) -> String {
    let status = match why {
        RejectReason::Address => "429 Too Many Requests",
        RejectReason::All | RejectReason::Descriptors => "503 Service Unavailable",
    };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {}\r\n\
         Retry-After: 1\r\nConnection: close\r\n\r\n{reason}\n",
        reason.len() + 1
    )
}

/// Closes a connection whose peer has been told why, so that the peer can read it.
pub(super) fn close_gently(connection: &Arc<Connection>, socket: &TcpStream) {
    let Some(permit) = connection.ticket().gate().farewell() else { return };
    // The socket itself is being dropped.
    let copy = socket.as_fd().try_clone_to_owned().map(std::net::TcpStream::from).and_then(TcpStream::from_std);
    match (copy, tokio::runtime::Handle::try_current()) {
        (Ok(copy), Ok(runtime)) => drop(runtime.spawn(drain(copy, permit))),
        (Err(error), _) => tracing::debug!(peer = %connection.peer(), %error, "a connection is closed at once"),
        // Nothing runs any more.
        (_, Err(_)) => {}
    }
}

/// Says that nothing more comes, and reads what the peer sends until it has seen that.
async fn drain(mut socket: TcpStream, permit: OwnedSemaphorePermit) {
    let reading = async {
        socket.shutdown().await?;
        let mut rest = socket.take(MAX_DRAINED_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    if let Ok(Err(error)) = timeout(DRAIN_TIMEOUT, reading).await {
        tracing::debug!(%error, "a peer that was told why has gone");
    }
    drop(permit);
}
