//! Connections, and why they come to nothing.
//!
//! The layers above tell that a connection was closed, and seldom why: with TLS 1.3 a server refuses a client's certificate only
//! after the client has begun to speak HTTP/2. So what comes from the socket is looked at here, and kept for whoever has to
//! explain it.

use std::{
    error::Error,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::Uri;
use tower::Service;

use super::{TlsProblem, connect_error::ConnectErrorCell};

/// How an alert of TLS begins, and the major version after it.
const ALERT: [u8; 2] = [21, 3];
/// How the answer to a client without TLS begins: empty SETTINGS, then GOAWAY with `INADEQUATE_SECURITY`.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const GOAWAY: u8 = 7;
const INADEQUATE_SECURITY: [u8; 4] = [0, 0, 0, 0xc];

/// Connects, with TLS or without.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    pub(super) http: HttpConnector,
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    pub(super) trouble: ConnectErrorCell,
}

impl Connector {
    pub(super) fn new(tls: Option<(Arc<ClientConfig>, ServerName<'static>)>, trouble: ConnectErrorCell) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        Self { http, tls, trouble }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<ObservedConnection>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.trouble.clear();
        let (connecting, tls, trouble) = (self.http.call(uri), self.tls.clone(), self.trouble.clone());
        Box::pin(async move {
            let socket = connecting.await?.into_inner();
            let wire = match tls {
                None => ClientStream::Plain(socket),
                Some((config, name)) => {
                    let stream = TlsConnector::from(config).connect(name, socket).await;
                    let stream = stream.inspect_err(|error| trouble.note(Some(TlsProblem::of_handshake(error))))?;
                    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                        trouble.note(Some(TlsProblem::NoHttp2));
                        return Err("no HTTP/2 was negotiated".into());
                    }
                    ClientStream::Tls(Box::new(stream))
                }
            };
            Ok(TokioIo::new(ObservedConnection { wire, begun: false, trouble }))
        })
    }
}

/// A connection whose first words and last error are noted.
#[derive(Debug)]
pub(super) struct ObservedConnection {
    wire: ClientStream,
    begun: bool,
    trouble: ConnectErrorCell,
}

#[derive(Debug)]
enum ClientStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What is behind both kinds.
trait ClientDuplex: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientDuplex for S {}

impl ObservedConnection {
    fn wire(&mut self) -> Pin<&mut dyn ClientDuplex> {
        match &mut self.wire {
            ClientStream::Plain(socket) => Pin::new(socket),
            ClientStream::Tls(stream) => Pin::new(stream),
        }
    }

    /// Whether a peer that was spoken to without TLS wants nothing else.
    fn begins(&mut self, first: &[u8]) {
        let wants_tls = first.starts_with(&ALERT)
            || first
                .strip_prefix(&SETTINGS)
                .is_some_and(|rest| rest.get(3) == Some(&GOAWAY) && rest.get(13..17) == Some(&INADEQUATE_SECURITY));
        if matches!(self.wire, ClientStream::Plain(_)) && wants_tls {
            self.trouble.note(Some(TlsProblem::OnlyTls));
        }
    }
}

impl AsyncRead for ObservedConnection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        let read = ready!(self.wire().poll_read(context, to));
        match &read {
            Ok(()) if self.begun => {}
            Ok(()) => {
                self.begun = true;
                self.begins(&to.filled()[before..]);
            }
            Err(error) => self.trouble.note(TlsProblem::find(error)),
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for ObservedConnection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.wire().poll_write(context, from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.wire().poll_write_vectored(context, from)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            ClientStream::Plain(socket) => socket.is_write_vectored(),
            ClientStream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire().poll_shutdown(context)
    }
}
