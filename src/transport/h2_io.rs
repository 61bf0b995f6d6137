//! Adapter between a connection's socket and hyper.
//!
//! **Small frames are written together.** h2 asks once, when a connection begins, whether the socket has vectored writes. If so, it writes each frame of 256
//! bytes or more as a buffer of its own, and stops collecting others: one system call for each. If not, it does so from 1,024 bytes, and copies smaller
//! frames together. A change of an instance has 200 to 500 bytes, so with a thousand watches of it on eight connections the difference is between a thousand
//! system calls and a few dozen. So the adapter answers no until the first write, and then the truth, for the sake of large frames. HTTP/1.1 gets the true
//! answer at once, because without vectored writes it would copy whole bodies.
//!
//! **Half-closed HTTP/1.1 connections get their answers.** Scripts shut down their side of a connection after the request. hyper drops the request if it sees
//! that end before the answer is ready. With half-close enabled, it does not see the end at all, and a blocking query of a client that has disconnected would
//! wait for minutes. So the adapter passes the end on after a delay, by which every answer that needs no waiting is ready.
//!
//! **GOAWAY has a reason.** See `goaway`.

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

/// Delay after which the end of the requests is passed on to hyper.
const END_DELAY: Duration = Duration::from_millis(100);

/// Progress towards the end of what a peer sends.
#[derive(Debug)]
enum ReadEnd {
    Open,
    /// The end was read, and is passed on at this time.
    Read(Pin<Box<Sleep>>),
}

/// Socket as hyper sees it.
#[derive(Debug)]
pub struct H2WriteShim<S> {
    /// Bytes that have already been read from the socket. hyper reads them first.
    head: Bytes,
    socket: S,
    /// Set when vectored writes are reported: for HTTP/2 after the first write.
    reports_vectored: bool,
    /// State of the delayed end. `None`: the end is passed on at once.
    end: Option<ReadEnd>,
    /// Rewriter of GOAWAY frames, for HTTP/2.
    goaway: Option<GoawayRewriter>,
}

/// Parses the frames of a connection, to add a reason to its GOAWAY frames.
#[derive(Debug)]
struct GoawayRewriter {
    connection: Arc<Connection>,
    cursor: FrameCursor,
    /// Rewritten bytes that the socket has not accepted yet.
    pending: BytesMut,
}

impl<S> H2WriteShim<S> {
    /// Wraps the socket of an HTTP/2 connection. `head`: bytes that have already been read from it.
    pub fn http2(connection: &Arc<Connection>, head: Bytes, socket: S) -> Self {
        let connection = Arc::clone(connection);
        let goaway = GoawayRewriter { connection, cursor: FrameCursor::default(), pending: BytesMut::new() };
        Self { head, socket, reports_vectored: false, end: None, goaway: Some(goaway) }
    }

    /// Wraps the socket of an HTTP/1.1 connection.
    pub fn http1(socket: S) -> Self {
        Self { head: Bytes::new(), socket, reports_vectored: true, end: Some(ReadEnd::Open), goaway: None }
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
            if matches!(end, ReadEnd::Open) {
                *end = ReadEnd::Read(Box::pin(sleep(END_DELAY)));
            }
            if let ReadEnd::Read(delay) = end {
                ready!(delay.as_mut().poll(context));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> H2WriteShim<S> {
    /// Advances over frames that the socket has accepted.
    fn follow<'a>(&mut self, written: usize, parts: impl IntoIterator<Item = &'a [u8]>) {
        let Some(GoawayRewriter { cursor, .. }) = &mut self.goaway else { return };
        let mut left = written;
        for part in parts {
            let taken = part.len().min(left);
            cursor.follow(&part[..taken]);
            left -= taken;
        }
    }

    /// Writes the rewritten bytes.
    fn poll_pending(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(GoawayRewriter { pending, .. }) = &mut self.goaway else { return Poll::Ready(Ok(())) };
        while pending.has_remaining() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(context, pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            pending.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes frames of a rejected connection, and adds the reason to its GOAWAY. `None`: the connection is not
    /// rejected.
    fn poll_rejected(&mut self, context: &mut Context<'_>, from: &[u8]) -> Option<Poll<io::Result<usize>>> {
        self.goaway.as_ref().and_then(|goaway| goaway.connection.rejection())?;
        match self.poll_pending(context) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
            Poll::Pending => return Some(Poll::Pending),
        }
        if let Some(GoawayRewriter { connection, cursor, pending }) = &mut self.goaway
            && let Some(reason) = connection.rejection()
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
        self.reports_vectored = true;
        if let Some(written) = self.poll_rejected(context, from) {
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
        if let Some(written) = self.poll_rejected(context, first) {
            return written;
        }
        let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(context, from))?;
        self.follow(written, from.iter().map(|part| &**part));
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.reports_vectored && self.socket.is_write_vectored()
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
