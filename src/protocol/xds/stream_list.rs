//! Open streams: what each client was sent, and whether it accepted it.

use std::{
    mem,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use parking_lot::Mutex;

use super::{
    error::XdsError,
    request::NodeIdentity,
    resource::ResourceType,
    resumption::Resumption,
    session::{Session, TypeSubscription, XdsVariant},
    source::ClientProfile,
    stream_policies::StreamPolicies,
    zone_layouts::{ZoneLayouts, ZoneSubscriptions},
};
use crate::{
    app::{XdsStreamStatus, XdsTypeStatus, XdsWatch},
    model::{Revision, ServiceName},
};

/// Maximum number of resources that a stream may name.
const MAX_STREAM_RESOURCES: usize = 50_000;
/// Maximum number of resources that all streams may name, so that subscriptions take some 300 MB at most.
const MAX_RESOURCES: usize = 1_000_000;
/// Interval between two log lines about rejected responses.
const REJECTION_LOG_INTERVAL: Duration = Duration::from_secs(10);
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
    rejections: Mutex<RejectionLog>,
}

/// Rejections of responses, as far as they were logged.
#[derive(Debug, Default)]
struct RejectionLog {
    /// Time of the last one that was logged, since the start of the process.
    logged_at: Option<Duration>,
    /// Number of later ones.
    unlogged: u64,
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
    /// Form of resources that the client gets.
    pub(super) client: ClientProfile,
    pub(super) session: Session,
    /// Assignments that the client subscribes to, counted under its zone.
    pub(super) zones: ZoneSubscriptions,
    /// Policies as the client gets them.
    pub(super) policies: StreamPolicies,
    /// Routes and clusters that the client has from an earlier stream, until its requests have told them. Responses wait meanwhile.
    pub(super) resumption: Option<Resumption>,
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
    pub(super) fn enter(
        self: &Arc<Self>,
        variant: XdsVariant,
        peer: SocketAddr,
        zone_layouts: &Arc<ZoneLayouts>,
    ) -> XdsStreamGuard {
        let state = XdsStreamState {
            node: NodeIdentity::default(),
            client: ClientProfile::default(),
            session: Session::new(variant),
            zones: ZoneSubscriptions::new(zone_layouts),
            policies: StreamPolicies::default(),
            resumption: None,
        };
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

impl XdsStreamGuard {
    /// Counts a response that a client rejected. Returns the number of rejections on all streams since the last one that was logged, if
    /// this one is to be logged: at most one in 10 seconds, so that clients cannot fill the log.
    pub(super) fn count_rejection(&self, since_start: Duration) -> Option<u64> {
        let mut log = self.streams.rejections.lock();
        log.unlogged += 1;
        if log.logged_at.is_some_and(|last| since_start.saturating_sub(last) < REJECTION_LOG_INTERVAL) {
            return None;
        }
        log.logged_at = Some(since_start);
        Some(mem::take(&mut log.unlogged))
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
        self.state.lock().session.includes_service(service.as_str())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejections_of_all_streams_are_logged_once_in_ten_seconds_with_their_number() {
        let streams = Arc::<XdsStreams>::default();
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let entries = [1, 2].map(|_| streams.enter(XdsVariant::Delta, peer, &Arc::default()));
        let logged = |second| entries.iter().map(|entry| entry.count_rejection(Duration::from_secs(second))).collect();
        let lines: [Vec<_>; 3] = [0, 9, 10].map(logged);
        assert_eq!(lines, [vec![Some(1), None], vec![None, None], vec![Some(4), None]]);
    }

    #[test]
    fn limit_of_all_streams_leaves_each_stream_some_resources() {
        let streams = Arc::<XdsStreams>::default();
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut entries: Vec<_> = (0..=20).map(|_| streams.enter(XdsVariant::Delta, peer, &Arc::default())).collect();
        let (last, others) = entries.split_last_mut().unwrap();
        assert!(others.iter_mut().all(|entry| entry.count(MAX_STREAM_RESOURCES).is_ok()));
        assert!(last.count(RESERVED_RESOURCES).is_ok());
        assert!(matches!(last.count(RESERVED_RESOURCES + 1), Err(XdsError::ResourceLimit(_))));
        assert!(matches!(last.count(MAX_STREAM_RESOURCES + 1), Err(XdsError::TooManyResources(..))));
        entries.pop();
        entries.pop();
        assert!(
            streams.enter(XdsVariant::Delta, peer, &Arc::default()).count(MAX_STREAM_RESOURCES).is_ok(),
            "streams have ended"
        );
    }
}
