//! Connections that calls can use at a moment.

use std::{sync::Arc, time::Duration};

use hyper::client::conn::http2::SendRequest;
use tonic::body::Body;

use super::{
    connection::ConnectionTarget,
    status::{ChannelInstance, ChannelStatus},
};
use crate::client::balance::{BalancingMethod, Picker, RandomSequence};

/// Connections that calls can use, and the reason if there are none. It is replaced as a whole.
#[derive(Debug)]
pub(super) struct CallTable {
    pub(super) picker: Picker,
    /// Connections in the order of the picker's candidates.
    pub(super) connections: Vec<UsableConnection>,
    pub(super) availability: ChannelAvailability,
    /// Maximum time of a call.
    pub(super) timeout: Option<Duration>,
    pub(super) status: ChannelStatus,
    /// All instances that the channel knows.
    pub(super) instances: Vec<ChannelInstance>,
}

/// Connection that calls can use.
#[derive(Debug, Clone)]
pub(super) struct UsableConnection {
    /// Number of the connection, which no other connection of the channel has.
    pub(super) number: u64,
    pub(super) target: Arc<ConnectionTarget>,
    pub(super) sender: SendRequest<Body>,
}

/// Reason for which calls may have to wait, or fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ChannelAvailability {
    /// The registry has not sent a complete set of instances yet; with the error of the last attempt to reach it.
    Unknown(Option<String>),
    /// There are connections, or they are being opened.
    Available,
    /// No instance can be called, for this reason.
    Unavailable(String),
}

impl CallTable {
    /// Returns the table of a channel that knows no instances yet.
    pub(super) fn empty(random: &RandomSequence) -> Self {
        Self {
            picker: Picker::new(BalancingMethod::RoundRobin, &[], None, random),
            connections: Vec::new(),
            availability: ChannelAvailability::Unknown(None),
            timeout: None,
            status: ChannelStatus::default(),
            instances: Vec::new(),
        }
    }

    /// Returns the connection for the next call, other than those that were tried.
    pub(super) fn pick(&self, now: Duration, random: &RandomSequence, tried: &[u64]) -> Option<UsableConnection> {
        let usable = |at: usize| {
            let connection = &self.connections[at];
            !connection.sender.is_closed() && !tried.contains(&connection.number)
        };
        self.picker.pick(now, random, usable).map(|at| self.connections[at].clone())
    }
}
