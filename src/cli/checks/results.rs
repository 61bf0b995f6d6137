//! `callboard checks --results`: the recent results of each check.

use serde::Serialize;

use super::{abbreviate, status};
use crate::{
    cli::{
        error::CliError,
        output::{self, OutputFormat, Printable},
        view::{duration, or_dash, time},
    },
    pb::callboard::v1::{CheckReport, CheckResult},
};

#[derive(Debug, Serialize)]
pub(super) struct ResultView {
    check: String,
    time: Option<String>,
    /// Status of this result alone, before thresholds.
    status: &'static str,
    /// `None` for a reported result.
    took_seconds: Option<f64>,
    output: String,
}

impl ResultView {
    pub(super) fn new(check: &str, result: CheckResult) -> Self {
        Self {
            check: check.to_owned(),
            status: status(result.status()),
            time: time(result.time),
            took_seconds: duration(result.took).map(|took| took.as_secs_f64()),
            output: result.output,
        }
    }
}

impl Printable for ResultView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["CHECK", "TIME", "STATUS", "TOOK", "OUTPUT"], &[]);

    fn cells(&self) -> Vec<String> {
        vec![
            self.check.clone(),
            or_dash(self.time.as_deref()),
            self.status.to_owned(),
            or_dash(self.took_seconds.map(|took| format!("{took:.3}s")).as_deref()),
            abbreviate(&self.output),
        ]
    }

    fn name(&self) -> String {
        self.check.clone()
    }
}

/// Prints the results, check by check. `no_checks` is printed if there are no checks.
pub(super) fn list(format: OutputFormat, checks: Vec<CheckReport>, no_checks: &str) -> Result<(), CliError> {
    let empty = if checks.is_empty() { no_checks } else { "no results yet" };
    let results: Vec<ResultView> = checks.into_iter().flat_map(results_of).collect();
    output::list(format, &results, empty)
}

fn results_of(report: CheckReport) -> impl Iterator<Item = ResultView> {
    let check = report.state.unwrap_or_default().id;
    report.results.into_iter().map(move |result| ResultView::new(&check, result))
}
