//! The client side of the contract: a registration that keeps itself alive, and a watch that keeps its place.
//!
//! Both outlive the registry they talk to: they reconnect with jittered delays, register again when the registry has
//! forgotten them, and resume a watch from its last token. What they do not do is choose a replica or balance calls.
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
mod connect_error;
#[cfg(feature = "tls")]
mod connector;
mod endpoint;
mod error;
mod heartbeat;
mod registration;
mod registration_task;
#[cfg(feature = "tls")]
mod tls;
mod watch;

#[cfg(test)]
#[cfg(feature = "server")]
mod fake;

pub use backoff::Backoff;
pub use endpoint::Endpoint;
pub use error::ClientError;
pub use registration::{Registration, RegistrationEnd, RegistrationEvent, boot_id};
#[cfg(feature = "tls")]
pub use tls::{TlsConfig, TlsProblem};
#[cfg(any(test, fuzzing))]
#[cfg(feature = "server")]
pub(crate) use watch::WatchReader;
pub use watch::{ResetCause, Watch, WatchEvent};

/// The one place in here that reads a clock: heartbeats and retries are due at tokio's instants.
#[expect(clippy::disallowed_methods, reason = "the client's edge")]
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// Opens a connection of its own whenever a stream has to be opened anew.
pub(crate) type Connect = Box<dyn Fn() -> tonic::transport::Channel + Send + Sync>;
