//! State of a channel, for people and metrics.

use std::{sync::Arc, time::Duration};

use super::connection::ConnectionTarget;
use crate::{client::BalancingMethod, pb::callboard::v1::Instance};

/// State of a channel.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChannelStatus {
    /// Revision of the instances. `None`: the registry has not sent a complete set yet.
    pub revision: Option<u64>,
    /// Error of the stream to the registry, while it is broken. The instances may be out of date then.
    pub registry_error: Option<String>,
    /// Revision of the service's policy. 0: it has none, or is not known yet.
    pub policy_revision: u64,
    /// Method in use. `None`: no instances are known yet.
    pub method: Option<BalancingMethod>,
    /// Maximum time of a call. `None`: the caller's deadline only.
    pub timeout: Option<Duration>,
    /// Part of the calls that the channel's zone keeps, from 0 to 1. `None`: the zone is not preferred.
    pub local_share: Option<f64>,
}

/// Instance that a channel knows.
#[derive(Debug, Clone)]
pub struct ChannelInstance {
    /// Instance, as the registry describes it.
    pub instance: Arc<Instance>,
    /// Weight by which the channel balances, in the unit of the configured weights.
    pub weight: f64,
    /// State of the connection.
    pub connection: ConnectionState,
    /// Measurements. `None`: the channel does not connect to the instance.
    pub(super) target: Option<Arc<ConnectionTarget>>,
    /// Time since the start of the channel, for estimates.
    pub(super) now: Duration,
}

impl ChannelInstance {
    /// Returns the number of calls of this channel in progress.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.target.as_ref().map_or(0, |target| target.stats.in_flight())
    }

    /// Returns the number of calls of this channel since it knows the instance at its address.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.target.as_ref().map_or(0, |target| target.stats.started())
    }

    /// Returns the number of these calls in which the instance failed, as [`LoadLayer`](crate::client::LoadLayer) defines it.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.target.as_ref().map_or(0, |target| target.stats.failed())
    }

    /// Returns the estimated response time (peak EWMA). `None`: nothing has been measured.
    #[must_use]
    pub fn response_time(&self) -> Option<Duration> {
        self.target.as_ref()?.stats.response_time(self.now)
    }
}

/// State of the connection to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionState {
    /// The channel does not connect: the instance cannot be called now, or there are enough others.
    Unused,
    /// The connection is being opened.
    Connecting,
    /// Calls can be made.
    Connected,
    /// The last attempt failed with this error, or the last connection ended within a second. The channel tries again with
    /// growing delays.
    Failing(String),
}
