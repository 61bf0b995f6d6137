//! The first bytes of a connection.
//!
//! HTTP/2 begins with a preface and SETTINGS. They are read here, before hyper is asked: so that whoever does not send them
//! costs a buffer of some bytes, and can be told from a peer that has and is idle.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Connection, Protocol, h2_io::H2WriteShim};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head: length (3), type, flags, stream (4).
const HEAD: usize = 9;
const SETTINGS: u8 = 4;
/// The largest first frame that is waited for: what HTTP/2 allows unless told otherwise.
const LARGEST: usize = 16 * 1024;

/// Reads what a peer has to say first; what was read is read again by whoever serves it.
///
/// # Errors
///
/// When the peer goes, or says something else.
pub(super) async fn greet<I: AsyncRead + Unpin>(
    mut io: I,
    protocol: Protocol,
    connection: &Arc<Connection>,
) -> io::Result<H2WriteShim<I>> {
    Ok(match protocol {
        Protocol::Http2 => H2WriteShim::http2(connection, settings(&mut io).await?, io),
        // hyper reads the head of a request in parts, and has a deadline for it.
        Protocol::Http1 => H2WriteShim::http1(io),
    })
}

/// The preface and the whole of the first SETTINGS.
async fn settings(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let mut read = BytesMut::with_capacity(128);
    loop {
        let known = read.len().min(PREFACE.len());
        if read[..known] != PREFACE[..known] {
            return Err(refused("it does not speak HTTP/2"));
        }
        if let Some(&[a, b, c, kind, ..]) = read.get(PREFACE.len()..) {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if kind != SETTINGS || length > LARGEST {
                return Err(refused("its first frame is not SETTINGS"));
            }
            if read.len() >= PREFACE.len() + HEAD + length {
                return Ok(read.freeze());
            }
        }
        if io.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(bytes: &[u8]) -> Result<Bytes, io::ErrorKind> {
        settings(&mut &*bytes).await.map_err(|error| error.kind())
    }

    #[tokio::test]
    async fn settings_are_waited_for_whole() {
        let whole = [PREFACE, &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100]].concat();
        let more = [&whole[..], b"more"].concat();
        assert_eq!(said(&more).await.unwrap(), more, "what comes with it is not lost");
        for short in [0, 3, PREFACE.len(), PREFACE.len() + HEAD, whole.len() - 1] {
            assert_eq!(said(&whole[..short]).await, Err(io::ErrorKind::UnexpectedEof), "{short}");
        }
    }

    #[tokio::test]
    async fn anything_else_is_refused_as_soon_as_it_shows() {
        for bytes in
            [&b"G"[..], b"PRI * HTTP/1", &[PREFACE, &[0, 0, 0, 6, 0]].concat(), &[PREFACE, &[1, 0, 0, 4]].concat()]
        {
            assert_eq!(said(bytes).await, Err(io::ErrorKind::InvalidData), "{bytes:?}");
        }
    }
}
