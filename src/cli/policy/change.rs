//! Read, edit and set a policy, and the output of commands that do so.

use std::{io::Write as _, process::ExitCode, time::Duration};

use clap::Args;
use serde::Serialize;
use tokio::time::sleep;
use tonic::Code;

use super::{
    PolicyTarget,
    field_diff::{self, FieldChange, changes},
    fields::PolicyFields,
    get_policy,
    limitations::{PolicyLimitationView, limitations},
    rollout::{RolloutView, wait_for_rollout},
};
use crate::{
    cli::{
        connection::{ServerArgs, ServerConnection, is_outcome_unknown, with_deadline},
        error::{CliError, TIMED_OUT},
        output::{self, OutputArgs, OutputFormat},
        terminal::{escape, print_stderr},
        view::set,
    },
    client::{Backoff, ClientError},
    pb::callboard::v1::{PolicyWarning, SetPolicyRequest, SetPolicyResponse},
};

/// Attempts to change a policy that others change at the same time. With the delays between them, they last about 8 seconds.
const MAX_ATTEMPTS: u32 = 100;

/// Arguments of the commands that change one policy.
#[derive(Debug, Args)]
pub(in crate::cli) struct ChangeArgs {
    /// Change the policy only if it has this revision; 0: only if there is none
    #[arg(long, value_name = "REVISION")]
    pub(super) if_revision: Option<u64>,
    #[command(flatten)]
    pub(super) options: ChangeOptions,
}

/// Arguments of the commands that change policies.
#[derive(Debug, Args)]
pub(super) struct ChangeOptions {
    /// Change nothing; print the differences, and the fields that connected clients would not follow
    #[arg(long)]
    dry_run: bool,
    /// Wait until all connected xDS clients have the policy, for at most this time: 30s without a value (exit code 7 after it)
    #[arg(
        long,
        value_name = "DURATION",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "30s",
        value_parser = humantime::parse_duration,
        conflicts_with = "dry_run"
    )]
    pub(super) wait: Option<Duration>,
    #[command(flatten)]
    pub(super) server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Policy and its revision before a change.
#[derive(Debug, Clone, Default)]
pub(super) struct PresentPolicy {
    pub(super) fields: PolicyFields,
    pub(super) revision: u64,
}

/// Result of a change. Its keys are stable, because scripts read them.
#[derive(Debug, Serialize)]
pub(super) struct PolicyChangeView {
    /// `None` for the defaults.
    service: Option<String>,
    revision: u64,
    changed: bool,
    dry_run: bool,
    /// Fields that differ from the policy before.
    changes: Vec<FieldChange>,
    warnings: Vec<PolicyWarningView>,
    /// `None` without --dry-run.
    limitations: Option<Vec<PolicyLimitationView>>,
    /// `None` without --wait.
    rollout: Option<RolloutView>,
    policy: PolicyFields,
    /// Earlier revision that a rollback has set again.
    #[serde(skip)]
    restored: Option<u64>,
}

#[derive(Debug, Serialize)]
struct PolicyWarningView {
    field: String,
    problem: String,
    hint: String,
}

impl From<PolicyWarning> for PolicyWarningView {
    fn from(PolicyWarning { field, problem, hint }: PolicyWarning) -> Self {
        Self { field, problem, hint }
    }
}

/// Reads the present policy, edits it, and sets it, unless another client changes it in between; then it starts again.
pub(in crate::cli) async fn edit(
    target: PolicyTarget,
    args: ChangeArgs,
    edit: impl FnMut(&mut PolicyFields) -> Result<(), CliError>,
) -> Result<ExitCode, CliError> {
    let connection = args.options.server.connect()?;
    let change = edited(&connection, &target, &args, edit).await?;
    finish(&connection, &target, change, &args.options).await
}

/// Sets a policy to the document of an earlier revision.
pub(super) async fn restore(
    target: PolicyTarget,
    args: ChangeArgs,
    (revision, document): (u64, PolicyFields),
) -> Result<ExitCode, CliError> {
    let connection = args.options.server.connect()?;
    let set = |present: &mut PolicyFields| {
        present.clone_from(&document);
        Ok(())
    };
    let mut change = edited(&connection, &target, &args, set).await?;
    change.restored = Some(revision);
    finish(&connection, &target, change, &args.options).await
}

async fn edited(
    connection: &ServerConnection,
    target: &PolicyTarget,
    args: &ChangeArgs,
    mut edit: impl FnMut(&mut PolicyFields) -> Result<(), CliError>,
) -> Result<PolicyChangeView, CliError> {
    let mut attempts = 1;
    loop {
        let present = fetch(connection, target).await?;
        let mut document = present.fields.clone();
        edit(&mut document)?;
        let expected = args.if_revision.unwrap_or(present.revision);
        match set_policy(connection, target, &document, Some(expected), args.options.dry_run).await {
            Err(CliError::Conflict(_)) if args.if_revision.is_none() => {
                if attempts == MAX_ATTEMPTS {
                    return Err(CliError::Conflict(format!(
                        "others keep changing {target}, and nothing was set: run the command again"
                    )));
                }
                attempts += 1;
                // A change takes milliseconds, so the shortest delay suffices. Its jitter separates those that compete.
                sleep(Backoff::new().delay(None)).await;
            }
            response => return Ok(PolicyChangeView::new(target, &present, response?, args.options.dry_run)),
        }
    }
}

