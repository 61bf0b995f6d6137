//! `callboard checks`: the health checks of an instance and their recent results.

mod results;

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{
    connection::{ServerArgs, with_deadline},
    deregister::InstancePath,
    error::{CliError, FINDINGS},
    output::{self, OutputArgs, Printable},
    terminal::escape,
    view::{or_dash, set},
};
use crate::pb::callboard::v1::{CheckReport, CheckState, CheckStatus, ListChecksRequest};

/// Maximum number of characters of a check's output in a table.
const MAX_OUTPUT_CHARS: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct ChecksArgs {
    /// The instance
    #[arg(value_name = "SERVICE/ID")]
    target: InstancePath,
    /// List the recent results of each check, the newest first
    #[arg(long)]
    results: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct CheckView {
    id: String,
    name: String,
    /// `None` for a check whose status an API client sets.
    kind: Option<String>,
    status: &'static str,
    changes: u64,
    output: String,
    revision: u64,
}

impl From<CheckReport> for CheckView {
    fn from(report: CheckReport) -> Self {
        let state = report.state.unwrap_or_default();
        Self {
            status: status(state.status()),
            id: state.id,
            name: state.name,
            kind: set(state.kind),
            changes: report.changes,
            output: report.output,
            revision: state.revision,
        }
    }
}

impl Printable for CheckView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["CHECK", "KIND", "STATUS", "CHANGES", "OUTPUT"], &["NAME", "REVISION"]);

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            or_dash(self.kind.as_deref()),
            self.status.to_owned(),
            self.changes.to_string(),
            abbreviate(&self.output),
            self.name.clone(),
            self.revision.to_string(),
        ]
    }

    fn name(&self) -> String {
        self.id.clone()
    }
}

pub(crate) async fn run(args: ChecksArgs) -> Result<ExitCode, CliError> {
    let connection = args.server.connect()?;
    let InstancePath { service, id } = args.target;
    let empty = format!("{} has no checks", escape(&format!("{service}/{id}")));
    let request = ListChecksRequest { service, id };
    let response = connection
        .repeatable(async |server| server.call(server.admin().list_checks(with_deadline(request.clone()))).await);
    let checks = response.await?.checks;
    let critical = checks.iter().filter_map(|check| check.state.as_ref()).any(is_critical);
    if args.results {
        results::list(args.output.format, checks, &empty)?;
    } else {
        let checks: Vec<CheckView> = checks.into_iter().map(CheckView::from).collect();
        output::list(args.output.format, &checks, &empty)?;
    }
    Ok(ExitCode::from(if critical { FINDINGS } else { 0 }))
}

fn is_critical(state: &CheckState) -> bool {
    state.status() == CheckStatus::Critical
}

/// Returns the name without its prefix: `PASSING` for `CHECK_STATUS_PASSING`.
fn status(status: CheckStatus) -> &'static str {
    let name = status.as_str_name();
    name.strip_prefix("CHECK_STATUS_").unwrap_or(name)
}

/// Returns the beginning of the first line, with `…` if there is more.
fn abbreviate(output: &str) -> String {
    let line = output.lines().next().unwrap_or_default();
    let short: String = line.chars().take(MAX_OUTPUT_CHARS).collect();
    let rest = short.len() < output.trim_end().len();
    or_dash(set(short).as_deref()) + if rest { "…" } else { "" }
}

#[cfg(test)]
mod tests;
