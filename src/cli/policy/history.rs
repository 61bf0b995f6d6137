//! `callboard policy history`: the last revisions of a policy.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{PolicyTarget, PolicyTargetArgs, StoredPolicyView, field_diff::changes, fields::PolicyFields};
use crate::{
    cli::{
        connection::{ServerArgs, ServerConnection, with_deadline},
        error::CliError,
        output::{self, OutputArgs, Printable},
        terminal::escape,
        view::or_dash,
    },
    pb::callboard::v1::ListPolicyRevisionsRequest,
};

/// Number of revisions that the registry keeps of a policy.
const MAX_REVISIONS: usize = 20;

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    #[command(flatten)]
    target: PolicyTargetArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Revision of a policy, and the fields that it changed.
#[derive(Debug, Serialize)]
struct PolicyRevisionView {
    #[serde(flatten)]
    policy: StoredPolicyView,
    /// `None` if the history is full, so that the revision before may be gone.
    changed: Option<Vec<String>>,
}

impl Printable for PolicyRevisionView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["REVISION", "TIME", "CALLER", "CHANGED FIELDS"], &[]);

    fn cells(&self) -> Vec<String> {
        let changed = self.changed.as_ref().map(|changed| changed.join(","));
        let changed = if self.policy.policy.is_empty() { Some("removed".to_owned()) } else { changed };
        vec![
            self.policy.revision.to_string(),
            or_dash(self.policy.time.as_deref()),
            self.policy.caller.cell(),
            or_dash(changed.as_deref()),
        ]
    }

    fn name(&self) -> String {
        self.policy.revision.to_string()
    }
}

pub(super) async fn run(args: HistoryArgs) -> Result<ExitCode, CliError> {
    let target = args.target.target();
    let revisions = revisions(&args.server.connect()?, &target).await?;
    let empty = format!("{} was never set", escape(&target.to_string()));
    output::list(args.output.format, &with_changes(revisions), &empty)?;
    Ok(ExitCode::SUCCESS)
}

/// Fetches the last revisions of a policy, the newest first.
pub(super) async fn revisions(
    connection: &ServerConnection,
    target: &PolicyTarget,
) -> Result<Vec<StoredPolicyView>, CliError> {
    let request = ListPolicyRevisionsRequest { service: target.service() };
    let response = connection.repeatable(async |server| {
        server.call(server.admin().list_policy_revisions(with_deadline(request.clone()))).await
    });
    Ok(response.await?.revisions.into_iter().map(StoredPolicyView::from).collect())
}

/// Adds to each revision the fields that it changed, and returns the newest last.
fn with_changes(mut revisions: Vec<StoredPolicyView>) -> Vec<PolicyRevisionView> {
    revisions.reverse();
    // As long as the history is not full, its first revision created the policy.
    let mut before = (revisions.len() < MAX_REVISIONS).then(PolicyFields::default);
    let mut views = Vec::new();
    for policy in revisions {
        let fields = before.map(|before| changes(&before, &policy.policy));
        let changed = fields.map(|fields| fields.into_iter().map(|change| change.field).collect());
        before = Some(policy.policy.clone());
        views.push(PolicyRevisionView { policy, changed });
    }
    views
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{cli::policy::tests::fields, pb::callboard::v1::Policy};

    #[test]
    fn revisions_are_shown_with_the_fields_that_each_changed() {
        let revision = |revision, document| {
            let policy = Some(fields(document).to_proto());
            StoredPolicyView::from(Policy { service: "web".to_owned(), revision, policy, ..Policy::default() })
        };
        let newest_first = vec![
            revision(9, json!({})),
            revision(8, json!({"lb": "ring_hash", "retry": {"attempts": 2}})),
            revision(5, json!({"lb": "round_robin", "shed": 5})),
        ];
        let views = with_changes(newest_first);
        let cells: Vec<_> = views.iter().map(|view| [view.cells()[0].clone(), view.cells()[3].clone()]).collect();
        assert_eq!(cells, [["5", "lb,shed"], ["8", "lb,retry.attempts,shed"], ["9", "removed"]]);
        let view = serde_json::to_value(&views[0]).unwrap();
        let keys = [&view["revision"], &view["policy"]["shed"], &view["changed"]];
        assert_eq!(keys, [&json!(5), &json!(5), &json!(["lb", "shed"])]);
        let full = (1..=20).rev().map(|number| revision(number, json!({"shed": number}))).collect();
        assert_eq!(with_changes(full)[0].cells()[3], "-", "the revision before may be gone");
    }
}