/// Sets a policy to a document, whatever it is at present, unless the arguments ask for a revision.
pub(super) async fn replace(
    target: &PolicyTarget,
    args: &ChangeArgs,
    document: &PolicyFields,
) -> Result<ExitCode, CliError> {
    let connection = args.options.server.connect()?;
    let change = replaced(&connection, target, document, args.if_revision, &args.options).await?;
    finish(&connection, target, change, &args.options).await
}

/// Sets a policy to a document without printing anything.
pub(super) async fn replaced(
    connection: &ServerConnection,
    target: &PolicyTarget,
    document: &PolicyFields,
    expected: Option<u64>,
    options: &ChangeOptions,
) -> Result<PolicyChangeView, CliError> {
    let present = fetch(connection, target).await?;
    let response = set_policy(connection, target, document, expected, options.dry_run).await?;
    Ok(PolicyChangeView::new(target, &present, response, options.dry_run))
}

pub(super) async fn fetch(connection: &ServerConnection, target: &PolicyTarget) -> Result<PresentPolicy, CliError> {
    let policy = get_policy(connection, target).await?.policy.unwrap_or_default();
    Ok(PresentPolicy { fields: PolicyFields::from_proto(policy.policy), revision: policy.revision })
}

pub(super) async fn set_policy(
    connection: &ServerConnection,
    target: &PolicyTarget,
    document: &PolicyFields,
    expected_revision: Option<u64>,
    dry_run: bool,
) -> Result<SetPolicyResponse, CliError> {
    let request =
        SetPolicyRequest { service: target.service(), policy: Some(document.to_proto()), expected_revision, dry_run };
    // A whole document is set, to a known revision or to any, so the request may be repeated: it changes nothing the second time.
    let mut lost: Option<(String, ClientError)> = None;
    let response = connection.repeatable(async |server| {
        let response = server.call(server.admin().set_policy(with_deadline(request.clone()))).await;
        if let Err(error) = &response
            && is_outcome_unknown(error)
        {
            lost = Some((server.address(), error.clone()));
        }
        response
    });
    let response = response.await;
    let is_conflict =
        |error: &ClientError| matches!(error, ClientError::Rejected(status) if status.code() == Code::Aborted);
    response.map_err(|error| match (error, lost) {
        (CliError::Call { error, .. }, None) if is_conflict(&error) => CliError::Conflict(error.to_string()),
        // The other revision may be that of the lost request.
        (CliError::Call { .. } | CliError::NoServer(_), Some((address, error))) if !dry_run => {
            CliError::OutcomeUnknown(format!(
                "the connection to the registry at {address} was lost while {target} was set: {error}; it may have been set: see \
                 `callboard policy history {}`, and run the command again if it has not",
                target.arguments()
            ))
        }
        (error, _) => error,
    })
}

/// Completes and prints a change.
async fn finish(
    connection: &ServerConnection,
    target: &PolicyTarget,
    mut change: PolicyChangeView,
    options: &ChangeOptions,
) -> Result<ExitCode, CliError> {
    if options.dry_run {
        change.add_limitations(connection, target, None).await?;
    }
    let is_text = matches!(options.output.format, OutputFormat::Table | OutputFormat::Wide);
    if is_text || options.wait.is_none() {
        // People see that the policy is set before they wait.
        change.print(target, options.output.format)?;
    }
    let Some(limit) = options.wait else { return Ok(ExitCode::SUCCESS) };
    let rollout = wait_for_rollout(connection, target.service(), change.revision, limit).await?;
    let is_complete = rollout.is_complete();
    if is_text {
        rollout.print(options.output.format, limit, target.arguments())?;
    } else {
        change.rollout = Some(rollout);
        change.print(target, options.output.format)?;
    }
    Ok(ExitCode::from(if is_complete { 0 } else { TIMED_OUT }))
}

/// Waits for the clients of all services after several changes, if the arguments ask for it.
pub(super) async fn finish_rollout(
    connection: &ServerConnection,
    revision: u64,
    options: &ChangeOptions,
) -> Result<ExitCode, CliError> {
    let Some(limit) = options.wait else { return Ok(ExitCode::SUCCESS) };
    let rollout = wait_for_rollout(connection, String::new(), revision, limit).await?;
    match options.output.format {
        format @ (OutputFormat::Table | OutputFormat::Wide) => rollout.print(format, limit, "SERVICE")?,
        format @ (OutputFormat::Json | OutputFormat::Yaml | OutputFormat::Name) => {
            output::one(format, &rollout, None, None)?;
        }
    }
    Ok(ExitCode::from(if rollout.is_complete() { 0 } else { TIMED_OUT }))
}

