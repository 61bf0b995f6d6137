//! `callboard watch`: the instances of services, then each change.

mod line;

use std::{process::ExitCode, time::SystemTime};

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
        ..WatchRequest::default()
    };
    let mut watch = Watch::new(&servers, request);
    let mut errors = ErrorPrinter::default();
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
            }
            WatchEvent::Degraded => print_stderr("the registry cannot reach its store: changes may be late"),
            WatchEvent::Settling => print_stderr(
                "the registry restarted and waits for instances to register again: the instances above are kept until it has settled",
            ),
            event => {
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
