//! Connections to instances.

use std::{sync::Arc, time::Duration};

use http::uri::Authority;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Semaphore, mpsc::UnboundedSender},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tonic::body::Body;

#[cfg(feature = "tls")]
use crate::client::TlsConfig;
use crate::client::{Backoff, balance::CallStats};

/// Timeout of an attempt to connect, with TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of attempts to connect at the same time, of one channel.
const MAX_CONCURRENT_ATTEMPTS: usize = 16;
/// Age from which a connection that ended is replaced at once. A younger one is replaced after a delay.
const STABLE_AGE: Duration = Duration::from_secs(1);

/// Instance that the channel may connect to.
#[derive(Debug)]
pub(super) struct ConnectionTarget {
    pub(super) host: String,
    pub(super) port: u16,
    /// Authority of the requests: host and port.
    pub(super) authority: Authority,
    pub(super) stats: Arc<CallStats>,
}

/// Event of a connection.
#[derive(Debug)]
pub(super) struct ConnectionEvent {
    pub(super) target: Arc<ConnectionTarget>,
    pub(super) kind: ConnectionEventKind,
}

#[derive(Debug)]
pub(super) enum ConnectionEventKind {
    Connected(SendRequest<Body>),
    /// The connection ended; another one is opened.
    Lost,
    /// The attempt to connect failed with this error.
    Failed(String),
}

/// Opens connections.
#[derive(Debug)]
pub(super) struct Dialer {
    permits: Semaphore,
    keep_alive: Option<Duration>,
    #[cfg(feature = "tls")]
    tls: Option<TlsConfig>,
}

impl Dialer {
    pub(super) fn new(keep_alive: Option<Duration>, #[cfg(feature = "tls")] tls: Option<TlsConfig>) -> Self {
        Self {
            permits: Semaphore::new(MAX_CONCURRENT_ATTEMPTS),
            keep_alive,
            #[cfg(feature = "tls")]
            tls,
        }
    }

    /// Keeps a connection to the target until the task is aborted. Calls in progress do not end with it.
    pub(super) async fn keep_connected(
        self: Arc<Self>,
        target: Arc<ConnectionTarget>,
        events: UnboundedSender<ConnectionEvent>,
    ) {
        let mut backoff = Backoff::new();
        let send = |kind| {
            // An error means that the channel was dropped, which aborts this task.
            let _closed = events.send(ConnectionEvent { target: Arc::clone(&target), kind });
        };
        loop {
            match self.attempt(&target).await {
                Ok((sender, driver)) => {
                    let connected_at = crate::client::now();
                    send(ConnectionEventKind::Connected(sender));
                    let _end = driver.await;
                    send(ConnectionEventKind::Lost);
                    if connected_at.elapsed() >= STABLE_AGE {
                        backoff.reset();
                        continue;
                    }
                }
                Err(error) => send(ConnectionEventKind::Failed(error)),
            }
            sleep(backoff.delay(None)).await;
        }
    }

    async fn attempt(
        &self,
        target: &ConnectionTarget,
    ) -> Result<(SendRequest<Body>, JoinHandle<hyper::Result<()>>), String> {
        let _permit = self.permits.acquire().await.map_err(|error| error.to_string())?;
        let connected = timeout(CONNECT_TIMEOUT, self.connect(target)).await;
        connected
            .unwrap_or_else(|_| Err(format!("no connection within {}", humantime::format_duration(CONNECT_TIMEOUT))))
    }

    async fn connect(
        &self,
        target: &ConnectionTarget,
    ) -> Result<(SendRequest<Body>, JoinHandle<hyper::Result<()>>), String> {
        let message = |error: std::io::Error| error.to_string().to_lowercase();
        let host = target.host.trim_matches(['[', ']']);
        let socket = TcpStream::connect((host, target.port)).await.map_err(message)?;
        socket.set_nodelay(true).map_err(message)?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let name = tls.name(host).ok_or("the host cannot occur in a certificate")?;
            let config = tls.read().map_err(|error| error.to_string())?;
            let stream = tokio_rustls::TlsConnector::from(config).connect(name, socket).await.map_err(message)?;
            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                return Err("no HTTP/2 was negotiated".to_owned());
            }
            return self.handshake(stream).await;
        }
        self.handshake(socket).await
    }

    async fn handshake<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        &self,
        stream: S,
    ) -> Result<(SendRequest<Body>, JoinHandle<hyper::Result<()>>), String> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(self.keep_alive);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        Ok((sender, tokio::spawn(connection)))
    }
}
