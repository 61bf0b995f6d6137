//! Configuration of a listener.

use std::sync::Arc;

use tonic::service::Routes;

use super::{Protocol, tls::TlsState};

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
