//! What lies behind a connection that came to nothing.

#[cfg(feature = "tls")]
use std::sync::{Arc, Mutex, PoisonError};

use super::ClientError;
#[cfg(feature = "tls")]
use super::TlsProblem;

/// What was last found out about a registry's connections. Its clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectErrorCell {
    /// Held for a moment, when a connection begins or ends; std's, since the light client has no other.
    #[cfg(feature = "tls")]
    last: Arc<Mutex<Option<TlsProblem>>>,
}

impl ConnectErrorCell {
    /// The same failure, with its cause where that is known.
    #[cfg_attr(not(feature = "tls"), expect(clippy::unused_self, reason = "without TLS, nothing is found out"))]
    pub(crate) fn explain(&self, error: ClientError) -> ClientError {
        #[cfg(feature = "tls")]
        if let ClientError::Transport(_) = &error
            && let Some(problem) = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
        {
            return ClientError::Tls(problem);
        }
        error
    }
}

#[cfg(feature = "tls")]
impl ConnectErrorCell {
    /// Another connection is tried.
    pub(super) fn clear(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// This is what is wrong with it, if it is known.
    pub(super) fn note(&self, problem: Option<TlsProblem>) {
        if problem.is_some() {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = problem;
        }
    }
}
