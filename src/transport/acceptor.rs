//! Takes connections: all listeners by the one function, with the same protections.
//!
//! Connections of gRPC are handed to the least loaded worker. `SO_REUSEPORT` would let the kernel choose, by a hash: with
//! few long connections that is as bad as it gets.

use std::{
    collections::VecDeque, future::poll_fn, io, net::SocketAddr, ops::Range, sync::Arc, task::Poll, time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

use super::{
    Connection, ConnectionLimiter, ConnectionPermit, ListenerConfig, Protocol, WorkerState, Workers,
    closing::refuse,
    descriptors::SpareDescriptor,
    listener::{self, Listener},
    serve::receive,
};
use crate::{clock::Clock, metrics::RejectReason};

/// A new connection weighs as much as this many streams...
const NEWCOMER: usize = 8;
/// ...for so long: by then it has opened its own.
const NEW: Duration = Duration::from_secs(1);
/// How long to wait when the system gives no connection, and none can be turned away either.
const PAUSE: Duration = Duration::from_millis(100);
/// So many connections are turned away in a row before others have a turn.
const TURNED_AWAY: u32 = 64;
const BREATH: Duration = Duration::from_millis(10);

/// A connection that was let in.
#[derive(Debug)]
pub(super) struct AcceptedConnection {
    pub(super) socket: std::net::TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) ticket: ConnectionPermit,
    pub(super) port: Arc<ListenerConfig>,
}

/// Accepts on a port until the server leaves.
///
/// # Errors
///
/// When the poller does not take the listener, or no descriptor is left to keep in reserve.
pub fn accept(
    listener: Listener,
    port: ListenerConfig,
    gate: Arc<ConnectionLimiter>,
    mut dealer: WorkerDispatch,
    mut leaving: watch::Receiver<bool>,
) -> io::Result<impl Future<Output = ()> + Send> {
    let listener = listener.for_tokio()?;
    let mut spare = SpareDescriptor::new()?;
    let port = Arc::new(port);
    Ok(async move {
        let mut turned_away = 0_u32;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = leaving.wait_for(|leaving| *leaving) => break,
            };
            match accepted {
                Ok((socket, peer)) => match gate.admit(peer, port.name, port.protocol) {
                    Ok(ticket) => {
                        admit(socket, peer, ticket, &port, &mut dealer);
                        continue;
                    }
                    Err(why) => {
                        gate.metrics().connections.rejected(why);
                        refuse(&gate, socket, &port, why);
                    }
                },
                Err(error) if SpareDescriptor::is_wanted(&error) => match turn_away(&listener, &mut spare).await {
                    TurnAwayResult::Away => gate.metrics().connections.rejected(RejectReason::Descriptors),
                    TurnAwayResult::Nobody => continue,
                    TurnAwayResult::Unable => sleep(PAUSE).await,
                },
                // Of a peer that is gone already, mostly, and then it is its own affair.
                Err(error) => tracing::debug!(port = port.name, %error, "connection not accepted"),
            }
            turned_away = turned_away.wrapping_add(1);
            if turned_away.is_multiple_of(TURNED_AWAY) {
                sleep(BREATH).await;
            }
        }
    })
}

fn admit(
    socket: TcpStream,
    peer: SocketAddr,
    ticket: ConnectionPermit,
    port: &Arc<ListenerConfig>,
    dealer: &mut WorkerDispatch,
) {
    let prepared = listener::prepare(&socket).and_then(|()| socket.into_std());
    match prepared {
        Ok(socket) => dealer.deal(AcceptedConnection { socket, peer, ticket, port: Arc::clone(port) }),
        Err(error) => tracing::debug!(%peer, %error, "connection lost before it began"),
    }
}

/// What became of an attempt to turn a connection away.
enum TurnAwayResult {
    /// One was closed.
    Away,
    /// None waits: the system asks for a descriptor before it looks.
    Nobody,
    /// Somebody else has taken the descriptor.
    Unable,
}

/// Closes one of the connections that wait, so that its peer knows, and this loop does not spin. One that comes later may find
/// descriptors again, so it is not waited for.
async fn turn_away(listener: &TcpListener, spare: &mut SpareDescriptor) -> TurnAwayResult {
    if !spare.spend() {
        return TurnAwayResult::Unable;
    }
    let accepted = poll_fn(|context| Poll::Ready(listener.poll_accept(context))).await;
    let turned = match accepted {
        Poll::Ready(Ok(_closed)) => TurnAwayResult::Away,
        Poll::Ready(Err(error)) if SpareDescriptor::is_wanted(&error) => TurnAwayResult::Unable,
        Poll::Ready(Err(_)) | Poll::Pending => TurnAwayResult::Nobody,
    };
    spare.renew();
    turned
}

/// Deals connections out to the workers.
#[derive(Debug)]
pub struct WorkerDispatch {
    workers: Arc<Workers>,
    clock: Arc<Clock>,
    /// Those that it deals to.
    among: Range<usize>,
    newcomers: Vec<VecDeque<Duration>>,
}

impl WorkerDispatch {
    /// Of connections that speak this: gRPC has workers of its own, and so has HTTP, whose pages may be long.
    #[must_use]
    pub fn new(workers: &Arc<Workers>, clock: &Arc<Clock>, protocol: Protocol) -> Self {
        let among = match protocol {
            Protocol::Http2 => 0..workers.count(),
            Protocol::Http1 => workers.count()..workers.count() + 1,
        };
        let newcomers = vec![VecDeque::new(); among.end];
        Self { workers: Arc::clone(workers), clock: Arc::clone(clock), among, newcomers }
    }

    fn deal(&mut self, arrival: AcceptedConnection) {
        let now = self.clock.since_start();
        for new in &mut self.newcomers {
            while new.front().is_some_and(|since| now.saturating_sub(*since) > NEW) {
                new.pop_front();
            }
        }
        let load = |worker: &usize| self.workers.open_streams(*worker) + NEWCOMER * self.newcomers[*worker].len();
        let worker = self.among.clone().min_by_key(load).unwrap_or(self.among.start);
        self.newcomers[worker].push_back(now);
        self.workers.hand_over(worker, arrival);
    }
}

impl AcceptedConnection {
    /// Serves it at this place, until it ends.
    pub(super) async fn serve(self, place: Arc<WorkerState>, leaving: watch::Receiver<bool>) {
        let Self { socket, peer, ticket, port } = self;
        match TcpStream::from_std(socket) {
            Ok(socket) => receive(socket, Connection::new(peer, &place, ticket), &port, leaving).await,
            Err(error) => tracing::warn!(%peer, %error, "connection refused: the poller does not take it"),
        }
    }
}
