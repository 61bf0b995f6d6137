//! `callboard self-preservation events`: when self-preservation started and ended.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::SelfPreservationView;
use crate::{
    cli::{
        connection::{ServerArgs, pages, with_deadline},
        error::CliError,
        output::{self, OutputArgs, Printable},
        view::{or_dash, time},
    },
    pb::callboard::v1::{ListProtectionEventsRequest, ProtectionEvent, ProtectionEventKind},
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
    protection: SelfPreservationView,
}

impl From<ProtectionEvent> for SelfPreservationEventView {
    fn from(event: ProtectionEvent) -> Self {
        let kind = match event.kind() {
            ProtectionEventKind::Began => "began",
            ProtectionEventKind::Ended => "ended",
            ProtectionEventKind::Reset => "reset",
            ProtectionEventKind::Unspecified => "unspecified",
        };
        let protection = SelfPreservationView::from(event.protection.unwrap_or_default());
        Self { number: event.number, time: time(event.time), kind, protection }
    }
}

impl Printable for SelfPreservationEventView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["TIME", "SERVICE", "EVENT", "INSTANCES", "SILENT", "SUSPECTS"], &["PEAK", "REMOVED", "LIMIT"]);

    fn cells(&self) -> Vec<String> {
        let SelfPreservationView { instances, expiring_instances, suspects, peak, recent_expirations, limit, .. } =
            self.protection;
        let numbers = [instances, expiring_instances, suspects, peak, recent_expirations, limit];
        let what = [or_dash(self.time.as_deref()), self.name(), self.kind.to_owned()];
        what.into_iter().chain(numbers.iter().map(u32::to_string)).collect()
    }

    fn name(&self) -> String {
        self.protection.name()
    }
}

pub(super) async fn run(args: SelfPreservationEventsArgs) -> Result<ExitCode, CliError> {
    let connection = args.server.connect()?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let events = pages(limit, async |page_token| {
        let request = with_deadline(ListProtectionEventsRequest { page_size: args.limit.min(1_000), page_token });
        let page = connection.call(connection.admin().list_protection_events(request)).await?;
        Ok((page.events, page.next_page_token))
    });
    let mut events: Vec<SelfPreservationEventView> =
        events.await?.into_iter().map(SelfPreservationEventView::from).collect();
    events.reverse();
    output::list(args.output.format, &events, "no events")?;
    Ok(ExitCode::SUCCESS)
}
