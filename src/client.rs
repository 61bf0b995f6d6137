//! Client of a registry.
//!
//! | type | use |
//! |---|---|
//! | [`Registration`] | registers an instance, renews its lease, reports its load, drains it |
//! | [`Discovery`] | makes channels that balance calls over the instances of a service |
//! | [`Watch`] | receives the instances of services, and every change to them |
//!
//! All survive restarts of the registry: they reconnect with jittered delays, register again when the registry has
//! forgotten the lease, and resume a watch from its last token. With several [`Servers`] they go on with the next server when
//! one fails.
//!
//! ```no_run
//! use callboard::client::{Discovery, Servers};
//! use callboard::pb::callboard::v1::discovery_service_client::DiscoveryServiceClient;
//!
//! # async fn example() -> Result<(), callboard::client::ClientError> {
//! let registries: Servers = "10.0.0.1:8502,10.0.0.2:8502".parse()?;
//! // Any generated client takes the channel.
//! let client = DiscoveryServiceClient::new(Discovery::new(&registries).channel("payments"));
//! # Ok(())
//! # }
//! ```
//!
//! A watch:
//!
//! ```no_run
//! use callboard::client::{Endpoint, Watch, WatchEvent};
//! use callboard::pb::callboard::v1::WatchRequest;
//!
//! # async fn example() -> Result<(), callboard::client::ClientError> {
//! let registry: Endpoint = "127.0.0.1:8502".parse()?;
//! let request = WatchRequest { services: vec!["web".to_owned()], ..Default::default() };
//! let mut watch = Watch::new(&registry, request);
//! loop {
//!     if let WatchEvent::Changes { changes, revision } = watch.next().await? {
//!         println!("{} changes up to revision {revision}", changes.len());
//!     }
//! }
//! # }
//! ```

mod backoff;
mod balance;
mod channel;
mod connect_error;
#[cfg(feature = "tls")]
mod connector;
mod degraded_servers;
mod discovery;
mod endpoint;
mod error;
mod heartbeat;
mod instance_set;
mod load;
mod registration;
mod registration_event;
mod registration_task;
mod servers;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_error;
mod watch;

#[cfg(test)]
#[cfg(feature = "server")]
mod fake;

pub use backoff::Backoff;
pub use balance::BalancingMethod;
#[cfg(feature = "server")]
pub(crate) use channel::PrefaceReader;
pub use channel::{BalancedChannel, CallBody, ChannelInstance, ChannelStatus, ConnectionState};
#[cfg(feature = "server")]
pub(crate) use connect_error::ConnectErrorCell;
#[cfg(feature = "server")]
pub(crate) use connector::Connector;
pub use discovery::{ChannelBuilder, Discovery};
pub use endpoint::Endpoint;
pub use error::ClientError;
pub use load::{LoadBody, LoadFuture, LoadLayer, LoadService};
pub use registration::{Registration, boot_id};
pub use registration_event::{RegistrationEnd, RegistrationEvent};
pub use servers::Servers;
pub(crate) use servers::StreamConnector;
#[cfg(feature = "tls")]
pub use tls::TlsConfig;
#[cfg(feature = "tls")]
pub use tls_error::TlsConnectError;
#[cfg(any(test, fuzzing))]
#[cfg(feature = "server")]
pub(crate) use watch::WatchReader;
pub use watch::{ResetCause, Watch, WatchEvent};

/// Returns the current time. The only place in this module that reads a clock; heartbeats and retries use tokio's
/// instants.
#[expect(clippy::disallowed_methods, reason = "the client has no caller that could pass the time")]
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
