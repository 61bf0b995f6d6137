//! `callboard policy apply`: sets the policies of a file with several.

use std::process::ExitCode;

use clap::Args;

use super::{
    PolicyTarget,
    change::{ChangeOptions, PolicyChangeView, fetch, finish_rollout, replaced},
    fields::PolicyFields,
    text::PolicyFile,
};
use crate::{
    cli::{
        connection::{ServerConnection, with_deadline},
        error::CliError,
    },
    pb::callboard::v1::{PolicyDraft, ValidatePoliciesRequest},
};

#[derive(Debug, Args)]
#[command(
    after_help = "The file has a table [defaults], a table [service.NAME] for each service, or both. Each table is the whole \
                  policy of its service. Policies that the file does not name stay as they are. A policy that is invalid is \
                  reported and the others are set; running the command again changes only what differs. --dry-run judges the \
                  policies as they would be once all of them are set."
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
    if args.options.is_dry_run() {
        return dry_run(&connection, policies, &args.options).await;
    }
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
        if rejected.is_empty() || rejected.len() == count {
            break rejected.into_iter().zip(errors).collect::<Vec<_>>();
        }
        left = rejected;
    };
    let (rejected, errors): (Vec<_>, Vec<_>) = errors.into_iter().unzip();
    match report(rejected.iter().map(|(target, _)| target).zip(errors)) {
        Some(code) => Ok(code),
        None => finish_rollout(&connection, newest, &args.options).await,
    }
}

/// Prints the differences and the errors that the policies would have if all of them were set.
async fn dry_run(
    connection: &ServerConnection,
    policies: Vec<(PolicyTarget, PolicyFields)>,
    options: &ChangeOptions,
) -> Result<ExitCode, CliError> {
    let draft = |(target, document): &(PolicyTarget, PolicyFields)| PolicyDraft {
        service: target.service(),
        policy: Some(document.to_proto()),
    };
    let request = ValidatePoliciesRequest { policies: policies.iter().map(draft).collect() };
    let response = connection
        .repeatable(async |server| server.call(server.admin().validate_policies(with_deadline(request.clone()))).await);
    let response = response.await?;
    let defaults = policies.iter().find(|(target, _)| *target == PolicyTarget::Defaults).map(|(_, document)| document);
    let mut errors = Vec::new();
    for ((target, _), validated) in policies.iter().zip(response.policies) {
        let Some(result) = validated.result else {
            errors.push((target, CliError::Usage(validated.error.into())));
            continue;
        };
        let present = fetch(connection, target).await?;
        let mut change = PolicyChangeView::new(target, &present, result, true);
        change.add_limitations(connection, target, defaults).await?;
        change.print(target, options.format())?;
    }
    Ok(report(errors.into_iter()).unwrap_or(ExitCode::SUCCESS))
}

/// Prints errors. Returns the exit code of the first.
fn report<'a>(errors: impl Iterator<Item = (&'a PolicyTarget, CliError)>) -> Option<ExitCode> {
    let codes: Vec<_> = errors.map(|(target, error)| error.in_part(&target.to_string()).report()).collect();
    codes.first().copied()
}

/// Sets and prints one policy. Returns its revision.
async fn set(
    connection: &ServerConnection,
    target: &PolicyTarget,
    document: &PolicyFields,
    options: &ChangeOptions,
) -> Result<u64, CliError> {
    let change = replaced(connection, target, document, None, options).await?;
    change.print(target, options.format())?;
    Ok(change.revision())
}
