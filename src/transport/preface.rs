//! First bytes of a connection.
//!
//! HTTP/2 begins with a preface and SETTINGS. They are read here, before hyper is involved. So a peer that does not send them costs a buffer of some
//! bytes, and can be distinguished from a peer that has sent them and is idle.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Connection, Protocol, h2_io::H2WriteShim};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame header: length (3), type, flags, stream (4).
const HEADER_BYTES: usize = 9;
const SETTINGS: u8 = 4;
/// Maximum size of the first frame: the maximum frame size of HTTP/2 before SETTINGS change it.
const MAX_FRAME_BYTES: usize = 16 * 1024;

/// Reads the preface of a connection. The returned stream yields the bytes again.
///
/// # Errors
///
/// When the peer closes the connection, or sends anything else.
pub(super) async fn read_preface<I: AsyncRead + Unpin>(
    mut io: I,
    protocol: Protocol,
    connection: &Arc<Connection>,
) -> io::Result<H2WriteShim<I>> {
    Ok(match protocol {
        Protocol::Http2 => H2WriteShim::http2(connection, settings(&mut io).await?, io),
        // hyper reads the head of a request in parts, with a deadline.
        Protocol::Http1 => H2WriteShim::http1(io),
    })
}

/// Reads the preface and the whole of the first SETTINGS.
async fn settings(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let mut read = BytesMut::with_capacity(128);
    loop {
        let known = read.len().min(PREFACE.len());
        if read[..known] != PREFACE[..known] {
            return Err(invalid("the peer does not speak HTTP/2"));
        }
        if let Some(&[a, b, c, kind, ..]) = read.get(PREFACE.len()..) {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if kind != SETTINGS || length > MAX_FRAME_BYTES {
                return Err(invalid("the first frame is not SETTINGS"));
            }
            if read.len() >= PREFACE.len() + HEADER_BYTES + length {
                return Ok(read.freeze());
            }
        }
        if io.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<Bytes, io::ErrorKind> {
        settings(&mut &*bytes).await.map_err(|error| error.kind())
    }

    #[tokio::test]
    async fn preface_is_returned_once_settings_are_whole() {
        let whole = [PREFACE, &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100]].concat();
        let more = [&whole[..], b"more"].concat();
        assert_eq!(read(&more).await.unwrap(), more, "bytes after SETTINGS are not lost");
        for short in [0, 3, PREFACE.len(), PREFACE.len() + HEADER_BYTES, whole.len() - 1] {
            assert_eq!(read(&whole[..short]).await, Err(io::ErrorKind::UnexpectedEof), "{short}");
        }
    }

    #[tokio::test]
    async fn bytes_that_are_not_http2_are_invalid_at_the_first_difference() {
        for bytes in
            [&b"G"[..], b"PRI * HTTP/1", &[PREFACE, &[0, 0, 0, 6, 0]].concat(), &[PREFACE, &[1, 0, 0, 4]].concat()]
        {
            assert_eq!(read(bytes).await, Err(io::ErrorKind::InvalidData), "{bytes:?}");
        }
    }
}
