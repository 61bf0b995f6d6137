//! `callboard policy diff`: the fields in which two revisions of a policy, or the policy and a file, differ.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{
    PolicyTarget, PolicyTargetArgs, StoredPolicyView,
    change::{fetch, set_policy},
    field_diff::{self, FieldChange, changes},
    fields::PolicyFields,
    history::revisions,
    rollback::{earlier, find},
    text::PolicyFile,
};
use crate::cli::{
    connection::{ServerArgs, ServerConnection},
    error::{CliError, DIFFERENT, USAGE},
    output::{self, OutputArgs, OutputFormat},
};

#[derive(Debug, Args)]
#[command(
    after_help = "Without --revision and --file, it shows what the last change did. The exit code is that of diff: 0 if the \
                  documents are equal, 1 if they differ, 2 or more after an error."
)]
pub(super) struct DiffArgs {
    #[command(flatten)]
    target: PolicyTargetArgs,
    /// Compare this revision with the present policy
    #[arg(long, value_name = "REVISION", conflicts_with = "file")]
    revision: Option<u64>,
    /// Compare the present policy with this TOML or JSON file; -: standard input
    #[arg(long, value_name = "FILE")]
    file: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Differences between two documents. Its keys are stable, because scripts read them.
#[derive(Debug, Serialize)]
struct PolicyDiffView {
    /// `None` for the defaults.
    service: Option<String>,
    before: String,
    after: String,
    changes: Vec<FieldChange>,
}

pub(super) async fn run(args: DiffArgs) -> Result<ExitCode, CliError> {
    match print(args).await {
        // The usual code of an error says here that the documents differ.
        Err(error) if error.exit_code() == DIFFERENT && !error.is_broken_pipe() => {
            error.report();
            Ok(ExitCode::from(USAGE))
        }
        result => result,
    }
}

async fn print(args: DiffArgs) -> Result<ExitCode, CliError> {
    let target = args.target.target();
    let connection = args.server.connect()?;
    let (before, after) = match &args.file {
        Some(file) => with_file(&connection, &target, file).await?,
        None => with_revision(&connection, &target, args.revision).await?,
    };
    let name = |(label, _): &(String, PolicyFields)| format!("{} ({label})", target.name());
    let view = PolicyDiffView {
        service: crate::cli::view::set(target.service()),
        before: name(&before),
        after: name(&after),
        changes: changes(&before.1, &after.1),
    };
    match args.output.format {
        OutputFormat::Table | OutputFormat::Wide if view.changes.is_empty() => {}
        OutputFormat::Table | OutputFormat::Wide => {
            field_diff::write(&mut anstream::stdout(), (&view.before, &view.after), &view.changes)?;
        }
        OutputFormat::Name => {
            for change in &view.changes {
                output::one(OutputFormat::Name, &(), Some(&change.field), None)?;
            }
        }
        format @ (OutputFormat::Json | OutputFormat::Yaml) => output::one(format, &view, None, None)?,
    }
    Ok(ExitCode::from(if view.changes.is_empty() { 0 } else { DIFFERENT }))
}

/// Returns the present document and that of a file, in the form in which the registry would store it.
async fn with_file(
    connection: &ServerConnection,
    target: &PolicyTarget,
    file: &str,
) -> Result<((String, PolicyFields), (String, PolicyFields)), CliError> {
    let document = PolicyFile::read(file)?.one(target)?;
    let present = fetch(connection, target).await?;
    let stored = set_policy(connection, target, &document, None, true).await?.policy;
    let before = (format!("revision {}", present.revision), present.fields);
    Ok((before, (file.to_owned(), PolicyFields::from_proto(stored))))
}

/// Returns the document of a revision, or of the one before the present one, and the present document.
async fn with_revision(
    connection: &ServerConnection,
    target: &PolicyTarget,
    revision: Option<u64>,
) -> Result<((String, PolicyFields), (String, PolicyFields)), CliError> {
    let revisions = revisions(connection, target).await?;
    let label = |policy: &StoredPolicyView| (format!("revision {}", policy.revision), policy.policy.clone());
    let never_set = || ("never set".to_owned(), PolicyFields::default());
    let before = match revision {
        Some(revision) => label(find(target, &revisions, revision)?),
        None => earlier(&revisions).map_or_else(never_set, label),
    };
    Ok((before, revisions.first().map_or_else(never_set, label)))
}
