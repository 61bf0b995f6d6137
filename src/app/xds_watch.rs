//! xDS streams as the list of watchers shows them.

use std::{fmt, sync::Arc};

use crate::model::{Revision, ServiceName, UnixMillis};

/// Open xDS stream.
pub trait XdsWatch: fmt::Debug + Send + Sync {
    /// Returns whether the stream subscribes to a resource of this service.
    fn reads(&self, service: &ServiceName) -> bool;
    /// Returns the present state of the stream.
    fn status(&self) -> XdsStreamStatus;
}

/// State of an xDS stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XdsStreamStatus {
    /// Id that the client gives itself.
    pub node_id: String,
    /// Library of the client and its version: `gRPC Go 1.85.0`.
    pub agent: String,
    /// Set for the delta protocol.
    pub is_delta: bool,
    /// First 20 names of the services whose endpoints the client subscribes to.
    pub services: Vec<Arc<str>>,
    /// Types that the client has asked for.
    pub types: Vec<XdsTypeStatus>,
}

/// State of the subscription to a type of resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XdsTypeStatus {
    /// Name of the type: `EDS`.
    pub name: &'static str,
    /// Number of subscribed resources.
    pub resources: usize,
    /// Set if the client subscribes to all resources.
    pub is_wildcard: bool,
    /// Revision of the registry in the latest response, and the time at which it was sent.
    pub sent: Option<(Revision, UnixMillis)>,
    /// Revision and time of the latest response that the client accepted.
    pub accepted: Option<(Revision, UnixMillis)>,
    /// Time since which the client has not answered a response.
    pub unanswered_since: Option<UnixMillis>,
    /// Text and time of the latest rejection, until the client has accepted each of the rejected resources.
    pub rejected: Option<(Arc<str>, UnixMillis)>,
}
