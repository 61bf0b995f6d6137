//! One stream: reads requests, is woken by changes, writes responses.

mod policy_changes;
mod resumption;

use std::{
    mem,
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
    client_family::ClientLibrary,
    error::XdsError,
    frame,
    request::{NodeIdentity, ParsedRequest, XdsRequest},
    resource::ResourceType,
    resumption::Resumption,
    session::{InterestChange, RequestOutcome, RequestedNames, Session, SubscriptionRequest},
    source::{ClientProfile, RegistrySource},
    stream_list::{XdsStreamGuard, XdsStreamState},
    stream_wake::StreamWake,
};
use crate::{
    app::{ReaderMemory, UserAgent, WatchProtocol, WatchedResource, WatcherGuard, XdsWatch},
    metrics::XdsCounters,
    model::{Incarnation, ServiceName, topic_of_policies},
    transport::{ChangedServices, Connection, MessageSource, NextMessage},
};
use policy_changes::mark;

/// Time within which the first request of a stream must arrive.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// Number of services beyond which a stream forgets the policies of those that it no longer subscribes to.
const MIN_FORGOTTEN_POLICIES: usize = 64;

/// Stream of a client, in either protocol.
#[derive(Debug)]
pub(super) struct AdsStream<Q> {
    api: Arc<XdsApi>,
    requests: Streaming<Q>,
    wake: StreamWake,
    entry: XdsStreamGuard,
    watcher: WatcherGuard,
    /// Time at which the stream was opened, since the start of the process. `None`: a request has arrived.
    opened: Option<Duration>,
    /// Neither was a response sent, nor has a request told that the client continues an earlier stream.
    may_resume: bool,
    /// Incarnation of the registry that the client was last sent resources of.
    incarnation: Incarnation,
    ended: bool,
}

impl<Q: XdsRequest> AdsStream<Q> {
    pub(super) fn new(
        api: &Arc<XdsApi>,
        connection: &Arc<Connection>,
        user_agent: UserAgent,
        requests: Streaming<Q>,
    ) -> Self {
        let context = &api.context;
        let entry = api.streams.enter(Q::VARIANT, connection.peer(), &api.zone_layouts);
        let watch = Arc::clone(&entry.stream) as Arc<dyn XdsWatch>;
        let resource = (WatchedResource::Xds(watch), None);
        let now = context.clock.now();
        Self {
            wake: StreamWake::new(context, connection),
            watcher: context.watchers.enter(WatchProtocol::Xds, connection, user_agent, resource, now),
            entry,
            requests,
            opened: Some(context.clock.since_start()),
            may_resume: true,
            incarnation: context.engine.registry().incarnation(),
            ended: false,
            api: Arc::clone(api),
        }
    }

    /// Takes in a request. Returns the message that answers it, if that does not depend on the session.
    fn request(&mut self, request: Q) -> Result<Option<Vec<Bytes>>, XdsError> {
        self.opened = None;
        let request = request.parse()?;
        let incarnation = self.api.context.engine.registry().incarnation();
        let stream = Arc::clone(&self.entry.stream);
        let mut state = stream.state.lock();
        let ParsedRequest { node, type_url, nonce, error, names, remembers, accepted_revision } = request;
        if let Some(node) = node {
            state.client = ClientProfile::of(&node);
            match state.client.family.library() {
                ClientLibrary::Tonic => state.policies.keep_clusters(),
                ClientLibrary::Node => state.session.pace_weights(),
                ClientLibrary::Core
                | ClientLibrary::Php
                | ClientLibrary::Java
                | ClientLibrary::Go
                | ClientLibrary::Envoy
                | ClientLibrary::Unknown => {}
            }
            let client = state.client.zoned();
            state.zones.set_client(client);
            state.node = node;
        }
        let Some(kind) = ResourceType::of_url(&type_url) else {
            let subscribed = match &names {
                RequestedNames::All(_) => &[][..],
                RequestedNames::Changes { subscribe, .. } => subscribe,
            };
            let revision = self.api.context.engine.registry().applied().0;
            // With a nonce, the request accepts an earlier answer.
            let answer = || frame::unknown_type(Q::VARIANT, &type_url, subscribed, (incarnation, revision));
            return Ok(nonce.is_empty().then(answer));
        };
        if remembers.is_some_and(|remembered| self.api.context.must_settle(ReaderMemory::Incarnation(remembered))) {
            state.session.hold(true);
            self.watcher.watcher.waiting.store(true, Ordering::Relaxed);
        }
        if remembers.is_some() && mem::take(&mut self.may_resume) {
            state.resumption = Some(Resumption::new(self.api.context.clock.since_start()));
        }
        if let Some(resumption) = &mut state.resumption {
            resumption.add(kind, &names, accepted_revision.filter(|_| remembers == Some(incarnation)));
        }
        let now = self.api.context.clock.now().wall;
        let outcome = state.session.request(SubscriptionRequest { kind, nonce, error, names }, now);
        if let RequestOutcome::Rejected(error) = &outcome {
            self.report_rejection(&state.node, kind, error);
        }
        self.entry.count(state.session.named())?;
        self.change_interest(&mut state);
        let XdsStreamState { policies, session, .. } = &mut *state;
        if policies.len() > 2 * session.len() + MIN_FORGOTTEN_POLICIES {
            policies.forget_unsubscribed(session);
        }
        if !self.resume(&mut state) {
            self.advance(&mut state);
        }
        Ok(None)
    }

