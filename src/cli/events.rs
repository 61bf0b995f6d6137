//! `callboard events`: recent events and their causes.

mod merge;

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{
    connection::{ServerArgs, ServerClient, pages, with_deadline},
    error::CliError,
    output::{OutputArgs, Printable},
    replicas::{self, ask_each},
    view::{known_status, or_dash, removal, set, time},
};
use crate::{
    client::ClientError,
    pb::callboard::v1::{Caller, CallerKind, Event, EventKind, ListEventsRequest, RemovalReason},
};

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Only events of this service
    #[arg(long)]
    service: Option<String>,
    /// Number of events, the newest ones
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct EventView {
    revision: u64,
    time: Option<String>,
    service: String,
    instance_id: String,
    kind: &'static str,
    reason: Option<&'static str>,
    status_before: Option<&'static str>,
    status_after: Option<&'static str>,
    caller: CallerView,
    /// Replica that held the instance. Only if the registry has replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
}

/// Originator of an event.
#[derive(Debug, Serialize)]
pub(super) struct CallerView {
    kind: &'static str,
    peer: Option<String>,
    identity: Option<String>,
}

impl From<Caller> for CallerView {
    fn from(caller: Caller) -> Self {
        Self {
            kind: match caller.kind() {
                CallerKind::Grpc => "grpc",
                CallerKind::Consul => "consul",
                CallerKind::Expiry => "expiry",
                CallerKind::HealthCheck => "health_check",
                CallerKind::Recovery => "recovery",
                CallerKind::SelfPreservation => "self_preservation",
                CallerKind::InProcess => "in_process",
                CallerKind::Unspecified => "unspecified",
            },
            peer: set(caller.peer),
            identity: set(caller.identity),
        }
    }
}

impl CallerView {
    /// Returns the kind, and for a client its identity, or its address where it has none.
    pub(super) fn cell(&self) -> String {
        match self.identity.as_ref().or(self.peer.as_ref()) {
            Some(client) => format!("{} {client}", self.kind),
            None => self.kind.to_owned(),
        }
    }
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        let reason = event.reason();
        Self {
            kind: match event.kind() {
                EventKind::Registered => "registered",
                EventKind::TakenOver => "taken_over",
                EventKind::Updated => "updated",
                EventKind::Removed => "removed",
                EventKind::Unspecified => "unspecified",
            },
            reason: (reason != RemovalReason::Unspecified).then(|| removal(reason)),
            status_before: known_status(event.status_before()),
            status_after: known_status(event.status_after()),
            revision: event.revision,
            time: time(event.time),
            service: event.service,
            instance_id: event.instance_id,
            caller: event.caller.unwrap_or_default().into(),
            holder: set(event.holder),
        }
    }
}

impl Printable for EventView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["TIME", "SERVICE", "INSTANCE", "EVENT", "STATUS", "CALLER"], &["REVISION", "HOLDER"]);

    fn cells(&self) -> Vec<String> {
        let event = match self.reason {
            Some(reason) => format!("{} ({reason})", self.kind),
            None => self.kind.to_owned(),
        };
        let status = match (self.status_before, self.status_after) {
            (Some(before), Some(after)) if before != after => format!("{before} -> {after}"),
            (_, after) => or_dash(after),
        };
        vec![
            or_dash(self.time.as_deref()),
            self.service.clone(),
            self.instance_id.clone(),
            event,
            status,
            self.caller.cell(),
            self.revision.to_string(),
            or_dash(self.holder.as_deref()),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.service, self.instance_id)
    }
}

pub(crate) async fn run(args: EventsArgs) -> Result<ExitCode, CliError> {
    let service = args.service.unwrap_or_default();
    let mut found = ask_each(&args.server, async |server| log_of(server, &service, args.limit).await).await?;
    let logs = found.answers.iter_mut().map(|(replica, log)| (replica.clone(), std::mem::take(log))).collect();
    let mut events = merge::merged(logs);
    let older = events.len().saturating_sub(usize::try_from(args.limit).unwrap_or(usize::MAX));
    events.drain(..older);
    replicas::list(args.output.format, events, found.are_several(), "no events")?;
    Ok(found.finish(0))
}

/// Newest events of a replica, the newest last.
#[derive(Debug, Default)]
struct EventLogView {
    incarnation: u64,
    events: Vec<EventView>,
}

/// Fetches the name of a replica and its newest events.
async fn log_of(server: &ServerClient, service: &str, limit: u32) -> Result<(String, EventLogView), ClientError> {
    let (mut replica, mut incarnation) = (String::new(), 0);
    let events = pages(usize::try_from(limit).unwrap_or(usize::MAX), async |page_token| {
        let request =
            with_deadline(ListEventsRequest { service: service.to_owned(), page_size: limit.min(1_000), page_token });
        let page = server.call(server.admin().list_events(request)).await?;
        (replica, incarnation) = (page.replica, page.incarnation);
        Ok((page.events, page.next_page_token))
    });
    let mut events: Vec<EventView> = events.await?.into_iter().map(EventView::from).collect();
    events.reverse();
    Ok((replica, EventLogView { incarnation, events }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::callboard::v1::InstanceStatus;

    fn event(kind: EventKind, reason: RemovalReason, before: InstanceStatus, after: InstanceStatus) -> EventView {
        EventView::from(Event {
            revision: 7,
            time: None,
            service: "web".to_owned(),
            instance_id: "a".to_owned(),
            kind: kind.into(),
            reason: reason.into(),
            status_before: before.into(),
            status_after: after.into(),
            caller: Some(Caller { kind: CallerKind::Expiry.into(), ..Caller::default() }),
            holder: "replica-1".to_owned(),
        })
    }

    #[test]
    fn removal_shows_its_reason() {
        use InstanceStatus::{Serving, Unspecified};
        let removed = event(EventKind::Removed, RemovalReason::Expired, Serving, Unspecified);
        assert_eq!(removed.cells(), ["-", "web", "a", "removed (expired)", "-", "expiry", "7", "replica-1"]);
        assert_eq!((removed.reason, removed.status_after), (Some("expired"), None));
    }

    #[test]
    fn status_change_shows_both_statuses() {
        use InstanceStatus::{Draining, Serving};
        let drained = event(EventKind::Updated, RemovalReason::Unspecified, Serving, Draining);
        assert_eq!(drained.cells()[3..5], ["updated", "SERVING -> DRAINING"]);
        let same = event(EventKind::Updated, RemovalReason::Unspecified, Serving, Serving);
        assert_eq!(same.cells()[4], "SERVING");
    }

    #[test]
    fn caller_is_shown_by_identity_or_else_by_address() {
        let cell = |kind: CallerKind, peer: &str, identity: &str| {
            let caller = Caller { kind: kind.into(), peer: peer.to_owned(), identity: identity.to_owned() };
            CallerView::from(caller).cell()
        };
        assert_eq!(cell(CallerKind::Grpc, "10.0.0.7:5123", ""), "grpc 10.0.0.7:5123");
        assert_eq!(cell(CallerKind::Consul, "10.0.0.7:5123", "billing"), "consul billing");
        assert_eq!(cell(CallerKind::SelfPreservation, "", ""), "self_preservation");
    }
}
