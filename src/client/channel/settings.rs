//! Settings of a channel.

use std::time::Duration;

#[cfg(feature = "tls")]
use crate::client::TlsConfig;
use crate::{
    client::{BalancingMethod, Servers},
    pb::callboard::v1::Locality,
};

/// Settings of a channel.
#[derive(Debug, Clone)]
pub(in crate::client) struct ChannelSettings {
    pub(in crate::client) servers: Servers,
    pub(in crate::client) service: String,
    pub(in crate::client) subset: String,
    pub(in crate::client) filter: String,
    pub(in crate::client) address_name: Option<String>,
    pub(in crate::client) locality: Locality,
    #[cfg(feature = "tls")]
    pub(in crate::client) tls: Option<TlsConfig>,
    /// `None`: the policy's.
    pub(in crate::client) method: Option<BalancingMethod>,
    /// `None`: the policy's.
    pub(in crate::client) timeout: Option<Duration>,
    /// `None`: the policy's.
    pub(in crate::client) prefer_zone: Option<bool>,
    pub(in crate::client) wait_for_ready: bool,
    pub(in crate::client) max_connections: usize,
    pub(in crate::client) first_snapshot_timeout: Duration,
    pub(in crate::client) keep_alive: Option<Duration>,
}
