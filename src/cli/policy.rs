//! `callboard policy`: policies of services, and the defaults of all services.
//!
//! | file | holds |
//! |---|---|
//! | `fields`, `text` | documents, and their TOML and JSON |
//! | `field_diff` | differences between documents |
//! | `change` | read, edit and set a policy: for all commands that change one, those of `subset` and `route` included |
//! | `rollout` | waits until clients have a policy |
//! | `limitations` | clients that would not follow a policy |
//! | others | one command each |

mod apply;
mod change;
mod diff;
mod field_diff;
mod fields;
mod get;
mod history;
mod limitations;
mod list;
mod rollback;
mod rollout;
mod set;
mod text;
mod unset;

use std::{fmt, process::ExitCode};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    connection::{ServerConnection, with_deadline},
    error::CliError,
    events::CallerView,
    view::{set as not_empty, time},
};
use crate::pb::callboard::v1::{GetPolicyRequest, GetPolicyResponse, Policy};
pub(super) use change::{ChangeArgs, edit};
pub(super) use fields::PolicyFields;
pub(super) use text::inline;

/// Name shown for the defaults of all services. No service can have it.
const DEFAULTS: &str = "*";

#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicySubcommand,
}

#[derive(Debug, Subcommand)]
enum PolicySubcommand {
    /// Change fields of a policy, or replace it by a file
    Set(Box<set::SetArgs>),
    /// Set the policies of a file with several
    Apply(apply::ApplyArgs),
    /// Print a policy
    Get(get::GetArgs),
    /// List the policies
    List(list::ListArgs),
    /// Show the fields in which two revisions of a policy, or the policy and a file, differ (exit code 1 if they do)
    Diff(diff::DiffArgs),
    /// List the last revisions of a policy, the newest last
    History(history::HistoryArgs),
    /// Set a policy to an earlier revision
    Rollback(rollback::RollbackArgs),
    /// Remove fields of a policy, or all of it
    Unset(unset::UnsetArgs),
}

pub(crate) async fn run(args: PolicyArgs) -> Result<ExitCode, CliError> {
    match args.command {
        PolicySubcommand::Set(args) => set::run(*args).await,
        PolicySubcommand::Apply(args) => apply::run(args).await,
        PolicySubcommand::Get(args) => get::run(args).await,
        PolicySubcommand::List(args) => list::run(args).await,
        PolicySubcommand::Diff(args) => diff::run(args).await,
        PolicySubcommand::History(args) => history::run(args).await,
        PolicySubcommand::Rollback(args) => rollback::run(args).await,
        PolicySubcommand::Unset(args) => unset::run(args).await,
    }
}

/// Policy that a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PolicyTarget {
    /// Defaults of all services.
    Defaults,
    /// Policy of this service.
    Service(String),
}

#[derive(Debug, Args)]
struct PolicyTargetArgs {
    /// The service
    #[arg(value_name = "SERVICE", required_unless_present = "defaults", value_parser = service_or_defaults)]
    service: Option<String>,
    /// The defaults of all services, instead of the policy of one
    #[arg(long, conflicts_with = "service")]
    defaults: bool,
}

/// Parses the name of a service. An empty one, as of an unset variable, would mean the defaults in a request.
pub(super) fn service_name(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("the service name is empty: name a service".to_owned()) } else { Ok(text.to_owned()) }
}

/// Parses the name of a service for a command that has --defaults, too.
fn service_or_defaults(text: &str) -> Result<String, String> {
    service_name(text).map_err(|error| format!("{error}, or use --defaults for the defaults of all services"))
}

impl PolicyTargetArgs {
    fn target(self) -> PolicyTarget {
        PolicyTarget::of(self.service.unwrap_or_default())
    }
}

impl PolicyTarget {
    /// Converts the service of a message, which is empty for the defaults.
    fn of(service: String) -> Self {
        if service.is_empty() { Self::Defaults } else { Self::Service(service) }
    }

    /// Returns the service for a message.
    fn service(&self) -> String {
        match self {
            Self::Defaults => String::new(),
            Self::Service(service) => service.clone(),
        }
    }

    /// Returns the arguments that name it on the command line.
    fn arguments(&self) -> &str {
        match self {
            Self::Defaults => "--defaults",
            Self::Service(service) => service,
        }
    }

    /// Returns the name for lists.
    fn name(&self) -> &str {
        match self {
            Self::Defaults => DEFAULTS,
            Self::Service(service) => service,
        }
    }
}

impl fmt::Display for PolicyTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Defaults => f.write_str("the defaults of all services"),
            Self::Service(service) => write!(f, "the policy of {service}"),
        }
    }
}

/// Policy as printed. Its keys are stable, because scripts read them.
#[derive(Debug, Serialize)]
struct StoredPolicyView {
    /// `None` for the defaults.
    service: Option<String>,
    revision: u64,
    time: Option<String>,
    caller: CallerView,
    policy: PolicyFields,
}

impl From<Policy> for StoredPolicyView {
    fn from(policy: Policy) -> Self {
        Self {
            service: not_empty(policy.service),
            revision: policy.revision,
            time: time(policy.time),
            caller: policy.caller.unwrap_or_default().into(),
            policy: PolicyFields::from_proto(policy.policy),
        }
    }
}

impl StoredPolicyView {
    fn target(&self) -> PolicyTarget {
        PolicyTarget::of(self.service.clone().unwrap_or_default())
    }
}

/// Fetches a policy.
async fn get_policy(connection: &ServerConnection, target: &PolicyTarget) -> Result<GetPolicyResponse, CliError> {
    let request = GetPolicyRequest { service: target.service() };
    let response = connection
        .repeatable(async |server| server.call(server.admin().get_policy(with_deadline(request.clone()))).await);
    response.await
}

/// Fetches the present document of a service's policy.
pub(super) async fn present(connection: &ServerConnection, service: &str) -> Result<PolicyFields, CliError> {
    let response = get_policy(connection, &PolicyTarget::of(service.to_owned())).await?;
    Ok(PolicyFields::from_proto(response.policy.unwrap_or_default().policy))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::Value;

    use super::*;

    /// Returns the document with these fields.
    pub(in crate::cli) fn fields(document: Value) -> PolicyFields {
        let Value::Object(fields) = document else { panic!("{document} is no document") };
        PolicyFields(fields)
    }

    #[test]
    fn target_of_a_message_without_a_service_is_the_defaults() {
        for (service, name, text) in [("", "*", "the defaults of all services"), ("web", "web", "the policy of web")] {
            let target = PolicyTarget::of(service.to_owned());
            assert_eq!((&*target.service(), target.name(), &*target.to_string()), (service, name, text));
        }
    }
}
