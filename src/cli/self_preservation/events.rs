//! `callboard self-preservation events`: when self-preservation began and ended.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::SelfPreservationView;
use crate::{
    cli::{
        connection::{ServerArgs, pages, with_deadline},
        error::CliError,
        events::CallerView,
        output::{self, OutputArgs, Printable},
        view::{or_dash, time},
    },
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
    let connection = args.server.connect()?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let events = pages(limit, async |page_token| {
        let request = with_deadline(ListSelfPreservationEventsRequest { page_size: args.limit.min(1_000), page_token });
        let page = connection.call(connection.admin().list_self_preservation_events(request)).await?;
        Ok((page.events, page.next_page_token))
    });
    let mut events: Vec<SelfPreservationEventView> =
        events.await?.into_iter().map(SelfPreservationEventView::from).collect();
    events.reverse();
    output::list(args.output.format, &events, "no events")?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
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
