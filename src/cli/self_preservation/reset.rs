//! `callboard self-preservation reset`: removes the instances that self-preservation holds.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::WHOLE;
use crate::{
    cli::{
        connection::{ServerArgs, with_deadline},
        error::CliError,
        output::{self, OutputArgs},
        terminal::escape,
        view::set,
    },
    pb::callboard::v1::ResetSelfPreservationRequest,
};

#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// The service
    #[arg(value_name = "SERVICE", required_unless_present = "all", conflicts_with = "all")]
    service: Option<String>,
    /// All services, and the registry as a whole
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct ResetView {
    /// `None` for all services.
    service: Option<String>,
    released_instances: u32,
}

pub(super) async fn run(args: ResetArgs) -> Result<ExitCode, CliError> {
    let connection = args.server.connect()?;
    let service = args.service.unwrap_or_default();
    let request = with_deadline(ResetSelfPreservationRequest { service: service.clone(), all: args.all });
    let released_instances =
        connection.call(connection.admin().reset_self_preservation(request)).await?.released_instances;
    let view = ResetView { service: set(service), released_instances };
    let name = view.service.as_deref().unwrap_or(WHOLE);
    let line = match released_instances {
        0 => format!("{}: no instances miss heartbeats", escape(name)),
        _ => format!(
            "{}: instances that are removed now or when their leases expire: {released_instances}",
            escape(name)
        ),
    };
    output::one(args.output.format, &view, Some(name), Some(&line))?;
    Ok(ExitCode::SUCCESS)
}
