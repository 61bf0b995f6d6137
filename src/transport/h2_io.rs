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
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{Connection, goaway::FrameCursor};

/// How much later the end of what is asked is told.
const PATIENCE: Duration = Duration::from_millis(100);

/// The end of what a peer says.
#[derive(Debug)]
enum ReadEnd {
    ToCome,
    /// It has come, and is told then.
    Come(Pin<Box<Sleep>>),
}

/// A socket that makes h2 gather small frames.
#[derive(Debug)]
pub struct H2WriteShim<S> {
    /// Read already, to be read again.
    head: Bytes,
    socket: S,
    /// Whether the truth is told.
    frank: bool,
    /// When the end is told. `None`: at once.
    end: Option<ReadEnd>,
    /// Of HTTP/2: what gives GOAWAY its reason.
    going_away: Option<GoawayRewriter>,
}

/// Follows the frames of a connection, to give its GOAWAY a reason.
#[derive(Debug)]
struct GoawayRewriter {
    connection: Arc<Connection>,
    cursor: FrameCursor,
    /// Frames with their reason that the socket has not taken.
    pending: BytesMut,
}

impl<S> H2WriteShim<S> {
    /// Wraps a socket to which nothing was written yet, and from which this was read.
    pub fn http2(connection: &Arc<Connection>, head: Bytes, socket: S) -> Self {
        let connection = Arc::clone(connection);
        let going_away = GoawayRewriter { connection, cursor: FrameCursor::default(), pending: BytesMut::new() };
        Self { head, socket, frank: false, end: None, going_away: Some(going_away) }
    }

    /// Wraps one for HTTP/1.1.
    pub fn http1(socket: S) -> Self {
        Self { head: Bytes::new(), socket, frank: true, end: Some(ReadEnd::ToCome), going_away: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for H2WriteShim<S> {
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
            if matches!(end, ReadEnd::ToCome) {
                *end = ReadEnd::Come(Box::pin(sleep(PATIENCE)));
            }
            if let ReadEnd::Come(told) = end {
                ready!(told.as_mut().poll(context));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> H2WriteShim<S> {
    /// Follows frames that the socket has taken.
    fn follow<'a>(&mut self, written: usize, parts: impl IntoIterator<Item = &'a [u8]>) {
        let Some(GoawayRewriter { cursor, .. }) = &mut self.going_away else { return };
        let mut left = written;
        for part in parts {
            let taken = part.len().min(left);
            cursor.follow(&part[..taken]);
            left -= taken;
        }
    }

    /// Writes what has got its reason and was not written yet.
    fn poll_pending(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(GoawayRewriter { pending, .. }) = &mut self.going_away else { return Poll::Ready(Ok(())) };
        while pending.has_remaining() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(context, pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            pending.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes frames of a connection that goes away, and gives GOAWAY its reason. `None`: the connection stays.
    fn poll_going_away(&mut self, context: &mut Context<'_>, from: &[u8]) -> Option<Poll<io::Result<usize>>> {
        self.going_away.as_ref().and_then(|going_away| going_away.connection.going_away())?;
        match self.poll_pending(context) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
            Poll::Pending => return Some(Poll::Pending),
        }
        if let Some(GoawayRewriter { connection, cursor, pending }) = &mut self.going_away
            && let Some(reason) = connection.going_away()
        {
            cursor.rewrite(from, reason, pending);
        }
        Some(match self.poll_pending(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(from.len())),
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for H2WriteShim<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.frank = true;
        if let Some(written) = self.poll_going_away(context, from) {
            return written;
        }
        let written = ready!(Pin::new(&mut self.socket).poll_write(context, from))?;
        self.follow(written, [from]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = from.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| part);
        if let Some(written) = self.poll_going_away(context, first) {
            return written;
        }
        let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(context, from))?;
        self.follow(written, from.iter().map(|part| &**part));
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.frank && self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(context))?;
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(context))?;
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
