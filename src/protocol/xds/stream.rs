//! One stream: reads requests, is woken by changes, writes responses.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::{
    XdsApi,
    error::XdsError,
    frame,
    request::{NodeIdentity, ParsedRequest, XdsRequest},
    resource::ResourceType,
    session::{InterestChange, RequestOutcome, RequestedNames, SubscriptionRequest},
    source::RegistrySource,
    stream_list::XdsStreamGuard,
};
use crate::{
    app::{ReaderMemory, ServerContext, UserAgent, WatchProtocol, WatchedResource, WatcherGuard, XdsWatch},
    metrics::XdsCounters,
    model::{Selector, ServiceName},
    transport::{ChangedServices, Connection, Interest, MessageSource, NextMessage, WakeRegistration},
};

/// Time within which the first request of a stream must arrive.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// Stream of a client, in either protocol.
#[derive(Debug)]
pub(super) struct AdsStream<Q> {
    context: Arc<ServerContext>,
    requests: Streaming<Q>,
    wake: WakeRegistration,
    entry: XdsStreamGuard,
    watcher: WatcherGuard,
    max_request_bytes: usize,
    /// Time at which the stream was opened, since the start of the process. `None`: a request has arrived.
    opened: Option<Duration>,
    ended: bool,
}

impl<Q: XdsRequest> AdsStream<Q> {
    pub(super) fn new(
        api: &XdsApi,
        connection: &Arc<Connection>,
        user_agent: UserAgent,
        requests: Streaming<Q>,
    ) -> Self {
        let context = &api.context;
        let entry = api.streams.enter(Q::VARIANT, connection.peer());
        let watch = Arc::clone(&entry.stream) as Arc<dyn XdsWatch>;
        let resource = (WatchedResource::Xds(watch), None);
        let now = context.clock.now();
        Self {
            wake: context.notifier.register_for_names(connection, Interest::Nothing),
            watcher: context.watchers.enter(WatchProtocol::Xds, connection, user_agent, resource, now),
            entry,
            requests,
            max_request_bytes: api.max_request_bytes(),
            opened: Some(context.clock.since_start()),
            ended: false,
            context: Arc::clone(context),
        }
    }

    /// Takes in a request. Returns the message that answers it, if that does not depend on the session.
    fn request(&mut self, request: Q) -> Result<Option<Vec<Bytes>>, XdsError> {
        self.opened = None;
        let request = request.parse()?;
        let incarnation = self.context.engine.registry().incarnation();
        let stream = Arc::clone(&self.entry.stream);
        let mut state = stream.state.lock();
        let ParsedRequest { node, type_url, nonce, error, names, remembers } = request;
        if let Some(node) = node {
            state.node = node;
        }
        let Some(kind) = ResourceType::of_url(&type_url) else {
            let subscribed = match &names {
                RequestedNames::All(_) => &[][..],
                RequestedNames::Changes { subscribe, .. } => subscribe,
            };
            let revision = self.context.engine.registry().applied().0;
            // With a nonce, the request accepts an earlier answer.
            let answer = || frame::unknown_type(Q::VARIANT, &type_url, subscribed, (incarnation, revision));
            return Ok(nonce.is_empty().then(answer));
        };
        if remembers.is_some_and(|remembered| self.context.must_settle(ReaderMemory::Incarnation(remembered))) {
            state.session.hold(true);
            self.watcher.watcher.waiting.store(true, Ordering::Relaxed);
        }
        let now = self.context.clock.now().wall;
        let outcome = state.session.request(SubscriptionRequest { kind, nonce, error, names }, now);
        if let RequestOutcome::Rejected(error) = &outcome {
            self.report_rejection(&state.node, kind, error);
        }
        self.entry.count(state.session.named())?;
        let changes = state.session.take_interest();
        let reads_all = changes.iter().any(|change| matches!(change, InterestChange::AllServices(_)));
        for change in changes {
            self.change_interest(change);
        }
        if reads_all {
            // Changes that the previous registration was to be woken for.
            state.session.all_changed();
        }
        Ok(None)
    }

