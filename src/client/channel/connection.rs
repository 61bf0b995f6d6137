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

use super::server_preface::PrefaceReader;
#[cfg(feature = "tls")]
use crate::client::TlsConfig;
use crate::client::{Backoff, balance::CallStats};

/// Timeout of an attempt to connect, with TLS and the SETTINGS of the server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of attempts to connect at the same time, of one channel.
const MAX_CONCURRENT_ATTEMPTS: usize = 16;
/// Age from which a connection is stable. One that ends then is replaced at once; one that ends earlier is a failure, so that
/// an instance whose connections come and go is neither preferred nor waited for.
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
    Connected {
        sender: SendRequest<Body>,
        /// True if the connection before was not stable, so that this one may end at once, too.
        is_unstable: bool,
    },
    /// The unstable connection has become stable.
    Stable,
    /// The stable connection ended; another one is opened.
    Lost,
    /// The attempt to connect failed with this error, or the connection ended before it was stable.
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
        let mut is_unstable = false;
        let send = |kind| {
            // An error means that the channel was dropped, which aborts this task.
            let _closed = events.send(ConnectionEvent { target: Arc::clone(&target), kind });
        };
        loop {
            match self.attempt(&target).await {
                Ok((sender, mut driver)) => {
                    let connected_at = crate::client::now();
                    send(ConnectionEventKind::Connected { sender, is_unstable });
                    if timeout(STABLE_AGE, &mut driver).await.is_err() {
                        backoff.reset();
                        if std::mem::take(&mut is_unstable) {
                            send(ConnectionEventKind::Stable);
                        }
                        let _end = driver.await;
                        send(ConnectionEventKind::Lost);
                        continue;
                    }
                    is_unstable = true;
                    let age = connected_at.elapsed().as_millis();
                    send(ConnectionEventKind::Failed(format!("the connection ended {age} ms after it was opened")));
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
        let timeout = humantime::format_duration(CONNECT_TIMEOUT);
        connected.unwrap_or_else(|_| Err(format!("no HTTP/2 connection within {timeout}")))
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
        let (stream, settings) = PrefaceReader::new(stream);
        let handshake = builder.handshake(TokioIo::new(stream)).await;
        let (sender, mut connection) = handshake.map_err(|error| error.to_string())?;
        let is_http2 = tokio::select! {
            received = settings => received.is_ok(),
            _ended = &mut connection => false,
        };
        if !is_http2 {
            return Err("the connection ended before the instance answered with HTTP/2".to_owned());
        }
        Ok((sender, tokio::spawn(connection)))
    }
}
