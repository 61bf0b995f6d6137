//! `AdminService`: watchers, events, self-preservation, check results, policies, exports.

use std::sync::{Arc, atomic::Ordering};

use prost::Message;
use tonic::{Request, Response, Status};

use super::{
    ApiError, GrpcApi, check, connection, decode, discovery::page_length, encode, export::ExportStream,
    self_preservation, time,
};
use crate::{
    app::{
        PAGE_BYTES, QueryRate, WatchProtocol, WatchedResource, Watcher, Watchers, XdsStreamStatus, XdsTypeStatus,
        page_size,
    },
    model::{CallerProtocol, InstanceId, Revision, Selector, ServiceName, UnixMillis},
    pb::{callboard::v1 as pb, server::admin_service_server::AdminService},
    registry::{ClockReading, CommandError, Registry},
};

/// Default number of events of a page.
const DEFAULT_EVENTS: u32 = 100;
/// Default number of watchers of a page.
const DEFAULT_WATCHERS: u32 = 1_000;
/// Default number of services in self-preservation of a page.
const DEFAULT_SERVICES: u32 = 1_000;

#[tonic::async_trait]
impl AdminService for GrpcApi {
    async fn list_watchers(
        &self,
        request: Request<pb::ListWatchersRequest>,
    ) -> Result<Response<pb::ListWatchersResponse>, Status> {
        let message = request.get_ref();
        let service = optional_service(&message.service)?;
        let after = decode::page_after(&message.page_token, |token| token.parse().ok())?;
        let size = page_size(message.page_size, DEFAULT_WATCHERS);
        let wanted = |watcher: &Watcher| match &service {
            Some(service) => watcher.reads(service),
            None => true,
        };
        let watchers = &self.context.watchers;
        let page = watchers.page(after.unwrap_or(0), size + 1, wanted);
        let (registry, now) = (self.context.engine.registry(), self.context.clock.now());
        let mut bytes = 0;
        let mut answer = pb::ListWatchersResponse {
            revision: registry.applied().0,
            replica: self.context.replica.clone(),
            ..Default::default()
        };
        if after.is_none() {
            answer.query_rates = query_rates(watchers, now);
        }
        for (at, (id, watcher)) in page.iter().take(size).enumerate() {
            let shown = self::watcher(*id, watcher, registry, now);
            bytes += shown.encoded_len();
            answer.watchers.push(shown);
            if (bytes >= PAGE_BYTES || at + 1 == size) && at + 1 < page.len() {
                answer.next_page_token = id.to_string();
                break;
            }
        }
        Ok(Response::new(answer))
    }

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        let message = request.get_ref();
        let service = optional_service(&message.service)?;
        let before = decode::events_before(&message.page_token)?;
        let size = page_size(message.page_size, DEFAULT_EVENTS);
        let registry = self.context.engine.registry();
        let mut events = registry.events(service.as_ref(), before, size + 1);
        let found = events.len();
        events.truncate(size);
        let mut encoded: Vec<_> = events.iter().map(|event| encode::event(event, &*self.context.engine)).collect();
        encoded.truncate(page_length(encoded.iter().map(Message::encoded_len)));
        let last = encoded.len().checked_sub(1).filter(|_| encoded.len() < found).map(|last| events[last].revision);
        let next_page_token = last.map(|revision| revision.to_string()).unwrap_or_default();
        Ok(Response::new(pb::ListEventsResponse {
            events: encoded,
            next_page_token,
            replica: self.context.replica.clone(),
            incarnation: registry.incarnation().0,
        }))
    }

    async fn list_self_preservation(
        &self,
        request: Request<pb::ListSelfPreservationRequest>,
    ) -> Result<Response<pb::ListSelfPreservationResponse>, Status> {
        let message = request.get_ref();
        let after = decode::services_after(&message.page_token)?;
        let size = page_size(message.page_size, DEFAULT_SERVICES);
        let (registry, now) = (self.context.engine.registry(), self.context.clock.now());
        let mut page = registry.preserved_services(after.as_ref().map_or("", ServiceName::as_str), size + 1, now.lease);
        let more = page.len() > size;
        page.truncate(size);
        let last = page.last().and_then(|last| last.service.as_ref()).filter(|_| more);
        Ok(Response::new(pb::ListSelfPreservationResponse {
            next_page_token: last.map(ToString::to_string).unwrap_or_default(),
            services: page.iter().map(|of| self_preservation::state(of, now)).collect(),
            registry: Some(self_preservation::state(&registry.self_preservation(now.lease).0, now)),
            replica: self.context.replica.clone(),
        }))
    }

    async fn get_self_preservation(
        &self,
        request: Request<pb::GetSelfPreservationRequest>,
    ) -> Result<Response<pb::GetSelfPreservationResponse>, Status> {
        let service = optional_service(&request.get_ref().service)?;
        let (registry, now) = (self.context.engine.registry(), self.context.clock.now());
        let found = match service {
            Some(service) => registry.self_preservation_of(&service, now.lease),
            None => registry.self_preservation(now.lease).0,
        };
        Ok(Response::new(pb::GetSelfPreservationResponse {
            self_preservation: Some(self_preservation::state(&found, now)),
        }))
    }

    async fn list_self_preservation_events(
        &self,
        request: Request<pb::ListSelfPreservationEventsRequest>,
    ) -> Result<Response<pb::ListSelfPreservationEventsResponse>, Status> {
        let message = request.get_ref();
        let before = decode::page_after(&message.page_token, |token| token.parse().ok())?.unwrap_or(u64::MAX);
        let size = page_size(message.page_size, DEFAULT_EVENTS);
        let mut found = self.context.engine.registry().self_preservation_events_before(before, size + 1);
        let more = found.len() > size;
        found.truncate(size);
        let last = found.last().filter(|_| more);
        Ok(Response::new(pb::ListSelfPreservationEventsResponse {
            next_page_token: last.map(|event| event.number.to_string()).unwrap_or_default(),
            events: found.iter().map(self_preservation::event).collect(),
            replica: self.context.replica.clone(),
        }))
    }

    async fn reset_self_preservation(
        &self,
        request: Request<pb::ResetSelfPreservationRequest>,
    ) -> Result<Response<pb::ResetSelfPreservationResponse>, Status> {
        let connection = connection(&request)?;
        let service = self_preservation::target(request.get_ref())?;
        let commands = self.context.commands.on_behalf_of(connection.caller(CallerProtocol::Grpc));
        let released = commands.reset_self_preservation(service.as_ref());
        let released_instances = u32::try_from(released).unwrap_or(u32::MAX);
        let replica = self.context.replica.clone();
        Ok(Response::new(pb::ResetSelfPreservationResponse { released_instances, replica }))
    }

    async fn list_checks(
        &self,
        request: Request<pb::ListChecksRequest>,
    ) -> Result<Response<pb::ListChecksResponse>, Status> {
        let message = request.get_ref();
        let service = ServiceName::parse(&message.service).map_err(ApiError::from)?;
        let id = InstanceId::parse_any(&message.id).map_err(ApiError::from)?;
        let entry = self.context.engine.registry().get(&service, id.as_str());
        let entry = entry.ok_or_else(|| ApiError::from(CommandError::NoSuchInstance { service, id }))?;
        Ok(Response::new(pb::ListChecksResponse { checks: check::encode_reports(&entry.instance, &self.checks) }))
    }

    async fn set_policy(
        &self,
        request: Request<pb::SetPolicyRequest>,
    ) -> Result<Response<pb::SetPolicyResponse>, Status> {
        let connection = connection(&request)?;
        let answer = self.answer_set_policy(request.get_ref(), connection.caller(CallerProtocol::Grpc)).await?;
        Ok(Response::new(answer))
    }

    async fn validate_policies(
        &self,
        request: Request<pb::ValidatePoliciesRequest>,
    ) -> Result<Response<pb::ValidatePoliciesResponse>, Status> {
        Ok(Response::new(self.answer_validate_policies(request.get_ref())?))
    }

    async fn get_policy(
        &self,
        request: Request<pb::GetPolicyRequest>,
    ) -> Result<Response<pb::GetPolicyResponse>, Status> {
        Ok(Response::new(self.answer_get_policy(request.get_ref())?))
    }

    async fn list_policies(
        &self,
        request: Request<pb::ListPoliciesRequest>,
    ) -> Result<Response<pb::ListPoliciesResponse>, Status> {
        Ok(Response::new(self.answer_list_policies(request.get_ref())?))
    }

    async fn list_policy_revisions(
        &self,
        request: Request<pb::ListPolicyRevisionsRequest>,
    ) -> Result<Response<pb::ListPolicyRevisionsResponse>, Status> {
        Ok(Response::new(self.answer_list_policy_revisions(request.get_ref())?))
    }

    type ExportRegistryStream = ExportStream;

    async fn export_registry(
        &self,
        request: Request<pb::ExportRegistryRequest>,
    ) -> Result<Response<ExportStream>, Status> {
        self.synchronize_if(request.get_ref().consistent).await?;
        Ok(Response::new(ExportStream::new(&self.context)))
    }
}

