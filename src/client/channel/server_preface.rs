//! The start of what an HTTP/2 server sends.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

/// Index of the type in the header of a frame.
const FRAME_TYPE_INDEX: usize = 3;
/// Type of a SETTINGS frame.
const SETTINGS: u8 = 4;

/// Connection that reports that the server's first frame is SETTINGS. Until then nothing shows that the server serves: the
/// kernel accepts connections for a process that hangs, and a proxy for one that is not there.
#[derive(Debug)]
pub(crate) struct PrefaceReader<S> {
    stream: S,
    /// Number of bytes received, before the type of the first frame.
    received: usize,
    settings: Option<oneshot::Sender<()>>,
}

impl<S> PrefaceReader<S> {
    /// Returns the connection, and a receiver that completes with the SETTINGS and fails without them.
    pub(crate) fn new(stream: S) -> (Self, oneshot::Receiver<()>) {
        let (settings, received) = oneshot::channel();
        (Self { stream, received: 0, settings: Some(settings) }, received)
    }

    fn inspect(&mut self, bytes: &[u8]) {
        match bytes.get(FRAME_TYPE_INDEX - self.received) {
            None => self.received += bytes.len(),
            Some(kind) => {
                // hyper ends a connection that starts with another frame.
                if let Some(settings) = self.settings.take().filter(|_| *kind == SETTINGS) {
                    let _gave_up = settings.send(());
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PrefaceReader<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, to))?;
        if self.settings.is_some() {
            self.inspect(&to.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PrefaceReader<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_recognized_in_pieces_of_any_size() {
        let frame = [0, 0, 6, SETTINGS, 0, 0, 0, 0, 0];
        for size in 1..=frame.len() {
            let (mut reader, mut settings) = PrefaceReader::new(());
            frame.chunks(size).for_each(|piece| reader.inspect(piece));
            assert!(settings.try_recv().is_ok(), "in pieces of {size} bytes");
        }
    }

    #[test]
    fn other_first_frame_is_no_preface() {
        let (mut reader, mut settings) = PrefaceReader::new(());
        reader.inspect(b"HTTP/1.1 400 Bad Request\r\n");
        assert_eq!(settings.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