    fn counters(&self, kind: ResourceType) -> &XdsCounters {
        let metrics = &self.api.context.metrics.xds;
        match kind {
            ResourceType::Cluster => &metrics.cds,
            ResourceType::Assignment => &metrics.eds,
            ResourceType::Listener => &metrics.lds,
            ResourceType::Route => &metrics.rds,
        }
    }

    fn report_rejection(&self, node: &NodeIdentity, kind: ResourceType, error: &str) {
        self.counters(kind).rejections.inc();
        if let Some(number) = self.entry.count_rejection(self.api.context.clock.since_start()) {
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

    /// Has the stream woken by what the client subscribes to now.
    fn change_interest(&mut self, state: &mut XdsStreamState) {
        let mut reads_all = false;
        for change in state.session.take_interest() {
            reads_all |= matches!(change, InterestChange::AllServices(_));
            if let Some(service) = self.wake.change(&change) {
                self.read_fallbacks(state, &service);
            }
            match &change {
                InterestChange::Add(name) => state.zones.add(name),
                InterestChange::Remove(name) => {
                    state.zones.remove(name);
                    state.policies.unsubscribed(name, &state.session);
                }
                InterestChange::AllServices(_) => {}
            }
        }
        if reads_all {
            // Changes that the previous registration was to be woken for.
            state.session.all_changed();
        }
    }

    /// Takes in what has changed.
    fn changed(&mut self, changes: &ChangedServices) {
        let stream = Arc::clone(&self.entry.stream);
        let mut state = stream.state.lock();
        match changes {
            ChangedServices::Named(names) => {
                for name in names.iter() {
                    // Policies are compared by their revision.
                    if *name != topic_of_policies() {
                        self.service_changed(&mut state, name);
                    }
                }
            }
            ChangedServices::All => state.session.all_changed(),
        }
    }

    fn service_changed(&self, state: &mut XdsStreamState, service: &ServiceName) {
        mark(state, service, &self.api.context, Session::changed);
        for dependent in self.wake.interest().dependents_of(service) {
            mark(state, dependent, &self.api.context, Session::changed);
        }
    }

    /// Returns the next response, if the client is to get one.
    fn response(&mut self) -> Option<Vec<Bytes>> {
        let stream = Arc::clone(&self.entry.stream);
        let mut guard = stream.state.lock();
        let state = &mut *guard;
        let registry = self.api.context.engine.registry();
        let incarnation = registry.incarnation();
        if mem::replace(&mut self.incarnation, incarnation) != incarnation {
            // The client keeps what it has until the registry has settled.
            state.session.hold(registry.is_settling());
            state.session.all_changed();
            self.watcher.watcher.waiting.store(registry.is_settling(), Ordering::Relaxed);
        }
        if self.resume(state) {
            return None;
        }
        let registry = self.api.context.engine.registry();
        if state.session.is_held() && !registry.is_settling() {
            state.session.hold(false);
            self.watcher.watcher.waiting.store(false, Ordering::Relaxed);
        }
        state.session.release_weights(self.api.context.clock.since_start());
        let now = self.api.context.clock.now().wall;
        let source = RegistrySource::new(&self.api, &state.client, &mut state.policies);
        let response = state.session.next_response(&source, now)?;
        self.may_resume = false;
        self.counters(response.kind).responses.inc();
        self.watcher.watcher.sent.store(response.revision, Ordering::Relaxed);
        self.watcher.watcher.synced_at.store(now.0, Ordering::Relaxed);
        Some(frame::response(Q::VARIANT, &response, incarnation))
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
            // Before requests and changes, so that no resource is made by a policy whose change was not taken in.
            self.take_policies();
            match Pin::new(&mut self.requests).poll_next(context) {
                Poll::Ready(Some(Ok(request))) => match self.request(request) {
                    Ok(Some(answer)) => return Poll::Ready(Some(NextMessage::Message(answer))),
                    Ok(None) => idle = false,
                    Err(error) => return self.end(error.into()),
                },
                Poll::Ready(Some(Err(status))) => {
                    let error = XdsError::of_request(&status, self.api.max_request_bytes());
                    return self.end(error.map_or(status, Status::from));
                }
                Poll::Ready(None) => return self.end(Status::ok("")),
                Poll::Pending => {}
            }
            if let Poll::Ready(changes) = self.wake.poll_changes(context) {
                self.changed(&changes);
                idle = false;
            }
            idle &= self.wake.poll_timer(context).is_pending();
            if let Some(message) = self.response() {
                return Poll::Ready(Some(NextMessage::Message(message)));
            }
            // A resource that turned out to be unchanged is not sent, so the client has it already.
            let stream = Arc::clone(&self.entry.stream);
            idle &= !self.advance(&mut stream.state.lock());
            if idle {
                return Poll::Pending;
            }
            let since = |opened| self.api.context.clock.since_start().saturating_sub(opened);
            if self.opened.is_some_and(|opened| since(opened) > FIRST_REQUEST_TIMEOUT) {
                return self.end(XdsError::NoRequest(FIRST_REQUEST_TIMEOUT).into());
            }
        }
    }
}
