//! Protocols of listeners.

/// Protocol that the peers of a listener speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 with prior knowledge, as gRPC uses it.
    Http2,
    /// HTTP/1.1.
    Http1,
}
