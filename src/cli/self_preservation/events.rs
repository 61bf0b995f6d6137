//! `callboard self-preservation events`: when self-preservation began and ended.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::SelfPreservationView;
use crate::{
    cli::{
        connection::{ServerArgs, ServerClient, pages, with_deadline},
        error::CliError,
        events::CallerView,
        output::{OutputArgs, Printable},
        replicas::{self, ReplicaItem, ask_each},
        view::{or_dash, time},
    },
    client::ClientError,
    pb::callboard::v1::{ListSelfPreservationEventsRequest, SelfPreservationEvent, SelfPreservationEventKind},
};

#[derive(Debug, Args)]
pub(crate) struct SelfPreservationEventsArgs {
    /// Number of events, the newest ones
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct SelfPreservationEventView {
    number: u64,
    time: Option<String>,
    kind: &'static str,
    self_preservation: SelfPreservationView,
    caller: CallerView,
}

impl From<SelfPreservationEvent> for SelfPreservationEventView {
    fn from(event: SelfPreservationEvent) -> Self {
        let kind = match event.kind() {
            SelfPreservationEventKind::Began => "began",
            SelfPreservationEventKind::Ended => "ended",
            SelfPreservationEventKind::Reset => "reset",
            SelfPreservationEventKind::Unspecified => "unspecified",
        };
        let self_preservation = SelfPreservationView::from(event.self_preservation.unwrap_or_default());
        let caller = event.caller.unwrap_or_default().into();
        Self { number: event.number, time: time(event.time), kind, self_preservation, caller }
    }
}

impl Printable for SelfPreservationEventView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["TIME", "SERVICE", "EVENT", "INSTANCES", "EXPIRING", "SUSPECTS"], &["PEAK", "EXPIRED", "LIMIT", "CALLER"]);

    fn cells(&self) -> Vec<String> {
        let SelfPreservationView { instances, expiring_instances, suspects, peak, recent_expirations, limit, .. } =
            self.self_preservation;
        let numbers = [instances, expiring_instances, suspects, peak, recent_expirations, limit];
        let what = [or_dash(self.time.as_deref()), self.name(), self.kind.to_owned()];
        let caller = [self.caller.cell()];
        what.into_iter().chain(numbers.iter().map(u32::to_string)).chain(caller).collect()
    }

    fn name(&self) -> String {
        self.self_preservation.name()
    }
}

pub(super) async fn run(args: SelfPreservationEventsArgs) -> Result<ExitCode, CliError> {
    let mut found = ask_each(&args.server, async |server| events_of(server, args.limit).await).await?;
    let mut events = Vec::new();
    for (replica, views) in &mut found.answers {
        events.extend(views.drain(..).map(|item| ReplicaItem { replica: replica.clone(), item }));
    }
    // RFC 3339 in UTC: the order of the texts is that of the times. The sort keeps the order of equal ones.
    events.sort_by(|one, other| one.item.time.cmp(&other.item.time));
    let older = events.len().saturating_sub(usize::try_from(args.limit).unwrap_or(usize::MAX));
    events.drain(..older);
    replicas::list(args.output.format, events, found.are_several(), "no events")?;
    Ok(found.finish(0))
}

/// Fetches the name of a replica and its newest events, the newest last.
async fn events_of(server: &ServerClient, limit: u32) -> Result<(String, Vec<SelfPreservationEventView>), ClientError> {
    let mut replica = String::new();
    let events = pages(usize::try_from(limit).unwrap_or(usize::MAX), async |page_token| {
        let request = with_deadline(ListSelfPreservationEventsRequest { page_size: limit.min(1_000), page_token });
        let page = server.call(server.admin().list_self_preservation_events(request)).await?;
        replica = page.replica;
        Ok((page.events, page.next_page_token))
    });
    let mut events: Vec<_> = events.await?.into_iter().map(SelfPreservationEventView::from).collect();
    events.reverse();
    Ok((replica, events))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output;
    use crate::pb::callboard::v1::SelfPreservation;

    #[test]
    fn event_shows_the_state_under_the_key_of_the_contract() {
        let state = SelfPreservation { expiring_instances: 4, recent_expirations: 2, ..SelfPreservation::default() };
        let event = SelfPreservationEvent { number: 1, self_preservation: Some(state), ..Default::default() };
        let view = SelfPreservationEventView::from(event);
        assert_eq!(view.cells(), ["-", "*", "unspecified", "0", "4", "0", "0", "2", "0", "unspecified"]);
        let json = output::json(&view, false).unwrap();
        assert!(json.contains(r#""self_preservation":{"service":null"#), "{json}");
    }
}
