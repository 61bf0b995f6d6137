//! `callboard xds`: commands for clients that use xDS.

mod bootstrap;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::error::CliError;

#[derive(Debug, Args)]
pub(crate) struct XdsArgs {
    #[command(subcommand)]
    command: XdsCommand,
}

#[derive(Debug, Subcommand)]
enum XdsCommand {
    /// Print the bootstrap file of a gRPC client or of Envoy
    Bootstrap(Box<bootstrap::BootstrapArgs>),
}

pub(crate) fn run(args: &XdsArgs) -> Result<ExitCode, CliError> {
    match &args.command {
        XdsCommand::Bootstrap(args) => bootstrap::run(args),
    }
}
