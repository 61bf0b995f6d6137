//! `AdminService`: who listens, what happened, and who is protected.

use prost::Message;
use tonic::{Request, Response, Status};

use super::{
    ApiError, GrpcApi, check, decode,
    discovery::{PAGE_BYTES, page_length},
    encode, self_preservation,
};
use std::sync::atomic::Ordering;

use crate::{
    app::Watcher,
    model::{InstanceId, Revision, Selector, ServiceName, UnixMillis},
    pb::{callboard::v1 as pb, server::admin_service_server::AdminService},
    registry::{ClockReading, CommandError, PendingChanges, Registry},
};

/// Events of a page of who asks for no size.
const EVENTS: u32 = 100;
/// Watches of a page of who asks for no size.
const WATCHES: u32 = 1_000;
/// Protected services of a page of who asks for no size.
const PROTECTIONS: u32 = 1_000;

#[tonic::async_trait]
impl AdminService for GrpcApi {
    async fn list_subscribers(
        &self,
        request: Request<pb::ListSubscribersRequest>,
    ) -> Result<Response<pb::ListSubscribersResponse>, Status> {
        let asked = request.get_ref();
        let service = optional_service(&asked.service)?;
        let after = decode::page_after(&asked.page_token, |token| token.parse().ok())?.unwrap_or(0);
        let size = decode::page_size(asked.page_size, WATCHES);
        let wanted = |selection: &Selector| service.as_ref().is_none_or(|service| selection.includes(service));
        let page = self.context.watchers.page(after, size + 1, wanted);
        let (registry, now) = (self.context.engine.registry(), self.context.clock.now());
        let mut bytes = 0;
        let mut answer = pb::ListSubscribersResponse { revision: registry.applied().0, ..Default::default() };
        for (at, (id, watch)) in page.iter().take(size).enumerate() {
            let line = watcher(*id, watch, registry, now);
            bytes += line.encoded_len();
            answer.subscribers.push(line);
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
        let asked = request.get_ref();
        let service = optional_service(&asked.service)?;
        let before = decode::events_before(&asked.page_token)?;
        let size = decode::page_size(asked.page_size, EVENTS);
        let mut events = self.context.engine.registry().events(service.as_ref(), before, size + 1);
        let found = events.len();
        events.truncate(size);
        let mut lines: Vec<_> = events.iter().map(|event| encode::event(event)).collect();
        lines.truncate(page_length(lines.iter().map(Message::encoded_len)));
        let last = lines.len().checked_sub(1).filter(|_| lines.len() < found).map(|last| events[last].revision);
        let next_page_token = last.map(|revision| revision.to_string()).unwrap_or_default();
        Ok(Response::new(pb::ListEventsResponse { events: lines, next_page_token }))
    }

    async fn list_protections(
        &self,
        request: Request<pb::ListProtectionsRequest>,
    ) -> Result<Response<pb::ListProtectionsResponse>, Status> {
        let asked = request.get_ref();
        let after = decode::services_after(&asked.page_token)?;
        let size = decode::page_size(asked.page_size, PROTECTIONS);
        let (registry, now) = (self.context.engine.registry(), self.context.clock.now());
        let mut page = registry.preserved_services(after.as_ref().map_or("", ServiceName::as_str), size + 1, now.lease);
        let more = page.len() > size;
        page.truncate(size);
        let last = page.last().and_then(|last| last.service.as_ref()).filter(|_| more);
        Ok(Response::new(pb::ListProtectionsResponse {
            next_page_token: last.map(ToString::to_string).unwrap_or_default(),
            protections: page.iter().map(|of| self_preservation::protection(of, now)).collect(),
            registry: Some(self_preservation::protection(&registry.self_preservation(now.lease).0, now)),
        }))
    }

    async fn get_protection(
        &self,
        request: Request<pb::GetProtectionRequest>,
    ) -> Result<Response<pb::GetProtectionResponse>, Status> {
        let service = optional_service(&request.get_ref().service)?;
        let (registry, now) = (self.context.engine.registry(), self.context.clock.now());
        let found = match service {
            Some(service) => registry.self_preservation_of(&service, now.lease),
            None => registry.self_preservation(now.lease).0,
        };
        Ok(Response::new(pb::GetProtectionResponse { protection: Some(self_preservation::protection(&found, now)) }))
    }

    async fn list_protection_events(
        &self,
        request: Request<pb::ListProtectionEventsRequest>,
    ) -> Result<Response<pb::ListProtectionEventsResponse>, Status> {
        let asked = request.get_ref();
        let before = decode::page_after(&asked.page_token, |token| token.parse().ok())?.unwrap_or(u64::MAX);
        let size = decode::page_size(asked.page_size, EVENTS);
        let mut notices = self.context.engine.registry().self_preservation_events_before(before, size + 1);
        let more = notices.len() > size;
        notices.truncate(size);
        let last = notices.last().filter(|_| more);
        Ok(Response::new(pb::ListProtectionEventsResponse {
            next_page_token: last.map(|notice| notice.number.to_string()).unwrap_or_default(),
            events: notices.iter().map(self_preservation::event).collect(),
        }))
    }

    async fn reset_protection(
        &self,
        request: Request<pb::ResetProtectionRequest>,
    ) -> Result<Response<pb::ResetProtectionResponse>, Status> {
        let service = self_preservation::target(request.get_ref())?;
        let condemned =
            self.context.engine.registry().reset_self_preservation(service.as_ref(), self.context.clock.now());
        let condemned = u32::try_from(condemned).unwrap_or(u32::MAX);
        Ok(Response::new(pb::ResetProtectionResponse { condemned }))
    }

    async fn list_checks(
        &self,
        request: Request<pb::ListChecksRequest>,
    ) -> Result<Response<pb::ListChecksResponse>, Status> {
        let asked = request.get_ref();
        let service = ServiceName::parse(&asked.service).map_err(ApiError::from)?;
        let id = InstanceId::parse_any(&asked.id).map_err(ApiError::from)?;
        let entry = self.context.engine.registry().get(&service, id.as_str());
        let entry = entry.ok_or_else(|| ApiError::from(CommandError::NoSuchInstance { service, id }))?;
        Ok(Response::new(pb::ListChecksResponse { checks: check::reports(&entry.instance, &self.checks) }))
    }
}

fn optional_service(name: &str) -> Result<Option<ServiceName>, ApiError> {
    if name.is_empty() { Ok(None) } else { Ok(Some(ServiceName::parse(name)?)) }
}

fn watcher(id: u64, watcher: &Watcher, registry: &Registry, now: ClockReading) -> pb::Subscriber {
    let sent = Revision(watcher.sent.load(Ordering::Relaxed));
    let synced = UnixMillis(watcher.synced_at.load(Ordering::Relaxed));
    let waiting = watcher.waiting.load(Ordering::Relaxed);
    // A waiting watcher gets a new snapshot, and how far that differs from what it has is not known yet.
    let pending = if waiting { PendingChanges::default() } else { registry.pending(&watcher.selection, sent) };
    let (services, prefix, everything) = match &*watcher.selection {
        Selector::Names(names) => (names.iter().map(ToString::to_string).collect(), String::new(), false),
        Selector::Prefix(prefix) => (vec![], prefix.to_string(), false),
        Selector::Everything => (vec![], String::new(), true),
    };
    pb::Subscriber {
        id,
        peer: watcher.connection.peer().to_string(),
        user_agent: watcher.user_agent.to_string(),
        services,
        prefix,
        everything,
        filter: watcher.filter.as_ref().map(|filter| filter.as_str().to_owned()).unwrap_or_default(),
        connected_at: Some(encode::timestamp(watcher.connected_at)),
        synced_at: (synced > UnixMillis(0)).then(|| encode::timestamp(synced)),
        sent_revision: sent.0,
        pending_changes: u32::try_from(pending.changes).unwrap_or(u32::MAX),
        lag: pending.oldest.and_then(|oldest| encode::span(encode::since(oldest, now))),
        identity: watcher.connection.identity().map(ToString::to_string).unwrap_or_default(),
        resets: watcher.resets.load(Ordering::Relaxed),
        waiting,
    }
}
