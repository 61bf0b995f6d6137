//! Signals of an ordered shutdown.

use tokio_util::sync::{CancellationToken, DropGuard};

/// Signals that parts of the server wait for. Dropping it sends all of them, so that a server that is dropped leaves no thread behind.
#[derive(Debug)]
pub(super) struct ShutdownSignals {
    listeners: DropGuard,
    connections: DropGuard,
}

impl ShutdownSignals {
    pub(super) fn new() -> Self {
        let signal = || CancellationToken::new().drop_guard();
        Self { listeners: signal(), connections: signal() }
    }

    /// Signal on which the listeners of TCP and UDP close.
    pub(super) fn listeners(&self) -> CancellationToken {
        self.listeners.token().clone()
    }

    /// Signal on which connections close.
    pub(super) fn connections(&self) -> CancellationToken {
        self.connections.token().clone()
    }

    pub(super) fn close_listeners(&self) {
        self.listeners.token().cancel();
    }

    pub(super) fn close_connections(&self) {
        self.connections.token().cancel();
    }
}
