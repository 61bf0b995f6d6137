//! Client of a registry: a registration that renews its lease, and a watch that resumes after an interruption.
//!
//! Both survive restarts of the registry: they reconnect with jittered delays, register again when the registry has
//! forgotten the lease, and resume a watch from its last token. They do not choose a replica, and do not balance calls.
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
mod registration_event;
mod registration_task;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_error;
mod watch;

#[cfg(test)]
#[cfg(feature = "server")]
mod fake;

pub use backoff::Backoff;
pub use endpoint::Endpoint;
pub use error::ClientError;
pub use registration::{Registration, boot_id};
pub use registration_event::{RegistrationEnd, RegistrationEvent};
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

/// Function that returns the channel on which the next stream is opened.
pub(crate) type Connect = Box<dyn Fn() -> tonic::transport::Channel + Send + Sync>;
