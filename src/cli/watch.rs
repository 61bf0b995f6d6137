//! `callboard watch`: the instances of services, then each change.

mod line;

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::Args;

use super::{
    connection::ServerArgs,
    error::{CliError, lost},
    output::{self, OutputArgs},
    terminal::{ErrorPrinter, print_stderr},
};
use crate::{
    client::{Watch, WatchEvent},
    pb::callboard::v1::WatchRequest,
};
use line::WatchLines;

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The services
    #[arg(value_name = "NAME", required_unless_present_any = ["prefix", "all"])]
    services: Vec<String>,
    /// Watch every service whose name starts with this
    #[arg(long, conflicts_with_all = ["services", "all"])]
    prefix: Option<String>,
    /// Watch every service
    #[arg(long, conflicts_with = "services")]
    all: bool,
    /// Only instances that match, as in '"v2" in tags and status == SERVING'
    #[arg(long)]
    filter: Option<String>,
    /// Only instances of this subset of the one service
    #[arg(long, value_name = "SUBSET", conflicts_with_all = ["prefix", "all"])]
    subset: Option<String>,
    /// Begin with every write that was acknowledged before, at whichever replica
    #[arg(long)]
    consistent: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(args: WatchArgs) -> Result<ExitCode, CliError> {
    let format = args.output.format;
    let servers = args.server.servers()?;
    let mut lines = WatchLines::new(&args.services, format == output::OutputFormat::Wide);
    let request = WatchRequest {
        services: args.services,
        prefix: args.prefix.unwrap_or_default(),
        everything: args.all,
        filter: args.filter.unwrap_or_default(),
        subset: args.subset.unwrap_or_default(),
        consistent: args.consistent,
        ..WatchRequest::default()
    };
    let mut watch = Watch::new(&servers, request);
    let mut errors = ErrorPrinter::default();
    let mut is_stale = false;
    loop {
        let event = watch.next().await;
        let event = event.map_err(|error| CliError::Call { address: servers.to_string(), error })?;
        match event {
            WatchEvent::Disconnected { server, error, .. } => {
                errors.print(format!("{}; retrying", lost(&server.unwrap_or_default(), &error)));
            }
            WatchEvent::Reconnected { server } => {
                print_stderr(&format!("connected to {}", server.unwrap_or_default()));
                errors.clear();
                is_stale = false;
            }
            WatchEvent::Degraded { age, .. } => {
                if !std::mem::replace(&mut is_stale, true) {
                    print_stderr(&format!(
                        "the registry has not reached its store for {}: the instances above may be out of date",
                        humantime::format_duration(Duration::from_secs(age.as_secs()))
                    ));
                }
            }
            WatchEvent::Settling => print_stderr(
                "the registry restarted and waits for instances to register again: the instances above are kept until it has settled",
            ),
            event => {
                if matches!(event, WatchEvent::Bookmark { .. }) && std::mem::take(&mut is_stale) {
                    print_stderr("the registry reaches its store again");
                }
                for line in lines.read(event, now()) {
                    output::one(format, &line, line.name().as_deref(), line.text())?;
                }
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a line on a terminal shows when it was printed")]
fn now() -> SystemTime {
    SystemTime::now()
}
