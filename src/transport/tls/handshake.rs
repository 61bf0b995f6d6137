//! One peer's handshake, and what a peer that speaks no TLS is told.

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

/// The first byte of whoever begins a handshake.
const HANDSHAKE: u8 = 0x16;
/// How HTTP/2 without TLS begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// A peer that speaks no TLS may have said so much before it is answered.
const SAID: usize = 4 * 1024;
/// How long, and how many bytes, a peer may go on after it was turned away.
const PATIENCE: (Duration, u64) = (Duration::from_secs(1), 64 * 1024);
const WRONG_DOOR: &str = "this port speaks TLS only: connect with TLS, or to the port without it";
/// `INADEQUATE_SECURITY`
const INADEQUATE_SECURITY: u8 = 0xc;

/// Why there is no connection. All of these are the peer's affair.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer speaks something else.
    #[error("the peer speaks no TLS")]
    Plaintext,
    /// The peer's certificate is missing, or not accepted.
    #[error("the client's certificate is not accepted: {0}")]
    Certificate(RustlsError),
    /// The peer's certificate is accepted, but names nobody.
    #[error(transparent)]
    Nameless(#[from] IdentityError),
    /// Anything else.
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

/// Shakes hands with a peer that has said this byte first, which is yet to be read. Tells whom its certificate names: `None`
/// where none is asked for. The caller sets the deadline.
///
/// # Errors
///
/// When there is no connection to serve. It is counted, and the peer has been told what can be told.
pub(in crate::transport) async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
    first: u8,
    stream: S,
    tls: &TlsState,
    protocol: Protocol,
) -> Result<(TlsStream<S>, Option<Arc<str>>), HandshakeError> {
    let done = attempt(first, stream, tls, protocol).await;
    let counted = &tls.metrics.tls;
    match &done {
        Ok(_) => counted.succeeded.inc(),
        Err(HandshakeError::Plaintext) => counted.plaintext.inc(),
        Err(HandshakeError::Certificate(_) | HandshakeError::Nameless(_)) => counted.client_certificate.inc(),
        Err(HandshakeError::Failed(_)) => counted.failed.inc(),
    };
    done
}

async fn attempt<S: AsyncRead + AsyncWrite + Unpin>(
    first: u8,
    mut stream: S,
    tls: &TlsState,
    protocol: Protocol,
) -> Result<(TlsStream<S>, Option<Arc<str>>), HandshakeError> {
    if first != HANDSHAKE {
        turn_away(&mut stream).await?;
        return Err(HandshakeError::Plaintext);
    }
    let mut stream = match TlsAcceptor::from(tls.config(protocol)).accept(stream).into_fallible().await {
        Ok(stream) => stream,
        Err((error, mut stream)) => {
            part(&mut stream).await;
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
            part(&mut stream).await;
            Err(nameless.into())
        }
    }
}

/// Tells a peer that speaks HTTP without TLS, in its own language, that this is the wrong door.
async fn turn_away(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    let mut said = vec![0; SAID];
    let length = stream.read(&mut said).await?;
    let said = &said[..length];
    let answer = if said.starts_with(PREFACE) {
        goaway()
    } else if said.first().is_some_and(u8::is_ascii_uppercase) {
        let length = WRONG_DOOR.len() + 1;
        format!(
            "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n\
             {WRONG_DOOR}\n"
        )
        .into_bytes()
    } else {
        return Ok(());
    };
    stream.write_all(&answer).await?;
    part(stream).await;
    Ok(())
}

/// Says nothing more, and hears the peer out for a while: closing while it has more to say would reset the connection, and take
/// from it what it was told last.
async fn part(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let hearing = async {
        stream.shutdown().await?;
        let mut rest = stream.take(PATIENCE.1);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // However it ends, it has ended.
    let _ = timeout(PATIENCE.0, hearing).await;
}

/// Empty settings, with which HTTP/2 begins, and a GOAWAY that says why.
fn goaway() -> Vec<u8> {
    let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let length = u8::try_from(8 + WRONG_DOOR.len()).unwrap_or(u8::MAX);
    frames.extend([0, 0, length, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, INADEQUATE_SECURITY]);
    frames.extend(WRONG_DOOR.as_bytes());
    frames
}