impl ChangeOptions {
    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    pub(super) fn format(&self) -> OutputFormat {
        self.output.format
    }
}

impl PolicyChangeView {
    pub(super) fn new(
        target: &PolicyTarget,
        before: &PresentPolicy,
        response: SetPolicyResponse,
        dry_run: bool,
    ) -> Self {
        let policy = PolicyFields::from_proto(response.policy);
        Self {
            service: set(target.service()),
            revision: response.revision,
            changed: response.changed,
            dry_run,
            changes: changes(&before.fields, &policy),
            warnings: response.warnings.into_iter().map(PolicyWarningView::from).collect(),
            limitations: None,
            rollout: None,
            policy,
            restored: None,
        }
    }

    /// Adds the fields that connected clients would not follow. `defaults`: defaults that are set along with the policy.
    pub(super) async fn add_limitations(
        &mut self,
        connection: &ServerConnection,
        target: &PolicyTarget,
        defaults: Option<&PolicyFields>,
    ) -> Result<(), CliError> {
        self.limitations = Some(limitations(connection, target, &self.policy, defaults).await?);
        Ok(())
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Prints the change, its warnings to standard error, and for a dry run the differences and the clients that would not follow
    /// the policy.
    pub(super) fn print(&self, target: &PolicyTarget, format: OutputFormat) -> Result<(), CliError> {
        for PolicyWarningView { field, problem, hint } in &self.warnings {
            print_stderr(&format!("warning: {}", escape(&format!("{target}: {field} {problem}; {hint}"))));
        }
        if self.dry_run && self.changed && matches!(format, OutputFormat::Table | OutputFormat::Wide) {
            let names =
                (format!("{} (revision {})", target.name(), self.revision), format!("{} (dry run)", target.name()));
            field_diff::write(&mut anstream::stdout(), (&names.0, &names.1), &self.changes)?;
        } else {
            output::one(format, self, Some(target.name()), Some(&self.line(target)))?;
        }
        match &self.limitations {
            Some(limitations) if matches!(format, OutputFormat::Table | OutputFormat::Wide) => {
                if !limitations.is_empty() {
                    writeln!(anstream::stdout())?;
                }
                output::list(format, limitations, "every connected client would follow the policy")
            }
            Some(_) | None => Ok(()),
        }
    }

    fn line(&self, target: &PolicyTarget) -> String {
        let text = match (self.changed, self.policy.is_empty()) {
            (false, _) => format!("{target}: no change (revision {})", self.revision),
            (true, true) => format!("removed {target} (revision {})", self.revision),
            (true, false) => match self.restored {
                None => format!("set {target} (revision {})", self.revision),
                Some(restored) => {
                    let changes: Vec<_> = self.changes.iter().map(FieldChange::text).collect();
                    format!(
                        "set {target} back to revision {restored} (revision {}): {}",
                        self.revision,
                        changes.join(", ")
                    )
                }
            },
        };
        escape(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::policy::tests::fields;

    fn change(before: serde_json::Value, after: serde_json::Value, changed: bool) -> PolicyChangeView {
        let response = SetPolicyResponse {
            revision: 7,
            changed,
            warnings: vec![PolicyWarning { field: "subsets.v2".into(), ..PolicyWarning::default() }],
            policy: Some(fields(after).to_proto()),
        };
        let present = PresentPolicy { fields: fields(before), revision: 6 };
        PolicyChangeView::new(&PolicyTarget::of("web".to_owned()), &present, response, false)
    }

    #[test]
    fn change_says_what_happened_and_to_which_policy() {
        let web = PolicyTarget::of("web".to_owned());
        let set = json!({"lb": "ring_hash"});
        assert_eq!(change(json!({}), set.clone(), true).line(&web), "set the policy of web (revision 7)");
        assert_eq!(change(set.clone(), json!({}), true).line(&web), "removed the policy of web (revision 7)");
        let unchanged = change(set.clone(), set, false);
        assert_eq!(unchanged.line(&web), "the policy of web: no change (revision 7)");
        assert_eq!(unchanged.line(&PolicyTarget::Defaults), "the defaults of all services: no change (revision 7)");
        let mut restored = change(json!({"default": {"v1": 1}, "shed": 5}), json!({"default": {"v1": 90}}), true);
        restored.restored = Some(3);
        let expected = "set the policy of web back to revision 3 (revision 7): shed 5 → none, default.v1 1 → 90";
        assert_eq!(restored.line(&web), expected);
    }

    #[test]
    fn change_has_stable_keys() {
        let view = change(json!({"shed": 5}), json!({"lb": "ring_hash"}), true);
        assert_eq!(
            serde_json::to_value(&view).unwrap(),
            json!({
                "service": "web", "revision": 7, "changed": true, "dry_run": false,
                "changes": [
                    {"field": "lb", "before": null, "after": "ring_hash"},
                    {"field": "shed", "before": 5, "after": null},
                ],
                "warnings": [{"field": "subsets.v2", "problem": "", "hint": ""}],
                "limitations": null, "rollout": null, "policy": {"lb": "ring_hash"},
            })
        );
    }
}
