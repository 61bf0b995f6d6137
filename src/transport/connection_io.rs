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

use super::{Connection, closing::close_gently};

/// How much a connection reads before those beside it have their turn. A socket that is never empty would otherwise hold its
/// thread: these bytes may be hundreds of frames, each of which costs something.
const TURN: usize = 8 * 1024;
/// And one that has had more than its share.
const SHORT_TURN: usize = 512;

/// A connection's socket, below everything that is spoken on it.
#[derive(Debug)]
pub struct ConnectionIo {
    socket: TcpStream,
    connection: Arc<Connection>,
    /// What was read in this turn of the connection's.
    read: (u64, usize),
    /// It is not read until then.
    pause: Option<Pin<Box<Sleep>>>,
}

impl ConnectionIo {
    /// The socket of this connection.
    #[must_use]
    pub fn new(socket: TcpStream, connection: Arc<Connection>) -> Self {
        Self { socket, connection, read: (0, 0), pause: None }
    }

    /// Waits until others have had their share of the thread.
    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.pause.is_none() {
            self.pause = self.connection.pause().map(|pause| Box::pin(sleep(pause)));
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        Poll::Ready(())
    }

    /// What was read in this turn. Whoever speaks HTTP/2 asks for more with each stream that it finds in what it has: a turn ends
    /// with that of the task.
    fn read_in_turn(&mut self) -> &mut usize {
        let turn = self.connection.turn();
        if self.read.0 != turn {
            self.read = (turn, 0);
        }
        &mut self.read.1
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

impl AsyncRead for ConnectionIo {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pause(context));
        let greedy = self.connection.is_greedy();
        if *self.read_in_turn() >= if greedy { SHORT_TURN } else { TURN } {
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
        *self.read_in_turn() += to.filled().len() - before;
        polled
    }
}

impl AsyncWrite for ConnectionIo {
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

impl Drop for ConnectionIo {
    /// What a peer that was cut off has not taken is thrown away at once, in the kernel too. One that was told why may read it.
    fn drop(&mut self) {
        if !self.connection.is_evicted() {
            if self.connection.going_away().is_some() {
                close_gently(&self.connection, &self.socket);
            }
        } else if let Err(error) = self.socket.set_zero_linger() {
            tracing::debug!(peer = %self.connection.peer(), %error, "the kernel keeps what the peer did not take");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;
    use crate::{
        clock::Clock,
        metrics::Metrics,
        transport::{ConnectionLimiter, ConnectionLimits, Protocol, WorkerState, cpu_share::AccountedTask},
    };

    /// As HTTP/2 reads: again and again in one turn, whatever came of it before.
    #[tokio::test]
    async fn a_turn_has_an_end_however_often_more_is_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, peer) = listener.accept().await.unwrap();
        client.write_all(&vec![0; 10 * TURN]).await.unwrap();
        let ticket = ConnectionLimiter::new(ConnectionLimits::default(), Metrics::new())
            .admit(peer, "test", Protocol::Http2)
            .unwrap();
        let connection = Connection::new(peer, &WorkerState::new(0, &Arc::new(Clock::new(0))), ticket);
        let mut line = ConnectionIo::new(socket, Arc::clone(&connection));
        let mut all = 0;
        while all < 10 * TURN {
            let turn = poll_fn(|context| {
                let mut read = 0;
                for _ in 0..100 {
                    let (mut bytes, mut line) = ([0; 1024], pin!(&mut line));
                    let mut to = ReadBuf::new(&mut bytes);
                    let _more = line.as_mut().poll_read(context, &mut to).map(Result::unwrap);
                    read += to.filled().len();
                }
                if read > 0 { Poll::Ready(read) } else { Poll::Pending }
            });
            let read = AccountedTask::new(Arc::clone(&connection), turn).await;
            assert!(read <= TURN, "{read} bytes");
            all += read;
        }
    }
}
