//! Channels to services that a registry knows.

use std::time::Duration;

#[cfg(feature = "tls")]
use super::TlsConfig;
use super::{BalancedChannel, BalancingMethod, Servers, channel::ChannelSettings};
use crate::pb::callboard::v1::Locality;

/// Maximum number of connections of a channel, unless it is set.
const DEFAULT_MAX_CONNECTIONS: usize = 100;
/// Maximum time that a call waits for the first set of instances, unless it is set.
const DEFAULT_FIRST_SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bounds of the interval between pings. hyper adds the interval to the present time, so the longest one has to fit there.
const KEEP_ALIVE_INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(24 * 365));

/// Finds services in a registry, and makes channels to them.
///
/// ```no_run
/// use callboard::client::{Discovery, Servers};
/// use callboard::pb::callboard::v1::{ListServicesRequest, discovery_service_client::DiscoveryServiceClient};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let registries: Servers = "10.0.0.1:8502,10.0.0.2:8502".parse()?;
/// let discovery = Discovery::new(registries).with_zone("eu-1", "eu-1a");
/// // Any generated client takes the channel. It is cheap to clone.
/// let mut client = DiscoveryServiceClient::new(discovery.channel("payments"));
/// client.list_services(ListServicesRequest::default()).await?;
/// # Ok(())
/// # }
/// ```
///
/// # How a channel balances
///
/// - **Instances** are those of the registry that are SERVING or SUSPECT. While no registry can be reached, the last complete
///   set is used.
/// - **Policy.** The channel follows the service's policy in the registry (method, timeout, zone, effective weights), except
///   for what [`ChannelBuilder`] sets. `round_robin`, `weighted` and `ring_hash` are
///   [`BalancingMethod::WeightedRoundRobin`]: the effective weights of the registry stand for the load that instances report,
///   and a channel knows no keys.
/// - **Connections** are opened as soon as instances are known, 16 at a time, one for each instance, up to 100. Of more
///   instances a random subset is used. A connection counts as open once the instance has answered with HTTP/2, within 3 s.
///   One that ends is replaced at once; one that cannot be opened, or that ends within a second, is tried again with jittered
///   delays up to 5 s, and its instance is not called meanwhile. After a connection that ended so early, the next one is used
///   before its first second is over only if the channel has no other.
/// - **Zone.** If the zone is preferred and has at least two instances that can be called, its part of the calls is
///   `min(1, 1.4 × callable weight ÷ registered weight)`. The rest goes to other zones of the region, or to other regions if
///   the region has none. So a zone that has lost up to two sevenths of its capacity still keeps all calls.
/// - **Retries.** A request that was not sent, because its connection closed, is sent to another instance, up to twice. A
///   request that was sent is never repeated.
/// - **Drain.** An instance that drains or is removed gets no new calls; calls in progress end as usual.
#[derive(Debug, Clone)]
pub struct Discovery {
    servers: Servers,
    locality: Locality,
    #[cfg(feature = "tls")]
    tls: Option<TlsConfig>,
}

impl Discovery {
    /// Returns a discovery over these registries. It connects when a channel is made.
    #[must_use]
    pub fn new(servers: impl Into<Servers>) -> Self {
        Self {
            servers: servers.into(),
            locality: Locality::default(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Sets the region and the zone of this program, as instances have them. Without a zone, none is preferred.
    #[must_use]
    pub fn with_zone(self, region: impl Into<String>, zone: impl Into<String>) -> Self {
        let locality = Locality { region: region.into(), zone: zone.into(), sub_zone: String::new() };
        Self { locality, ..self }
    }

    /// Uses TLS to the instances. The files are read again for each connection. The expected name in an instance's certificate
    /// is the host of its address, or [`TlsConfig::with_server_name`].
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(self, tls: TlsConfig) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Returns a channel to a service with the settings of its policy. Must be called within a tokio runtime.
    #[must_use]
    pub fn channel(&self, service: impl Into<String>) -> BalancedChannel {
        self.builder(service).open()
    }

    /// Returns a builder of a channel to a service.
    #[must_use]
    pub fn builder(&self, service: impl Into<String>) -> ChannelBuilder {
        ChannelBuilder(ChannelSettings {
            servers: self.servers.clone(),
            service: service.into(),
            subset: String::new(),
            filter: String::new(),
            address_name: None,
            locality: self.locality.clone(),
            #[cfg(feature = "tls")]
            tls: self.tls.clone(),
            method: None,
            timeout: None,
            prefer_zone: None,
            wait_for_ready: false,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            first_snapshot_timeout: DEFAULT_FIRST_SNAPSHOT_TIMEOUT,
            keep_alive: None,
        })
    }
}

/// Builder of a [`BalancedChannel`]. What it sets overrides the service's policy.
#[derive(Debug, Clone)]
pub struct ChannelBuilder(ChannelSettings);

impl ChannelBuilder {
    /// Calls only instances of this subset of the service's policy.
    #[must_use]
    pub fn subset(mut self, subset: impl Into<String>) -> Self {
        self.0.subset = subset.into();
        self
    }

    /// Calls only instances that match this filter, in Consul's filter language, as `"v2" in tags`.
    #[must_use]
    pub fn filter(mut self, filter: impl Into<String>) -> Self {
        self.0.filter = filter.into();
        self
    }

    /// Calls instances at their address with this name, instead of the primary one. Instances without it are left out.
    #[must_use]
    pub fn address_name(mut self, name: impl Into<String>) -> Self {
        self.0.address_name = Some(name.into());
        self
    }

    /// Balances by this method.
    #[must_use]
    pub fn method(mut self, method: BalancingMethod) -> Self {
        self.0.method = Some(method);
        self
    }

    /// Limits the time of each call, streams included. The caller's deadline holds if it is shorter.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.0.timeout = Some(timeout);
        self
    }

    /// Prefers instances in the zone of [`Discovery::with_zone`], or not.
    #[must_use]
    pub fn prefer_zone(mut self, prefer: bool) -> Self {
        self.0.prefer_zone = Some(prefer);
        self
    }

    /// Lets calls wait until an instance can be called, up to their deadline, instead of failing with `UNAVAILABLE`.
    #[must_use]
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.0.wait_for_ready = wait;
        self
    }

    /// Sets the maximum number of connections, at least 1; 100 unless set.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.0.max_connections = connections;
        self
    }

    /// Sets the maximum time that a call waits for the first set of instances; 5 s unless set. Without effect if calls wait for
    /// an instance anyway.
    #[must_use]
    pub fn first_snapshot_timeout(mut self, timeout: Duration) -> Self {
        self.0.first_snapshot_timeout = timeout;
        self
    }

    /// Sends an HTTP/2 ping after this time without other traffic while calls are in progress, and closes the connection
    /// without an answer within 20 s. Without pings, an instance that hangs or whose host has vanished is noticed only by the
    /// deadlines of its calls. Off unless set, because servers may reject frequent pings: gRPC's default minimum is 5 min. The
    /// interval is at least 1 s.
    #[must_use]
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.0.keep_alive = Some(interval.clamp(KEEP_ALIVE_INTERVALS.0, KEEP_ALIVE_INTERVALS.1));
        self
    }

    /// Opens the channel. Must be called within a tokio runtime. Connections are opened in the background.
    #[must_use]
    pub fn open(self) -> BalancedChannel {
        BalancedChannel::open(self.0)
    }
}