fn optional_service(name: &str) -> Result<Option<ServiceName>, ApiError> {
    if name.is_empty() { Ok(None) } else { Ok(Some(ServiceName::parse(name)?)) }
}

fn watcher(id: u64, watcher: &Watcher, registry: &Registry, now: ClockReading) -> pb::Watcher {
    let synced = UnixMillis(watcher.synced_at.load(Ordering::Relaxed));
    let pending = watcher.pending(registry);
    let mut shown = pb::Watcher {
        id,
        protocol: match watcher.protocol {
            WatchProtocol::Grpc => pb::WatchProtocol::Grpc,
            WatchProtocol::GrpcHealth => pb::WatchProtocol::GrpcHealth,
            WatchProtocol::Consul => pb::WatchProtocol::Consul,
            WatchProtocol::Xds => pb::WatchProtocol::Xds,
        }
        .into(),
        peer: watcher.connection.peer().to_string(),
        user_agent: watcher.user_agent.as_str().to_owned(),
        filter: watcher.filter.as_ref().map(|filter| filter.as_str().to_owned()).unwrap_or_default(),
        connected_at: Some(time::timestamp(watcher.connected_at)),
        synced_at: (synced > UnixMillis(0)).then(|| time::timestamp(synced)),
        sent_revision: watcher.sent.load(Ordering::Relaxed),
        pending_changes: u32::try_from(pending.changes).unwrap_or(u32::MAX),
        lag: pending.oldest.and_then(|oldest| time::duration(time::since(oldest, now))),
        identity: watcher.connection.identity().map(ToString::to_string).unwrap_or_default(),
        resets: watcher.resets.load(Ordering::Relaxed),
        waiting: watcher.waiting.load(Ordering::Relaxed),
        ..pb::Watcher::default()
    };
    match &watcher.resource {
        WatchedResource::Services(selector) => match &**selector {
            Selector::Names(names) => shown.services = names.iter().map(ToString::to_string).collect(),
            Selector::Prefix(prefix) => shown.prefix = prefix.to_string(),
            Selector::Everything => shown.everything = true,
        },
        WatchedResource::Nodes => shown.resource = "nodes".into(),
        WatchedResource::Node(node) => shown.resource = format!("node {node}").trim_end().into(),
        WatchedResource::Process => shown.resource = "process".into(),
        WatchedResource::Xds(stream) => {
            let status = stream.status();
            shown.services = status.services.iter().map(ToString::to_string).collect();
            shown.xds = Some(xds_stream(status));
        }
        WatchedResource::Nothing => shown.resource = "nothing".into(),
    }
    shown
}

