//! Open streams: what each client was sent, and whether it accepted it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use dashmap::DashMap;
use parking_lot::Mutex;

use super::{
    error::XdsError,
    request::NodeIdentity,
    resource::ResourceType,
    session::{Session, TypeSubscription, XdsVariant},
};
use crate::{
    app::{XdsStreamStatus, XdsTypeStatus, XdsWatch},
    model::{Revision, ServiceName},
};

/// Maximum number of resources that a stream may name.
const MAX_STREAM_RESOURCES: usize = 50_000;
/// Maximum number of resources that all streams may name, so that subscriptions take some 300 MB at most.
const MAX_RESOURCES: usize = 1_000_000;
/// Number of resources that a stream may name even if the limit for all is reached.
const RESERVED_RESOURCES: usize = 16;
/// Maximum number of names of services in the status of a stream.
const MAX_LISTED_NAMES: usize = 20;

/// Open streams.
#[derive(Debug, Default)]
pub(super) struct XdsStreams {
    by_id: DashMap<u64, Arc<XdsStream>>,
    next: AtomicU64,
    /// Number of resources that all streams named.
    named: AtomicUsize,
}

/// State of an open stream. The stream itself changes it; lists of streams read it.
#[derive(Debug)]
pub(super) struct XdsStream {
    pub(super) state: Mutex<XdsStreamState>,
    /// Remote address of its connection.
    pub(super) peer: SocketAddr,
}

#[derive(Debug)]
pub(super) struct XdsStreamState {
    pub(super) node: NodeIdentity,
    pub(super) session: Session,
}

/// Entry of a stream in the list. Dropping it removes the stream.
#[derive(Debug)]
pub(super) struct XdsStreamGuard {
    streams: Arc<XdsStreams>,
    id: u64,
    /// Number of resources of the stream that are counted.
    counted: usize,
    pub(super) stream: Arc<XdsStream>,
}

impl XdsStreams {
    /// Adds a stream.
    pub(super) fn enter(self: &Arc<Self>, variant: XdsVariant, peer: SocketAddr) -> XdsStreamGuard {
        let state = XdsStreamState { node: NodeIdentity::default(), session: Session::new(variant) };
        let stream = Arc::new(XdsStream { state: Mutex::new(state), peer });
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.by_id.insert(id, Arc::clone(&stream));
        XdsStreamGuard { streams: Arc::clone(self), id, counted: 0, stream }
    }

    /// Returns all streams, the oldest first.
    pub(super) fn all(&self) -> Vec<Arc<XdsStream>> {
        let mut all: Vec<_> = self.by_id.iter().map(|entry| (*entry.key(), Arc::clone(entry.value()))).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all.into_iter().map(|(_, stream)| stream).collect()
    }
}

impl XdsStreamGuard {
    /// Counts the resources that the stream names after a request.
    ///
    /// # Errors
    ///
    /// When the stream, or all streams together, name too many.
    pub(super) fn count(&mut self, named: usize) -> Result<(), XdsError> {
        let total = &self.streams.named;
        let others = total.fetch_add(named, Ordering::Relaxed).saturating_sub(self.counted);
        total.fetch_sub(self.counted, Ordering::Relaxed);
        self.counted = named;
        if named > MAX_STREAM_RESOURCES {
            return Err(XdsError::TooManyResources(named, MAX_STREAM_RESOURCES));
        }
        if named > RESERVED_RESOURCES && others + named > MAX_RESOURCES {
            return Err(XdsError::ResourceLimit(MAX_RESOURCES));
        }
        Ok(())
    }
}

impl Drop for XdsStreamGuard {
    fn drop(&mut self) {
        self.streams.by_id.remove(&self.id);
        self.streams.named.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

impl XdsWatch for XdsStream {
    fn reads(&self, service: &ServiceName) -> bool {
        let state = self.state.lock();
        ResourceType::ALL.iter().any(|kind| state.session.subscription(*kind).status_of(service.as_str()).is_some())
    }

    fn status(&self) -> XdsStreamStatus {
        let state = self.state.lock();
        let assignments = state.session.subscription(ResourceType::Assignment).resources();
        let types = ResourceType::ALL.iter().map(|kind| (kind, state.session.subscription(*kind)));
        XdsStreamStatus {
            node_id: state.node.id.clone(),
            agent: state.node.agent(),
            is_delta: state.session.variant() == XdsVariant::Delta,
            services: assignments.take(MAX_LISTED_NAMES).map(|(name, _)| Arc::clone(name)).collect(),
            types: types
                .filter(|(_, subscription)| subscription.has_begun())
                .map(|(kind, subscription)| type_status(*kind, subscription))
                .collect(),
        }
    }
}

fn type_status(kind: ResourceType, subscription: &TypeSubscription) -> XdsTypeStatus {
    XdsTypeStatus {
        name: kind.label(),
        resources: subscription.len(),
        is_wildcard: subscription.is_wildcard(),
        sent: subscription.latest().map(|response| (Revision(response.revision), response.at)),
        accepted: subscription.accepted().map(|response| (Revision(response.revision), response.at)),
        unanswered_since: subscription.unanswered_since(),
        rejected: subscription.rejected().map(|rejected| (Arc::clone(&rejected.error), rejected.at)),
    }
}
