//! The socket of a connection, as h2 should see it.
//!
//! h2 asks once, when a connection begins, whether the socket takes several buffers in one write. If so, it hands over each
//! frame of 256 bytes or more as a buffer of its own, and stops gathering others: a system call for each. If not, that
//! begins at 1,024 bytes, and what is smaller is copied together. A change of an instance has 200 to 500 bytes, so with
//! a thousand watches of it on eight connections the difference is a thousand system calls or a few dozen.
//!
//! So the answer is no until the first write, and the truth from then on, for the frames that are large. HTTP/1.1 is told the truth
//! at once: it would copy whole bodies.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A socket that makes h2 gather small frames.
#[derive(Debug)]
pub struct Gathering<S> {
    /// Read already, to be read again.
    head: Bytes,
    socket: S,
    /// Whether the truth is told.
    frank: bool,
}

impl<S> Gathering<S> {
    /// Wraps a socket to which nothing was written yet, and from which this was read.
    pub fn new(head: Bytes, socket: S) -> Self {
        Self { head, socket, frank: false }
    }

    /// Wraps one to which large pieces are written as they are.
    pub fn frank(socket: S) -> Self {
        Self { head: Bytes::new(), socket, frank: true }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.head.has_remaining() {
            let length = self.head.len().min(to.remaining());
            let part = self.head.split_to(length);
            to.put_slice(&part);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_read(context, to)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.frank = true;
        Pin::new(&mut self.socket).poll_write(context, from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.frank && self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