fn xds_stream(status: XdsStreamStatus) -> pb::XdsStream {
    pb::XdsStream {
        node_id: status.node_id,
        agent: status.agent,
        delta: status.is_delta,
        subscriptions: status.types.into_iter().map(xds_subscription).collect(),
    }
}

fn xds_subscription(status: XdsTypeStatus) -> pb::XdsSubscription {
    let (state, since) = match (&status.rejected, status.unanswered_since, status.sent) {
        (_, Some(since), _) => (pb::XdsState::Stale, Some(since)),
        (Some((_, at)), None, _) => (pb::XdsState::Nacked, Some(*at)),
        (None, None, None) => (pb::XdsState::NotSent, None),
        (None, None, Some((_, at))) => (pb::XdsState::Synced, Some(at)),
    };
    let revision = |response: Option<(Revision, UnixMillis)>| response.map_or(0, |(revision, _)| revision.0);
    pb::XdsSubscription {
        r#type: status.name.to_owned(),
        resources: u32::try_from(status.resources).unwrap_or(u32::MAX),
        wildcard: status.is_wildcard,
        state: state.into(),
        since: since.map(time::timestamp),
        sent_revision: revision(status.sent),
        accepted_revision: revision(status.accepted),
        error: status.rejected.map(|(error, _)| error.to_string()).unwrap_or_default(),
    }
}

fn query_rates(watchers: &Watchers, now: ClockReading) -> Vec<pb::QueryRate> {
    let rates = [("udp", &watchers.dns_udp), ("tcp", &watchers.dns_tcp)];
    let shown = |(transport, rate): (&str, &Arc<QueryRate>)| pb::QueryRate {
        protocol: "dns".to_owned(),
        transport: transport.to_owned(),
        per_second: rate.per_second(now.monotonic_us),
    };
    rates.into_iter().map(shown).collect()
}
