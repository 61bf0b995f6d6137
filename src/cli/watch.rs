//! `callboard watch`: the instances of services, then each change.

mod line;

use std::{process::ExitCode, time::SystemTime};

use clap::Args;

use super::{
    connection::ServerArgs,
    error::{CliError, call},
    output::{self, OutputArgs},
    terminal::{escape, print_stderr},
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
    let server = args.server.endpoint()?;
    let address = server.to_string();
    let mut lines = WatchLines::new(&args.services, format == output::OutputFormat::Wide);
    let request = WatchRequest {
        services: args.services,
        prefix: args.prefix.unwrap_or_default(),
        everything: args.all,
        filter: args.filter.unwrap_or_default(),
        subset: args.subset.unwrap_or_default(),
        ..WatchRequest::default()
    };
    let mut watch = Watch::new(&server, request);
    let mut printed_error = None;
    loop {
        let event = watch.next().await;
        let event = event.map_err(|error| CliError::Call { address: address.clone(), error })?;
        match event {
            WatchEvent::Disconnected { error, .. } => {
                let message = call(&address, &error);
                // An error that repeats is printed once.
                if printed_error.as_ref() != Some(&message) {
                    print_stderr(&format!("{}; retrying", escape(&message)));
                    printed_error = Some(message);
                }
            }
            WatchEvent::Reconnected => {
                print_stderr(&format!("connected to {address}"));
                printed_error = None;
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
