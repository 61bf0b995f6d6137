//! What is served on an address.

use std::sync::Arc;

use tonic::service::Routes;

use super::tls::TlsState;

/// How a port's peers speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 from the first byte on, as gRPC has it.
    Http2,
    /// HTTP/1.1.
    Http1,
}

/// What is served on an address, and how.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// As logs and metrics name it.
    pub name: &'static str,
    /// How its peers speak.
    pub protocol: Protocol,
    /// What is spoken below that. `None`: TCP alone.
    pub tls: Option<Arc<TlsState>>,
    /// What is served.
    pub routes: Routes,
}
