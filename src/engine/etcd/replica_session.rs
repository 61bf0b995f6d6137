//! Sessions of replicas.

use std::fmt;

use prost::Message;

use crate::{engine::record::DecodeError, model::UnixMillis};

/// Random id of a session, in its key. The revision of etcd at which the key was created is the epoch of the session, which stands for
/// it everywhere else ([`SessionEpoch`](crate::registry::SessionEpoch)).
///
/// It is not the name of the replica: a replica that is killed and started again need not wait until its former session expires, and
/// two replicas with one name do not end each other's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl SessionId {
    /// Parses the form in which the id is displayed. Returns `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let session = u64::from_str_radix(text, 16).ok().map(Self)?;
        (session.to_string() == text).then_some(session)
    }
}

impl fmt::Display for SessionId {
    /// Writes 16 hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Running replica, as its session describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaSession {
    /// Name of the replica.
    pub replica: Box<str>,
    /// Version of its program.
    pub version: Box<str>,
    /// Time at which the program started.
    pub started_at: UnixMillis,
    /// Address on which the native API listens, for display: `0.0.0.0:8502`.
    pub grpc_listener: Box<str>,
    /// Address at which others reach the native API: `10.0.0.1:8502`.
    pub grpc_address: Box<str>,
    /// Address on which HTTP is served, for display. `None`: it is not served.
    pub http_listener: Option<Box<str>>,
}

// Field numbers never change.

#[derive(Clone, PartialEq, Message)]
struct SessionMessage {
    #[prost(string, tag = "1")]
    replica: String,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(uint64, tag = "3")]
    started_at_ms: u64,
    #[prost(string, tag = "4")]
    grpc_listener: String,
    #[prost(string, tag = "5")]
    grpc_address: String,
    #[prost(string, optional, tag = "6")]
    http_listener: Option<String>,
}

impl ReplicaSession {
    /// Encodes the session.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let message = SessionMessage {
            replica: self.replica.to_string(),
            version: self.version.to_string(),
            started_at_ms: self.started_at.0,
            grpc_listener: self.grpc_listener.to_string(),
            grpc_address: self.grpc_address.to_string(),
            http_listener: self.http_listener.as_deref().map(str::to_owned),
        };
        message.encode_to_vec()
    }

    /// Decodes a session.
    ///
    /// # Errors
    ///
    /// When the bytes are not a message of a session.
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let message = SessionMessage::decode(value).map_err(|_| DecodeError::Message)?;
        Ok(Self {
            replica: message.replica.into(),
            version: message.version.into(),
            started_at: UnixMillis(message.started_at_ms),
            grpc_listener: message.grpc_listener.into(),
            grpc_address: message.grpc_address.into(),
            http_listener: message.http_listener.map(Into::into),
        })
    }
}
