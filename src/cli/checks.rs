//! `callboard checks`: what the health checks of an instance say, and what they have found lately.

mod results;

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{
    connection::{ServerArgs, ask},
    deregister::InstancePath,
    error::{CliError, FINDINGS},
    output::{self, OutputArgs, Printable, escape},
    view::{or_dash, set},
};
use crate::pb::callboard::v1::{CheckReport, CheckState, CheckStatus, ListChecksRequest};

/// As much of what was said as fits a table.
const BRIEF: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct ChecksArgs {
    /// The instance
    #[arg(value_name = "SERVICE/ID")]
    target: InstancePath,
    /// List what each check has found lately, the newest first
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
    /// None: others state what it says.
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
            brief(&self.output),
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
    let none = format!("{} has no checks", escape(&format!("{service}/{id}")));
    let request = ask(ListChecksRequest { service, id });
    let checks = connection.answer(connection.admin().list_checks(request)).await?.checks;
    let critical = checks.iter().filter_map(|check| check.state.as_ref()).any(is_critical);
    if args.results {
        results::list(args.output.format, checks, &none)?;
    } else {
        let checks: Vec<CheckView> = checks.into_iter().map(CheckView::from).collect();
        output::list(args.output.format, &checks, &none)?;
    }
    Ok(ExitCode::from(if critical { FINDINGS } else { 0 }))
}

fn is_critical(state: &CheckState) -> bool {
    state.status() == CheckStatus::Critical
}

/// `PASSING` for `CHECK_STATUS_PASSING`.
fn status(status: CheckStatus) -> &'static str {
    let name = status.as_str_name();
    name.strip_prefix("CHECK_STATUS_").unwrap_or(name)
}

/// The beginning of the first line.
fn brief(output: &str) -> String {
    let line = output.lines().next().unwrap_or_default();
    let short: String = line.chars().take(BRIEF).collect();
    let rest = short.len() < output.trim_end().len();
    or_dash(set(short).as_deref()) + if rest { "…" } else { "" }
}

#[cfg(test)]
mod tests;
