//! Configuration of a listener.

use std::sync::Arc;

use tonic::service::Routes;

use super::tls::TlsState;

/// Protocol that the peers of a listener speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 with prior knowledge, as gRPC uses it.
    Http2,
    /// HTTP/1.1.
    Http1,
}

/// Protocol, TLS and routes of a listener.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// Name in logs and metrics.
    pub name: &'static str,
    /// Protocol that its peers speak.
    pub protocol: Protocol,
    /// Certificates. `None`: plaintext.
    pub tls: Option<Arc<TlsState>>,
    /// Routes that are served.
    pub routes: Routes,
}
