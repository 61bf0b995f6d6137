//! `callboard self-preservation`: the services in self-preservation, its events, and its reset by an operator.

mod events;
mod reset;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    connection::{ServerArgs, ServerClient, pages, with_deadline},
    error::{CliError, FINDINGS},
    output::{OutputArgs, Printable},
    replicas::{self, ReplicaItem, ask_each},
    view::{or_dash, set, time},
};
use crate::{
    client::ClientError,
    pb::callboard::v1::{ListSelfPreservationRequest, SelfPreservation},
};

/// Name shown for the registry as a whole. No service can have it.
const WHOLE: &str = "*";

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SelfPreservationArgs {
    #[command(subcommand)]
    command: Option<SelfPreservationCommand>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Subcommand)]
enum SelfPreservationCommand {
    /// List when self-preservation began and ended, the newest last
    Events(events::SelfPreservationEventsArgs),
    /// Remove the instances that self-preservation holds, and end it
    Reset(reset::ResetArgs),
}

#[derive(Debug, Serialize)]
struct SelfPreservationView {
    /// `None` for the registry as a whole.
    service: Option<String>,
    started_at: Option<String>,
    instances: u32,
    peak: u32,
    expiring_instances: u32,
    suspects: u32,
    recent_expirations: u32,
    limit: u32,
    first_release_at: Option<String>,
}

impl From<SelfPreservation> for SelfPreservationView {
    fn from(state: SelfPreservation) -> Self {
        Self {
            service: set(state.service),
            started_at: time(state.started_at),
            instances: state.instances,
            peak: state.peak,
            expiring_instances: state.expiring_instances,
            suspects: state.suspects,
            recent_expirations: state.recent_expirations,
            limit: state.limit,
            first_release_at: time(state.first_release_at),
        }
    }
}

impl Printable for SelfPreservationView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["SERVICE", "INSTANCES", "EXPIRING", "SUSPECTS", "SINCE", "FIRST RELEASE"], &["PEAK", "EXPIRED", "LIMIT"]);

    fn cells(&self) -> Vec<String> {
        vec![
            self.name(),
            self.instances.to_string(),
            self.expiring_instances.to_string(),
            self.suspects.to_string(),
            or_dash(self.started_at.as_deref()),
            or_dash(self.first_release_at.as_deref()),
            self.peak.to_string(),
            self.recent_expirations.to_string(),
            self.limit.to_string(),
        ]
    }

    fn name(&self) -> String {
        self.service.clone().unwrap_or_else(|| WHOLE.to_owned())
    }
}

pub(crate) async fn run(args: SelfPreservationArgs) -> Result<ExitCode, CliError> {
    match args.command {
        Some(SelfPreservationCommand::Events(args)) => events::run(args).await,
        Some(SelfPreservationCommand::Reset(args)) => reset::run(args).await,
        None => list(&args.server, &args.output).await,
    }
}

/// Lists the services in self-preservation, after the registry as a whole if that is in self-preservation.
async fn list(server: &ServerArgs, output: &OutputArgs) -> Result<ExitCode, CliError> {
    let mut found = ask_each(server, states_of).await?;
    let mut states = Vec::new();
    for (replica, views) in &mut found.answers {
        states.extend(views.drain(..).map(|item| ReplicaItem { replica: replica.clone(), item }));
    }
    let code = if states.is_empty() { 0 } else { FINDINGS };
    replicas::list(output.format, states, found.are_several(), "nothing is in self-preservation")?;
    Ok(found.finish(code))
}

/// Fetches the name of a replica and what it has in self-preservation.
async fn states_of(server: &ServerClient) -> Result<(String, Vec<SelfPreservationView>), ClientError> {
    let (mut replica, mut whole) = (String::new(), None);
    let services = pages(usize::MAX, async |page_token| {
        let request = with_deadline(ListSelfPreservationRequest { page_size: 0, page_token });
        let page = server.call(server.admin().list_self_preservation(request)).await?;
        replica = page.replica;
        whole = page.registry.filter(|whole| whole.started_at.is_some());
        Ok((page.services, page.next_page_token))
    });
    let services = services.await?;
    Ok((replica, whole.into_iter().chain(services).map(SelfPreservationView::from).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output;

    #[test]
    fn registry_as_a_whole_has_a_reserved_name_and_the_keys_of_the_contract() {
        let whole =
            SelfPreservationView::from(SelfPreservation { suspects: 7, peak: 50, ..SelfPreservation::default() });
        assert_eq!(whole.name(), "*");
        assert_eq!(whole.cells(), ["*", "0", "0", "7", "-", "-", "50", "0", "0"]);
        assert_eq!(
            output::json(&whole, false).unwrap().trim_end(),
            concat!(
                r#"{"service":null,"started_at":null,"instances":0,"peak":50,"expiring_instances":0,"suspects":7,"#,
                r#""recent_expirations":0,"limit":0,"first_release_at":null}"#,
            )
        );
    }
}
