//! The socket of a connection, as hyper and h2 should see it.
//!
//! h2 asks once, when a connection begins, whether the socket takes several buffers in one write. If so, it hands over each
//! frame of 256 bytes or more as a buffer of its own, and stops gathering others: a system call for each. If not, that
//! begins at 1,024 bytes, and what is smaller is copied together. A change of an instance has 200 to 500 bytes, so with
//! a thousand watches of it on eight connections the difference is a thousand system calls or a few dozen.
//!
//! So the answer is no until the first write, and the truth from then on, for the frames that are large. HTTP/1.1 is told the truth
//! at once: it would copy whole bodies.
//!
//! Who asks over HTTP/1.1 and says no more, as scripts do that end their side of the connection, wants an answer. hyper gives none if
//! it finds the end while it makes one; or else, if told so, does not find it at all, and a query whose client is gone would wait for
//! minutes. So the end is told a little later, by when all is answered that does not wait.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// How much later the end of what is asked is told.
const PATIENCE: Duration = Duration::from_millis(100);

/// The end of what a peer says.
#[derive(Debug)]
enum End {
    ToCome,
    /// It has come, and is told then.
    Come(Pin<Box<Sleep>>),
}

/// A socket that makes h2 gather small frames.
#[derive(Debug)]
pub struct Gathering<S> {
    /// Read already, to be read again.
    head: Bytes,
    socket: S,
    /// Whether the truth is told.
    frank: bool,
    /// When the end is told. `None`: at once.
    end: Option<End>,
}

impl<S> Gathering<S> {
    /// Wraps a socket to which nothing was written yet, and from which this was read.
    pub fn new(head: Bytes, socket: S) -> Self {
        Self { head, socket, frank: false, end: None }
    }

    /// Wraps one for HTTP/1.1.
    pub fn http1(socket: S) -> Self {
        Self { head: Bytes::new(), socket, frank: true, end: Some(End::ToCome) }
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
        let before = to.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(context, to))?;
        let is_end = to.filled().len() == before && to.remaining() > 0;
        if is_end && let Some(end) = &mut self.end {
            if matches!(end, End::ToCome) {
                *end = End::Come(Box::pin(sleep(PATIENCE)));
            }
            if let End::Come(told) = end {
                ready!(told.as_mut().poll(context));
            }
        }
        Poll::Ready(Ok(()))
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
