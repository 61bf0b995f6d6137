//! `callboard policy apply`: sets the policies of a file with several.

use std::process::ExitCode;

use clap::Args;

use super::{
    PolicyTarget,
    change::{ChangeOptions, complete, finish_rollout, replaced},
    fields::PolicyFields,
    text::PolicyFile,
};
use crate::cli::{connection::ServerConnection, error::CliError};

#[derive(Debug, Args)]
#[command(
    after_help = "The file has a table [defaults], a table [service.NAME] for each service, or both. Each table is the whole \
                  policy of its service. Policies that the file does not name stay as they are. A policy that is invalid is \
                  reported and the others are set; running the command again changes only what differs."
)]
pub(super) struct ApplyArgs {
    /// TOML or JSON file; -: standard input
    #[arg(long, value_name = "FILE")]
    file: String,
    #[command(flatten)]
    options: ChangeOptions,
}

pub(super) async fn run(args: ApplyArgs) -> Result<ExitCode, CliError> {
    let policies = PolicyFile::read(&args.file)?.several()?;
    let connection = args.options.server.connect()?;
    let mut newest = 0;
    let mut left = policies;
    // A policy may become valid only after a later one, for example when two services exchange their fallbacks. So the policies that
    // are rejected are tried again as long as others have been accepted.
    let errors = loop {
        let (mut rejected, mut errors) = (Vec::new(), Vec::new());
        let count = left.len();
        for (target, document) in left {
            match set(&connection, &target, &document, &args.options).await {
                Ok(revision) => newest = newest.max(revision),
                Err(error) if error.is_rejection() => {
                    rejected.push((target, document));
                    errors.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        if rejected.is_empty() || rejected.len() == count || args.options.is_dry_run() {
            break rejected.into_iter().zip(errors).collect::<Vec<_>>();
        }
        left = rejected;
    };
    let mut exit_code = None;
    for ((target, _), error) in errors {
        let code = error.in_part(&target.to_string()).report();
        exit_code.get_or_insert(code);
    }
    match exit_code {
        Some(code) => Ok(code),
        None => finish_rollout(&connection, newest, &args.options).await,
    }
}

/// Sets and prints one policy. Returns its revision.
async fn set(
    connection: &ServerConnection,
    target: &PolicyTarget,
    document: &PolicyFields,
    options: &ChangeOptions,
) -> Result<u64, CliError> {
    let mut change = replaced(connection, target, document, None, options).await?;
    complete(connection, target, &mut change, options).await?;
    change.print(target, options.format())?;
    Ok(change.revision())
}
