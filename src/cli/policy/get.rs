//! `callboard policy get`: prints a policy.

use std::{collections::BTreeMap, io::Write as _, process::ExitCode};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{PolicyFields, PolicyTarget, PolicyTargetArgs, StoredPolicyView, get_policy};
use crate::cli::{
    connection::ServerArgs,
    error::CliError,
    output::{json, yaml},
    terminal::{escape, print_stderr},
};

/// Format of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PolicyFormat {
    /// Text that `callboard policy set --file` reads
    Toml,
    /// The same fields as one object
    Json,
    /// The same fields as one document
    Yaml,
}

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    target: PolicyTargetArgs,
    /// Print the values of all fields, with those of the defaults and the built-in ones; as JSON and YAML with the revision
    #[arg(long)]
    effective: bool,
    #[command(flatten)]
    server: ServerArgs,
    /// Output format
    #[arg(short = 'o', long = "output", value_enum, value_name = "FORMAT", default_value = "toml")]
    format: PolicyFormat,
}

pub(super) async fn run(args: GetArgs) -> Result<ExitCode, CliError> {
    let target = args.target.target();
    let connection = args.server.connect()?;
    let response = get_policy(&connection, &target).await?;
    let policy = StoredPolicyView::from(response.policy.unwrap_or_default());
    if !args.effective && policy.policy.is_empty() {
        let verb = if target == PolicyTarget::Defaults { "are" } else { "is" };
        print_stderr(&format!("{} {verb} empty", escape(&target.to_string())));
    }
    let text = if args.effective {
        let heading = heading("effective values of", &target, &policy);
        let stored = StoredPolicyView { policy: PolicyFields::from_proto(response.effective), ..policy };
        print_effective(EffectivePolicyView { inherited: response.inherited, stored }, args.format, &heading)?
    } else {
        print(&policy.policy, args.format, &heading("", &target, &policy), &BTreeMap::new())?
    };
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Effective values of a policy as printed. Its keys are stable, because scripts read them.
#[derive(Debug, Serialize)]
struct EffectivePolicyView {
    /// The policy, with the values of all fields.
    #[serde(flatten)]
    stored: StoredPolicyView,
    /// Fields that come from the defaults of all services.
    inherited: Vec<String>,
}

fn print_effective(view: EffectivePolicyView, format: PolicyFormat, heading: &str) -> Result<String, CliError> {
    match format {
        PolicyFormat::Toml => {
            let inherited = view.inherited.into_iter();
            let comments = inherited.map(|field| (field, "from the defaults of all services".to_owned())).collect();
            print(&view.stored.policy, format, heading, &comments)
        }
        PolicyFormat::Json => Ok(json(&view, true)? + "\n"),
        PolicyFormat::Yaml => yaml(&view),
    }
}

/// Returns the comment at the beginning of the TOML: the policy and its last change.
fn heading(prefix: &str, target: &PolicyTarget, policy: &StoredPolicyView) -> String {
    let what = format!("{prefix} {target}");
    let change = match (policy.revision, &policy.time) {
        (0, _) => ", never set".to_owned(),
        (revision, None) => format!(", revision {revision}"),
        (revision, Some(time)) => format!(", revision {revision} of {time} ({})", policy.caller.cell()),
    };
    format!("# {}{}\n", what.trim_start(), escape(&change))
}

fn print(
    document: &PolicyFields,
    format: PolicyFormat,
    heading: &str,
    comments: &BTreeMap<String, String>,
) -> Result<String, CliError> {
    match format {
        PolicyFormat::Toml if document.is_empty() => Ok(String::new()),
        PolicyFormat::Toml => Ok(format!("{heading}{}", document.to_toml(comments))),
        PolicyFormat::Json => Ok(json(document, true)? + "\n"),
        PolicyFormat::Yaml => yaml(document),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        cli::policy::tests::fields,
        pb::callboard::v1::{Caller, Policy},
    };

    #[test]
    fn toml_begins_with_the_policy_and_its_last_change() {
        let caller = Caller { identity: "ops\n".to_owned(), ..Caller::default() };
        let time = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
        let policy = Policy { service: "web".to_owned(), revision: 7, time, caller: Some(caller), policy: None };
        let target = PolicyTarget::of("web".to_owned());
        let heading = heading("", &target, &policy.into());
        assert_eq!(heading, "# the policy of web, revision 7 of 1970-01-01T00:00:01.000Z (unspecified ops\\n)\n");
        let document = fields(json!({"shed": 5}));
        let none = BTreeMap::new();
        assert_eq!(print(&document, PolicyFormat::Toml, "# web\n", &none).unwrap(), "# web\nshed = 5\n");
        assert_eq!(print(&document, PolicyFormat::Json, "# web\n", &none).unwrap(), "{\n  \"shed\": 5\n}\n");
        assert_eq!(print(&document, PolicyFormat::Yaml, "# web\n", &none).unwrap(), "shed: 5\n");
        assert_eq!(print(&PolicyFields::default(), PolicyFormat::Toml, "# web\n", &none).unwrap(), "");
    }
}
