//! The cause of the last failed connection, which the layers above do not report.

#[cfg(feature = "tls")]
use std::sync::{Arc, Mutex, PoisonError};

use super::ClientError;
#[cfg(feature = "tls")]
use super::TlsConnectError;

/// Shared cell with the TLS error of the last connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectErrorCell {
    /// Held for a moment when a connection begins or ends. A lock of std: the light client does not depend on `parking_lot`.
    #[cfg(feature = "tls")]
    last: Arc<Mutex<Option<TlsConnectError>>>,
}

impl ConnectErrorCell {
    /// Replaces a transport error by the TLS error that caused it, if one is known.
    #[cfg_attr(not(feature = "tls"), expect(clippy::unused_self, reason = "without TLS the cell is empty"))]
    pub(crate) fn explain(&self, error: ClientError) -> ClientError {
        #[cfg(feature = "tls")]
        if let ClientError::Connect(_) | ClientError::Transport(_) = &error
            && let Some(cause) = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
        {
            return ClientError::Tls(cause);
        }
        error
    }
}

#[cfg(feature = "tls")]
impl ConnectErrorCell {
    /// Returns the TLS error of the last connection, if there is one.
    #[cfg(feature = "server")]
    pub(crate) fn last(&self) -> Option<TlsConnectError> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets the last error, before another connection is tried.
    pub(super) fn clear(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Stores the error of the current connection, if there is one.
    pub(super) fn set(&self, error: Option<TlsConnectError>) {
        if error.is_some() {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = error;
        }
    }
}
