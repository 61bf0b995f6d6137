//! `callboard policy unset`: removes fields of a policy, or all of it.

use std::process::ExitCode;

use clap::Args;

use super::{
    PolicyTarget,
    change::{ChangeArgs, edit},
    fields::{FIELDS, PolicyFields},
    service_or_defaults,
};
use crate::cli::error::CliError;

#[derive(Debug, Args)]
#[command(
    after_help = "A field that a service does not set has the value of the defaults of all services; one that these do not \
                  set either has its built-in value."
)]
pub(super) struct UnsetArgs {
    /// The service
    #[arg(value_name = "SERVICE", required_unless_present = "defaults", value_parser = service_or_defaults)]
    service: Option<String>,
    /// Fields to remove, for example retry, retry.backoff or route [default: all]
    #[arg(value_name = "FIELD")]
    fields: Vec<String>,
    /// The defaults of all services, instead of the policy of one
    #[arg(long)]
    defaults: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

impl UnsetArgs {
    /// Returns the policy and the fields to remove. With --defaults, the first positional argument is a field, too.
    fn target_and_fields(&self) -> (PolicyTarget, Vec<String>) {
        let service = self.service.clone().unwrap_or_default();
        if !self.defaults {
            return (PolicyTarget::of(service), self.fields.clone());
        }
        (PolicyTarget::Defaults, self.service.iter().chain(&self.fields).cloned().collect())
    }
}

pub(super) async fn run(args: UnsetArgs) -> Result<ExitCode, CliError> {
    let (target, fields) = args.target_and_fields();
    edit(target, args.change, |document| remove(document, &fields)).await
}

/// Removes these fields, or all if there are none.
fn remove(document: &mut PolicyFields, fields: &[String]) -> Result<(), CliError> {
    if fields.is_empty() {
        *document = PolicyFields::default();
    }
    for path in fields {
        let name = path.split('.').next().unwrap_or_default();
        // A field of a newer server may be unknown here; one that is present is none of a misspelt name.
        if !document.remove(path) && !FIELDS.contains(&name) {
            let text = format!("`{path}` is not a field of a policy; the fields are {}", FIELDS.join(", "));
            return Err(CliError::Usage(text.into()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::cli::policy::tests::fields;

    #[derive(Debug, Parser)]
    struct TestCommand {
        #[command(flatten)]
        args: UnsetArgs,
    }

    fn parse(line: &str) -> (PolicyTarget, Vec<String>) {
        let command = TestCommand::try_parse_from(["unset"].into_iter().chain(line.split(' '))).unwrap();
        command.args.target_and_fields()
    }

    #[test]
    fn names_are_the_service_and_its_fields_or_with_defaults_fields_only() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let web = PolicyTarget::of("web".to_owned());
        assert_eq!(parse("web"), (web.clone(), names(&[])));
        assert_eq!(parse("web lb retry.on"), (web, names(&["lb", "retry.on"])));
        assert_eq!(parse("--defaults"), (PolicyTarget::Defaults, names(&[])));
        assert_eq!(parse("--defaults lb zone"), (PolicyTarget::Defaults, names(&["lb", "zone"])));
    }

    #[test]
    fn fields_are_removed_and_misspelt_ones_rejected() {
        let whole = fields(json!({"lb": "ring_hash", "shed": 5, "newer": 1, "subsets": {"v1": "a", "v2": "b"}}));
        let removed = |names: &[&str]| {
            let mut document = whole.clone();
            remove(&mut document, &names.iter().map(ToString::to_string).collect::<Vec<_>>()).map(|()| document)
        };
        assert_eq!(removed(&[]).unwrap(), PolicyFields::default());
        assert_eq!(
            removed(&["lb", "zone", "newer", "subsets.v2"]).unwrap(),
            fields(json!({"shed": 5, "subsets": {"v1": "a"}}))
        );
        let error = removed(&["timeuot"]).unwrap_err().to_string();
        assert!(error.contains("`timeuot`") && error.contains("timeout"), "{error}");
    }
}
