//! `callboard drain`: an operator's word that an instance gets no new calls.

use std::process::ExitCode;

use clap::Args;
use prost_types::FieldMask;

use super::{
    connection::{ServerArgs, ask},
    deregister::InstancePath,
    error::CliError,
    output::{self, OutputArgs, Printable, coloured, escape},
    view::InstanceView,
};
use crate::pb::callboard::v1::UpdateInstanceRequest;

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The instance
    #[arg(value_name = "SERVICE/ID")]
    target: InstancePath,
    /// Send it calls again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(args: DrainArgs) -> Result<ExitCode, CliError> {
    let connection = args.server.connect()?;
    let request = ask(UpdateInstanceRequest {
        service: args.target.service,
        id: args.target.id,
        update_mask: Some(FieldMask { paths: vec!["draining".to_owned()] }),
        draining: !args.undo,
        ..UpdateInstanceRequest::default()
    });
    let answer = connection.answer(connection.registry().update_instance(request)).await?;
    let instance = InstanceView::from(answer.instance.unwrap_or_default());
    let name = instance.name();
    let line = format!("{} is {}", escape(&name), coloured(instance.status));
    output::one(args.output.format, &instance, Some(&name), Some(&line))?;
    Ok(ExitCode::SUCCESS)
}
