//! `callboard completion`: completion scripts for shells.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Args;
use clap_complete::Shell;

use super::{command, error::CliError};

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionArgs) -> Result<ExitCode, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "callboard", &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
