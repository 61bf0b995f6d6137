//! Socket of a connection. It limits the bytes that the connection reads, and counts the bytes that the peer reads.

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

use super::{
    Connection,
    closing::close_gently,
    fairness::{MAX_READ_BYTES_PER_POLL, THROTTLED_READ_BYTES},
};

/// Socket of a connection, below TLS and HTTP.
#[derive(Debug)]
pub struct ConnectionIo {
    socket: TcpStream,
    connection: Arc<Connection>,
    /// Number of the poll in which the connection was last read, and the bytes read in that poll.
    read: (u64, usize),
    /// End of the pause in which the connection is not read.
    pause: Option<Pin<Box<Sleep>>>,
}

impl ConnectionIo {
    /// Wraps the socket of this connection.
    #[must_use]
    pub fn new(socket: TcpStream, connection: Arc<Connection>) -> Self {
        Self { socket, connection, read: (0, 0), pause: None }
    }

    /// Waits until other connections have used their share of the thread.
    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.pause.is_none() {
            self.pause = self.connection.read_pause().map(|pause| Box::pin(sleep(pause)));
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        Poll::Ready(())
    }

    /// Bytes read in this poll of the task. h2 reads again for each stream that it finds in what it has read, so the budget is for a poll of the task. A budget
    /// that was renewed by each rejected read would give a connection up to 128 budgets in one poll.
    fn bytes_read_in_poll(&mut self) -> &mut usize {
        let poll = self.connection.poll_count();
        if self.read.0 != poll {
            self.read = (poll, 0);
        }
        &mut self.read.1
    }

    /// Waits for the peer's first byte, or its end. Until then a connection costs only its socket and its task.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.ready(Interest::READABLE).await.map(|_| ())
    }

    /// Waits for the peer's first byte and returns it, without removing it from the socket.
    pub(super) async fn peek_first_byte(&self) -> io::Result<u8> {
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
        let throttled = self.connection.is_throttled();
        if *self.bytes_read_in_poll() >= if throttled { THROTTLED_READ_BYTES } else { MAX_READ_BYTES_PER_POLL } {
            // `yield_now` waits for the poller, and waking oneself does not: tokio asks the poller, which knows what others have sent, only every 61 tasks
            // while its queue is not empty.
            return pin!(yield_now()).poll(context).map(Ok);
        }
        let before = to.filled().len();
        let polled = if throttled {
            let (mut piece, length) = ([0; THROTTLED_READ_BYTES], to.remaining().min(THROTTLED_READ_BYTES));
            let mut piece = ReadBuf::new(&mut piece[..length]);
            let polled = Pin::new(&mut self.socket).poll_read(context, &mut piece);
            to.put_slice(piece.filled());
            polled
        } else {
            Pin::new(&mut self.socket).poll_read(context, to)
        };
        *self.bytes_read_in_poll() += to.filled().len() - before;
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
        // Usually there is one buffer, for which the operating system has a shorter path.
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
    /// Discards data that an evicted peer has not read, also in the kernel. A peer that was sent a reason gets time to
    /// read it.
    fn drop(&mut self) {
        if !self.connection.is_evicted() {
            if self.connection.rejection().is_some() {
                close_gently(self.connection.permit().limiter(), self.connection.peer(), &self.socket);
            }
        } else if let Err(error) = self.socket.set_zero_linger() {
            tracing::debug!(peer = %self.connection.peer(), %error, "the kernel keeps the bytes that the peer did not take");
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
        transport::{ConnectionLimiter, ConnectionLimits, Protocol, WorkerState, accounted_task::AccountedTask},
    };

    /// Reads repeatedly in one poll, regardless of the earlier results, as h2 does.
    #[tokio::test]
    async fn repeated_reads_in_one_poll_stay_within_its_budget() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, peer) = listener.accept().await.unwrap();
        client.write_all(&vec![0; 10 * MAX_READ_BYTES_PER_POLL]).await.unwrap();
        let permit = ConnectionLimiter::new(ConnectionLimits::default(), Metrics::new())
            .admit(peer, "test", Protocol::Http2)
            .unwrap();
        let connection = Connection::new(peer, &WorkerState::new(0, &Arc::new(Clock::new(0))), permit);
        let mut io = ConnectionIo::new(socket, Arc::clone(&connection));
        let mut all = 0;
        while all < 10 * MAX_READ_BYTES_PER_POLL {
            let poll = poll_fn(|context| {
                let mut read = 0;
                for _ in 0..100 {
                    let (mut bytes, mut io) = ([0; 1024], pin!(&mut io));
                    let mut to = ReadBuf::new(&mut bytes);
                    let _more = io.as_mut().poll_read(context, &mut to).map(Result::unwrap);
                    read += to.filled().len();
                }
                if read > 0 { Poll::Ready(read) } else { Poll::Pending }
            });
            let read = AccountedTask::new(Arc::clone(&connection), poll).await;
            assert!(read <= MAX_READ_BYTES_PER_POLL, "{read} bytes");
            all += read;
        }
    }
}
