//! `callboard drain`: marks an instance as draining, on behalf of an operator.

use std::process::ExitCode;

use clap::Args;
use prost_types::FieldMask;

use super::{
    connection::{ServerArgs, with_deadline},
    deregister::InstancePath,
    error::CliError,
    output::{self, OutputArgs, Printable},
    terminal::{coloured, escape},
    view::InstanceView,
};
use crate::pb::callboard::v1::UpdateInstanceRequest;

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The instance
    #[arg(value_name = "SERVICE/ID")]
    target: InstancePath,
    /// End draining, so that the instance receives calls again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(args: DrainArgs) -> Result<ExitCode, CliError> {
    let connection = args.server.connect()?;
    let request = UpdateInstanceRequest {
        service: args.target.service,
        id: args.target.id,
        update_mask: Some(FieldMask { paths: vec!["draining".to_owned()] }),
        draining: !args.undo,
        ..UpdateInstanceRequest::default()
    };
    // The request sets a state, so it may be repeated.
    let response = connection.repeatable(async |server| {
        server.call(server.registry().update_instance(with_deadline(request.clone()))).await
    });
    let instance = InstanceView::from(response.await?.instance.unwrap_or_default());
    let name = instance.name();
    let line = format!("{} is {}", escape(&name), coloured(instance.status));
    output::one(args.output.format, &instance, Some(&name), Some(&line))?;
    Ok(ExitCode::SUCCESS)
}
