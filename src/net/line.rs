//! The socket of a connection.

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    task::yield_now,
    time::{Sleep, sleep},
};

use super::Connection;

/// How much a connection reads before those beside it have their turn. A socket that is never empty would otherwise hold its
/// thread: these bytes may be hundreds of frames, each of which costs something.
const TURN: usize = 8 * 1024;
/// And one that has had more than its share.
const SHORT_TURN: usize = 512;

/// A connection's socket, below everything that is spoken on it.
#[derive(Debug)]
pub struct Line {
    socket: TcpStream,
    connection: Arc<Connection>,
    /// What was read in this turn.
    read: usize,
    /// It is not read until then.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Line {
    /// The socket of this connection.
    #[must_use]
    pub fn new(socket: TcpStream, connection: Arc<Connection>) -> Self {
        Self { socket, connection, read: 0, pause: None }
    }

    /// Waits until others have had their share of the thread. Whether there was anything to wait for.
    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let paused = self.pause.is_some();
        if !paused {
            self.pause = self.connection.pause().map(|pause| Box::pin(sleep(pause)));
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        Poll::Ready(paused)
    }

    /// Waits for the peer's first byte, or its end: until then a connection costs nothing but its socket and its task.
    pub(super) async fn stirs(&self) -> io::Result<()> {
        self.socket.ready(Interest::READABLE).await.map(|_| ())
    }

    /// The peer's first byte, which stays to be read.
    pub(super) async fn first_byte(&self) -> io::Result<u8> {
        let mut first = [0];
        match self.socket.peek(&mut first).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(first[0]),
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if ready!(self.poll_pause(context)) {
            self.read = 0;
        }
        let greedy = self.connection.is_greedy();
        if self.read >= if greedy { SHORT_TURN } else { TURN } {
            self.read = 0;
            // Not just to the end of the queue: a queue that is never empty has the poller asked, which knows of what others
            // have sent, only now and then.
            return pin!(yield_now()).poll(context).map(Ok);
        }
        let before = to.filled().len();
        let polled = if greedy {
            let (mut piece, room) = ([0; SHORT_TURN], to.remaining().min(SHORT_TURN));
            let mut piece = ReadBuf::new(&mut piece[..room]);
            let polled = Pin::new(&mut self.socket).poll_read(context, &mut piece);
            to.put_slice(piece.filled());
            polled
        } else {
            Pin::new(&mut self.socket).poll_read(context, to)
        };
        self.read = if polled.is_ready() { self.read + to.filled().len() - before } else { 0 };
        polled
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, from);
        self.connection.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Mostly there is one, and for that the system has a shorter way.
        if let [one] = from {
            return self.poll_write(context, one);
        }
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, from);
        self.connection.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

impl Drop for Line {
    /// What a peer that was cut off has not taken is thrown away at once, in the kernel too.
    fn drop(&mut self) {
        if self.connection.is_evicted()
            && let Err(error) = self.socket.set_zero_linger()
        {
            tracing::debug!(peer = %self.connection.peer(), %error, "the kernel keeps what the peer did not take");
        }
    }
}
