//! Servers that misbehave, byte by byte.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use callboard::pb::callboard::v1::RegisterRequest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use crate::harness::{TestServer, address, instance, seconds};

/// Time after which a connection ends.
const LIFE: Duration = Duration::from_millis(30);
/// Empty SETTINGS.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
/// GOAWAY with `NO_ERROR` that names no stream as processed.
const GOAWAY: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// Type of a HEADERS frame.
const HEADERS: u8 = 1;

/// Kind of misbehaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server accepts connections and sends nothing.
    Silent,
    /// It closes each connection soon after the handshake.
    Flapping,
    /// It ends its half of each connection soon after the handshake.
    HalfClosing,
    /// It answers the first request with a GOAWAY.
    GoingAway,
}

/// Server with a fault. Dropping it ends it.
#[derive(Debug)]
pub struct FaultyServer {
    pub address: SocketAddr,
    connections: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Drop for FaultyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FaultyServer {
    pub async fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<AtomicU64>::default();
        let accepted = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Ordering::Relaxed);
                // The peer may close first.
                open.spawn(async move { drop(misbehave(fault, socket).await) });
            }
        });
        Self { address, connections, task: task.abort_handle() }
    }

    /// Starts a server and registers it as an instance of the service `echo`.
    pub async fn register(registry: &TestServer, id: &str, fault: Fault) -> Self {
        let server = Self::start(fault).await;
        let addresses = vec![address(&server.address.ip().to_string(), server.address.port().into())];
        let request = RegisterRequest { addresses, ttl: seconds(3_600.0), ..instance("echo", id) };
        registry.client().await.register(request).await.unwrap();
        server
    }

    /// Returns the number of connections that were accepted.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn misbehave(fault: Fault, mut socket: TcpStream) -> std::io::Result<()> {
    match fault {
        Fault::Silent => read_to_end(&mut socket).await,
        Fault::Flapping => {
            socket.write_all(SETTINGS).await?;
            sleep(LIFE).await;
            Ok(())
        }
        Fault::HalfClosing => {
            socket.write_all(SETTINGS).await?;
            sleep(LIFE).await;
            socket.shutdown().await?;
            read_to_end(&mut socket).await
        }
        Fault::GoingAway => {
            socket.write_all(SETTINGS).await?;
            let mut preface = [0; 24];
            socket.read_exact(&mut preface).await?;
            loop {
                let mut header = [0; 9];
                socket.read_exact(&mut header).await?;
                let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
                let mut payload = vec![0; length.try_into().unwrap()];
                socket.read_exact(&mut payload).await?;
                if header[3] == HEADERS {
                    socket.write_all(GOAWAY).await?;
                    return read_to_end(&mut socket).await;
                }
            }
        }
    }
}

async fn read_to_end(socket: &mut TcpStream) -> std::io::Result<()> {
    while socket.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}
