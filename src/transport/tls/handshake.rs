//! Handshakes, and the answer to a peer that does not speak TLS.

use std::{io, sync::Arc, time::Duration};

use rustls::Error as RustlsError;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    super::Protocol,
    TlsState,
    identity::{IdentityError, identity},
};

/// First byte of a TLS handshake.
const HANDSHAKE_BYTE: u8 = 0x16;
/// First bytes of HTTP/2 without TLS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// Bytes that are read from a peer without TLS before it is answered.
const MAX_REQUEST_BYTES: usize = 4 * 1024;
/// Maximum time for which a rejected peer is still read.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_DRAINED_BYTES: u64 = 64 * 1024;
const PLAINTEXT_REASON: &str = "this port speaks TLS only: connect with TLS, or to the port without it";
/// Error code of HTTP/2.
const INADEQUATE_SECURITY: u8 = 0xc;

/// Error of a handshake, always caused by the peer.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer does not speak TLS.
    #[error("the peer does not speak TLS")]
    Plaintext,
    /// The peer's certificate is missing, or invalid.
    #[error("the client's certificate is not accepted: {0}")]
    Certificate(RustlsError),
    /// The peer's certificate is valid, but has no usable name.
    #[error(transparent)]
    Unnamed(#[from] IdentityError),
    /// Any other error.
    #[error("{0}")]
    Failed(io::Error),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<RustlsError>());
        match cause {
            Some(cause @ (RustlsError::NoCertificatesPresented | RustlsError::InvalidCertificate(_))) => {
                Self::Certificate(cause.clone())
            }
            _ => Self::Failed(error),
        }
    }
}

/// Performs the handshake with a peer whose first byte is known but not read yet. Returns the name that the peer's certificate proves; `None` if no
/// certificate is requested. The caller sets the deadline.
///
/// # Errors
///
/// When the handshake fails. It is counted, and the peer was sent the reason where its protocol permits.
pub(in crate::transport) async fn perform_handshake<S: AsyncRead + AsyncWrite + Unpin>(
    first: u8,
    stream: S,
    tls: &TlsState,
    protocol: Protocol,
) -> Result<(TlsStream<S>, Option<Arc<str>>), HandshakeError> {
    let result = attempt(first, stream, tls, protocol).await;
    let counted = &tls.metrics.tls;
    match &result {
        Ok(_) => counted.succeeded.inc(),
        Err(HandshakeError::Plaintext) => counted.plaintext.inc(),
        Err(HandshakeError::Certificate(_) | HandshakeError::Unnamed(_)) => counted.client_certificate.inc(),
        Err(HandshakeError::Failed(_)) => counted.failed.inc(),
    };
    result
}

async fn attempt<S: AsyncRead + AsyncWrite + Unpin>(
    first: u8,
    mut stream: S,
    tls: &TlsState,
    protocol: Protocol,
) -> Result<(TlsStream<S>, Option<Arc<str>>), HandshakeError> {
    if first != HANDSHAKE_BYTE {
        reject_plaintext(&mut stream).await?;
        return Err(HandshakeError::Plaintext);
    }
    let mut stream = match TlsAcceptor::from(tls.config(protocol)).accept(stream).into_fallible().await {
        Ok(stream) => stream,
        Err((error, mut stream)) => {
            drain(&mut stream).await;
            return Err(error.into());
        }
    };
    let named = match stream.get_ref().1.peer_certificates() {
        Some([certificate, ..]) => identity(certificate).map(Some),
        Some([]) | None => Ok(None),
    };
    match named {
        Ok(identity) => Ok((stream, identity)),
        Err(nameless) => {
            drain(&mut stream).await;
            Err(nameless.into())
        }
    }
}

/// Rejects a peer without TLS. One that speaks HTTP/1.1 or HTTP/2 gets the reason in its protocol.
async fn reject_plaintext(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    let mut request = vec![0; MAX_REQUEST_BYTES];
    let length = stream.read(&mut request).await?;
    let request = &request[..length];
    let answer = if request.starts_with(PREFACE) {
        goaway()
    } else if request.first().is_some_and(u8::is_ascii_uppercase) {
        let length = PLAINTEXT_REASON.len() + 1;
        format!(
            "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n\
             {PLAINTEXT_REASON}\n"
        )
        .into_bytes()
    } else {
        return Ok(());
    };
    stream.write_all(&answer).await?;
    drain(stream).await;
    Ok(())
}

/// Shuts the writing side down, and reads from the peer for a moment. Closing the socket while the peer still sends would reset the connection, and the peer
/// might never see what was written last.
async fn drain(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let reading = async {
        stream.shutdown().await?;
        let mut rest = stream.take(MAX_DRAINED_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // The connection ends in any case.
    let _ = timeout(DRAIN_TIMEOUT, reading).await;
}

/// Returns an empty SETTINGS frame, with which HTTP/2 begins, and a GOAWAY with the reason.
fn goaway() -> Vec<u8> {
    let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let length = u8::try_from(8 + PLAINTEXT_REASON.len()).unwrap_or(u8::MAX);
    frames.extend([0, 0, length, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, INADEQUATE_SECURITY]);
    frames.extend(PLAINTEXT_REASON.as_bytes());
    frames
}
