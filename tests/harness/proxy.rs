//! A proxy that is as bad as networks are.
//!
//! What it holds up comes later, as it does behind a partition that heals: TCP loses nothing in between. What is lost is lost with
//! its connection.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{broadcast, watch},
    task::{JoinHandle, JoinSet},
    time::sleep,
};

/// Treatment of the bytes in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Open,
    /// Each piece is delayed by this time.
    Late(Duration),
    /// One byte at a time, one every millisecond.
    Trickle,
    /// Nothing gets through, without an error on either side.
    Held,
}

/// Direction of bytes, or both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
    Both,
}

/// Present treatment of connections.
#[derive(Debug, Clone, Copy)]
struct ProxyState {
    up: Flow,
    down: Flow,
    /// New connections are reset at once.
    refuses: bool,
}

/// Event for all open connections.
#[derive(Debug, Clone, Copy)]
enum ConnectionFault {
    /// RST to both sides.
    Reset,
    /// No more bytes in this direction, and the receiver gets the end of the stream. Never [`Direction::Both`].
    HalfClose(Direction),
}

/// TCP proxy in front of a server. Dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<ProxyState>,
    faults: broadcast::Sender<ConnectionFault>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, _) = watch::channel(ProxyState { up: Flow::Open, down: Flow::Open, refuses: false });
        let (faults, _) = broadcast::channel(64);
        let accepting = tokio::spawn(accept(listener, server, state.clone(), faults.clone()));
        Self { address, state, faults, accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, for connections old and new.
    pub fn flow(&self, direction: Direction, flow: Flow) {
        self.state.send_modify(|state| {
            if direction != Direction::Down {
                state.up = flow;
            }
            if direction != Direction::Up {
                state.down = flow;
            }
        });
    }

    /// Set while new connections are reset at once.
    pub fn refuse(&self, refuses: bool) {
        self.state.send_modify(|state| state.refuses = refuses);
    }

    /// Ends the faults of new connections and of those that are left.
    pub fn calm(&self) {
        self.flow(Direction::Both, Flow::Open);
        self.refuse(false);
    }

    /// Resets all connections.
    pub fn reset(&self) {
        // An error means that there are none.
        let _ = self.faults.send(ConnectionFault::Reset);
    }

    /// Ends one direction of all connections: their receivers read an end, while the other direction stays open.
    pub fn half_close(&self, direction: Direction) {
        assert_ne!(direction, Direction::Both, "both directions closed are a connection closed");
        let _ = self.faults.send(ConnectionFault::HalfClose(direction));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    state: watch::Sender<ProxyState>,
    faults: broadcast::Sender<ConnectionFault>,
) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let far = if state.borrow().refuses { None } else { TcpStream::connect(server).await.ok() };
        let Some(far) = far else {
            near.set_zero_linger().unwrap();
            continue;
        };
        // An error means that the connection has ended already.
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        connections.spawn(forward(near, far, state.subscribe(), faults.subscribe()));
    }
}

/// Until both directions have ended, one of them has broken, or the connection is reset.
async fn forward(
    mut near: TcpStream,
    mut far: TcpStream,
    state: watch::Receiver<ProxyState>,
    mut faults: broadcast::Receiver<ConnectionFault>,
) {
    let (up, down) = (watch::Sender::new(false), watch::Sender::new(false));
    let broken = {
        let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
        let up_pump = Pump { state: state.clone(), of: |state| state.up, closed: up.subscribe() };
        let down_pump = Pump { state, of: |state| state.down, closed: down.subscribe() };
        let both = async { tokio::try_join!(up_pump.run(near_in, far_out), down_pump.run(far_in, near_out)) };
        let mut both = std::pin::pin!(both);
        loop {
            tokio::select! {
                ended = &mut both => break ended.is_err(),
                fault = faults.recv() => match fault {
                    Ok(ConnectionFault::HalfClose(Direction::Up)) => drop(up.send(true)),
                    Ok(ConnectionFault::HalfClose(_)) => drop(down.send(true)),
                    Ok(ConnectionFault::Reset) | Err(_) => break true,
                },
            }
        }
    };
    if broken {
        // An error means that the connection has ended already.
        let _ = (near.set_zero_linger(), far.set_zero_linger());
    }
}

/// One direction of a connection.
struct Pump {
    state: watch::Receiver<ProxyState>,
    of: fn(&ProxyState) -> Flow,
    closed: watch::Receiver<bool>,
}

impl Pump {
    async fn run(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
        let mut closed = self.closed.clone();
        tokio::select! {
            ended = self.forward(&mut from, &mut to) => ended?,
            _ = closed.wait_for(|closed| *closed) => {}
        }
        to.shutdown().await
    }

    async fn forward(&mut self, from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) -> io::Result<()> {
        let mut piece = vec![0; 16 * 1024];
        loop {
            // What is held up is not even read: the sender's window fills, as it does before a partition.
            self.released().await?;
            let count = from.read(&mut piece).await?;
            if count == 0 {
                return Ok(());
            }
            self.deliver(&piece[..count], to).await?;
        }
    }

    async fn deliver(&mut self, mut piece: &[u8], to: &mut WriteHalf<'_>) -> io::Result<()> {
        if let Flow::Late(delay) = self.released().await? {
            sleep(delay).await;
        }
        while !piece.is_empty() {
            let trickles = self.released().await? == Flow::Trickle;
            let (now, later) = piece.split_at(if trickles { 1 } else { piece.len() });
            to.write_all(now).await?;
            piece = later;
            if trickles {
                sleep(Duration::from_millis(1)).await;
            }
        }
        Ok(())
    }

    /// Waits until something gets through, and says how.
    async fn released(&mut self) -> io::Result<Flow> {
        let of = self.of;
        let state = self.state.wait_for(|state| of(state) != Flow::Held).await;
        state.map(|state| of(&state)).map_err(io::Error::other)
    }
}
