//! Connections that keep the cause of a failure.
//!
//! The layers above report that a connection was closed, but rarely why: with TLS 1.3 a server rejects a client certificate
//! only after the client has begun to speak HTTP/2. The connector therefore inspects what it reads and stores the error in a
//! [`ConnectErrorCell`].

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

use super::{TlsConnectError, connect_error::ConnectErrorCell};

/// First bytes of a TLS alert: the record type and the major version.
const TLS_ALERT: [u8; 2] = [21, 3];
/// First bytes of the registry's response to a client without TLS: an empty SETTINGS frame, which a GOAWAY with
/// `INADEQUATE_SECURITY` follows.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const GOAWAY: u8 = 7;
const INADEQUATE_SECURITY: [u8; 4] = [0, 0, 0, 0xc];

/// Connector with or without TLS.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    pub(super) http: HttpConnector,
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    pub(super) last_error: ConnectErrorCell,
}

impl Connector {
    pub(crate) fn new(tls: Option<(Arc<ClientConfig>, ServerName<'static>)>, last_error: ConnectErrorCell) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        Self { http, tls, last_error }
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
        self.last_error.clear();
        let (connecting, tls, last_error) = (self.http.call(uri), self.tls.clone(), self.last_error.clone());
        Box::pin(async move {
            let socket = connecting.await?.into_inner();
            let stream = match tls {
                None => ClientStream::Plain(socket),
                Some((config, name)) => {
                    let stream = TlsConnector::from(config).connect(name, socket).await;
                    let stream =
                        stream.inspect_err(|error| last_error.set(Some(TlsConnectError::of_handshake(error))))?;
                    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                        last_error.set(Some(TlsConnectError::NoHttp2));
                        return Err("no HTTP/2 was negotiated".into());
                    }
                    ClientStream::Tls(Box::new(stream))
                }
            };
            Ok(TokioIo::new(ObservedConnection { stream, has_read: false, last_error }))
        })
    }
}

/// Connection that stores its TLS error, found in the first bytes read or in a failed read.
#[derive(Debug)]
pub(crate) struct ObservedConnection {
    stream: ClientStream,
    has_read: bool,
    last_error: ConnectErrorCell,
}

#[derive(Debug)]
enum ClientStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Bounds that both kinds of stream meet.
trait ClientDuplex: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientDuplex for S {}

impl ObservedConnection {
    fn stream(&mut self) -> Pin<&mut dyn ClientDuplex> {
        match &mut self.stream {
            ClientStream::Plain(socket) => Pin::new(socket),
            ClientStream::Tls(stream) => Pin::new(stream),
        }
    }

    /// Checks the first bytes read without TLS for the response of a server that requires TLS.
    fn inspect_first_bytes(&mut self, first: &[u8]) {
        let requires_tls = first.starts_with(&TLS_ALERT)
            || first
                .strip_prefix(&SETTINGS)
                .is_some_and(|rest| rest.get(3) == Some(&GOAWAY) && rest.get(13..17) == Some(&INADEQUATE_SECURITY));
        if matches!(self.stream, ClientStream::Plain(_)) && requires_tls {
            self.last_error.set(Some(TlsConnectError::TlsRequired));
        }
    }

    /// Passes on the result of a write. After an error it first reads the alert with which the server closed the connection,
    /// which has arrived and which the layers above do not read any more.
    fn written<T>(&mut self, context: &mut Context<'_>, result: io::Result<T>) -> Poll<io::Result<T>> {
        if result.is_err() && matches!(self.stream, ClientStream::Tls(_)) {
            let mut bytes = [0; 256];
            // Not pending for long: a socket with an error is readable.
            if let Err(error) = ready!(self.stream().poll_read(context, &mut ReadBuf::new(&mut bytes))) {
                self.last_error.set(TlsConnectError::find(&error));
            }
        }
        Poll::Ready(result)
    }
}

impl AsyncRead for ObservedConnection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        let read = ready!(self.stream().poll_read(context, to));
        match &read {
            Ok(()) if self.has_read => {}
            Ok(()) => {
                self.has_read = true;
                self.inspect_first_bytes(&to.filled()[before..]);
            }
            Err(error) => self.last_error.set(TlsConnectError::find(error)),
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for ObservedConnection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.stream().poll_write(context, from));
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.stream().poll_write_vectored(context, from));
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            ClientStream::Plain(socket) => socket.is_write_vectored(),
            ClientStream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(self.stream().poll_flush(context));
        self.written(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }
}
