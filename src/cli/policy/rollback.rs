//! `callboard policy rollback`: sets a policy to an earlier revision.

use std::process::ExitCode;

use clap::Args;

use super::{
    PolicyTarget, PolicyTargetArgs, StoredPolicyView,
    change::{ChangeArgs, restore},
    history::revisions,
};
use crate::cli::error::CliError;

#[derive(Debug, Args)]
#[command(
    after_help = "The policy gets a new revision with the document of the earlier one. Without --revision, a second rollback \
                  undoes the first: to go further back, name a revision of `callboard policy history`."
)]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    target: PolicyTargetArgs,
    /// Revision whose document is set [default: the one before the present]
    #[arg(long, value_name = "REVISION")]
    revision: Option<u64>,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(super) async fn run(args: RollbackArgs) -> Result<ExitCode, CliError> {
    let target = args.target.target();
    let revisions = revisions(&args.change.options.server.connect()?, &target).await?;
    let wanted = match args.revision {
        Some(revision) => find(&target, &revisions, revision)?,
        None => earlier(&revisions).ok_or_else(|| {
            CliError::NotFound(format!(
                "{target} has no earlier revision; remove it with `callboard policy unset {}`",
                target.arguments()
            ))
        })?,
    };
    let wanted = (wanted.revision, wanted.policy.clone());
    let mut change = args.change;
    // A change that was made since the history was read is not undone unseen.
    change.if_revision = change.if_revision.or(revisions.first().map(|present| present.revision));
    restore(target, change, wanted).await
}

/// Returns the revision before the present one, from a history with the newest first.
pub(super) fn earlier(revisions: &[StoredPolicyView]) -> Option<&StoredPolicyView> {
    revisions.get(1)
}

/// Returns a revision of a history.
pub(super) fn find<'a>(
    target: &PolicyTarget,
    revisions: &'a [StoredPolicyView],
    revision: u64,
) -> Result<&'a StoredPolicyView, CliError> {
    revisions.iter().find(|policy| policy.revision == revision).ok_or_else(|| {
        CliError::NotFound(format!(
            "revision {revision} is not in the history of {target}; `callboard policy history {}` lists the revisions",
            target.arguments()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::callboard::v1::Policy;

    #[test]
    fn revision_that_is_not_in_the_history_is_an_error_with_a_hint() {
        let revisions: Vec<StoredPolicyView> =
            [9, 4].map(|revision| Policy { revision, ..Policy::default() }.into()).into_iter().collect();
        assert_eq!(find(&PolicyTarget::Defaults, &revisions, 4).unwrap().revision, 4);
        assert_eq!(earlier(&revisions).map(|policy| policy.revision), Some(4));
        let error = find(&PolicyTarget::Defaults, &revisions, 5).unwrap_err().to_string();
        assert!(error.contains("revision 5 is not") && error.contains("history --defaults`"), "{error}");
    }
}