    fn counters(&self, kind: ResourceType) -> &XdsCounters {
        let metrics = &self.context.metrics.xds;
        match kind {
            ResourceType::Cluster => &metrics.cds,
            ResourceType::Assignment => &metrics.eds,
            ResourceType::Listener => &metrics.lds,
            ResourceType::Route => &metrics.rds,
        }
    }

    fn report_rejection(&self, node: &NodeIdentity, kind: ResourceType, error: &str) {
        self.counters(kind).rejections.inc();
        if let Some(number) = self.entry.count_rejection(self.context.clock.since_start()) {
            tracing::warn!(
                number,
                node = node.id,
                agent = node.agent_name,
                kind = kind.label(),
                error,
                "xDS clients rejected responses and keep the previous configuration; this is the last one"
            );
        }
    }

    fn change_interest(&mut self, change: InterestChange) {
        // A name that no service can have never changes.
        match change {
            InterestChange::Add(name) => {
                if let Ok(service) = ServiceName::parse(&name) {
                    self.wake.add(&service);
                }
            }
            InterestChange::Remove(name) => {
                if let Ok(service) = ServiceName::parse(&name) {
                    self.wake.remove(&service);
                }
            }
            InterestChange::AllServices(true) => {
                self.wake.set_interest(Interest::Changes(Arc::new(Selector::Everything)));
            }
            InterestChange::AllServices(false) => self.wake.set_interest(Interest::Nothing),
        }
    }

    fn changed(&self, changes: &ChangedServices) {
        let mut state = self.entry.stream.state.lock();
        match changes {
            ChangedServices::Named(names) => names.iter().for_each(|name| state.session.changed(name.as_str())),
            ChangedServices::All => state.session.all_changed(),
        }
    }

    /// Returns the next response, if the client is to get one.
    fn response(&self) -> Option<Vec<Bytes>> {
        let registry = self.context.engine.registry();
        let mut state = self.entry.stream.state.lock();
        if state.session.is_held() && !registry.is_settling() {
            state.session.hold(false);
            self.watcher.watcher.waiting.store(false, Ordering::Relaxed);
        }
        let now = self.context.clock.now().wall;
        let response = state.session.next_response(&RegistrySource(&self.context), now)?;
        self.counters(response.kind).responses.inc();
        self.watcher.watcher.sent.store(response.revision, Ordering::Relaxed);
        self.watcher.watcher.synced_at.store(now.0, Ordering::Relaxed);
        Some(frame::response(Q::VARIANT, &response, registry.incarnation()))
    }

    fn end(&mut self, status: Status) -> Poll<Option<NextMessage>> {
        self.ended = true;
        Poll::Ready(Some(NextMessage::End(status)))
    }
}

impl<Q: XdsRequest> MessageSource for AdsStream<Q> {
    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<NextMessage>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            if self.wake.must_end() {
                return self.end(XdsError::ShuttingDown.into());
            }
            let mut idle = true;
            match Pin::new(&mut self.requests).poll_next(context) {
                Poll::Ready(Some(Ok(request))) => match self.request(request) {
                    Ok(Some(answer)) => return Poll::Ready(Some(NextMessage::Message(answer))),
                    Ok(None) => idle = false,
                    Err(error) => return self.end(error.into()),
                },
                Poll::Ready(Some(Err(status))) => {
                    let error = XdsError::of_request(&status, self.max_request_bytes);
                    return self.end(error.map_or(status, Status::from));
                }
                Poll::Ready(None) => return self.end(Status::ok("")),
                Poll::Pending => {}
            }
            if let Poll::Ready(changes) = self.wake.poll_changes(context) {
                self.changed(&changes);
                idle = false;
            }
            if let Some(message) = self.response() {
                return Poll::Ready(Some(NextMessage::Message(message)));
            }
            if idle {
                return Poll::Pending;
            }
            let since = |opened| self.context.clock.since_start().saturating_sub(opened);
            if self.opened.is_some_and(|opened| since(opened) > FIRST_REQUEST_TIMEOUT) {
                return self.end(XdsError::NoRequest(FIRST_REQUEST_TIMEOUT).into());
            }
        }
    }
}
