//! `callboard watch`: who is present, then each change as it happens.

mod line;

use std::{process::ExitCode, time::SystemTime};

use clap::Args;

use super::{
    connection::ServerArgs,
    error::{CliError, call},
    output::{self, OutputArgs, complain, escape},
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
    /// Every service whose name starts with this
    #[arg(long, conflicts_with_all = ["services", "all"])]
    prefix: Option<String>,
    /// Every service
    #[arg(long, conflicts_with = "services")]
    all: bool,
    /// Only instances that match, as in '"v2" in tags and status == SERVING'
    #[arg(long)]
    filter: Option<String>,
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
        ..WatchRequest::default()
    };
    let mut watch = Watch::new(&server, request);
    let mut trouble = None;
    loop {
        let event = watch.next().await;
        let event = event.map_err(|error| CliError::Call { address: address.clone(), error })?;
        match event {
            WatchEvent::Disconnected { error, .. } => {
                let now = call(&address, &error);
                // One line for one trouble, however often it is met again.
                if trouble.as_ref() != Some(&now) {
                    complain(&format!("{}; trying on", escape(&now)));
                    trouble = Some(now);
                }
            }
            WatchEvent::Reconnected => {
                complain(&format!("connected to {address}"));
                trouble = None;
            }
            WatchEvent::Degraded => complain("the registry cannot reach its store: changes may be late"),
            WatchEvent::Settling => complain(
                "the registry has started anew and waits for those who were registered: what is above stays until it has settled",
            ),
            told => {
                for line in lines.read(told, now()) {
                    output::one(format, &line, line.name().as_deref(), line.text())?;
                }
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a line on a terminal says when it was printed")]
fn now() -> SystemTime {
    SystemTime::now()
}
