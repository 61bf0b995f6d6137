//! `callboard xds`: commands for clients that use xDS.

mod bootstrap;
mod explain;
mod stream;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{block_on, error::CliError};
pub(super) use stream::XdsStreamView;

#[derive(Debug, Args)]
pub(crate) struct XdsArgs {
    #[command(subcommand)]
    command: XdsCommand,
}

#[derive(Debug, Subcommand)]
enum XdsCommand {
    /// Print the bootstrap file of a gRPC client or of Envoy
    Bootstrap(Box<bootstrap::BootstrapArgs>),
    /// Show what a client gets that dials a name, and why it might get nothing (exit code 6 if calls fail)
    Explain(Box<explain::ExplainArgs>),
}

pub(crate) fn run(args: XdsArgs) -> Result<ExitCode, CliError> {
    match args.command {
        XdsCommand::Bootstrap(args) => bootstrap::run(&args),
        XdsCommand::Explain(args) => block_on(explain::run(*args)),
    }
}
