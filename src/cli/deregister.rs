//! `callboard deregister`: removes an instance, on behalf of an operator.

use std::{process::ExitCode, str::FromStr};

use clap::Args;
use serde::Serialize;

use super::{
    connection::{ServerArgs, is_outcome_unknown, with_deadline},
    error::CliError,
    output::{self, OutputArgs},
    terminal::escape,
};
use crate::pb::callboard::v1::DeregisterRequest;

/// Service and id of an instance, written `SERVICE/ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InstancePath {
    pub(crate) service: String,
    pub(crate) id: String,
}

impl FromStr for InstancePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            // An id may have slashes; a service name has none.
            Some((service, id)) if !service.is_empty() && !id.is_empty() => {
                Ok(Self { service: service.to_owned(), id: id.to_owned() })
            }
            _ => Err("it is not an instance; write SERVICE/ID, as `callboard instances SERVICE -o name` prints it"
                .to_owned()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct DeregisterArgs {
    /// The instance
    #[arg(value_name = "SERVICE/ID")]
    target: InstancePath,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct DeregisteredView {
    service: String,
    id: String,
    removed: bool,
    revision: u64,
}

pub(crate) async fn run(args: DeregisterArgs) -> Result<ExitCode, CliError> {
    let connection = args.server.connect()?;
    let request = DeregisterRequest {
        service: args.target.service.clone(),
        id: args.target.id.clone(),
        ..DeregisterRequest::default()
    };
    let name = format!("{}/{}", args.target.service, args.target.id);
    // A second request could remove an instance that has registered again after the first.
    let response =
        connection.once(async |server| server.call(server.registry().deregister(with_deadline(request.clone()))).await);
    let response = response.await.map_err(|error| match error {
        CliError::Call { address, error } if is_outcome_unknown(&error) => CliError::OutcomeUnknown(format!(
            "the connection to the registry at {address} was lost while {name} was removed: {error}; it may have been removed: \
             see `callboard instances {}`, and run the command again if it has not",
            request.service
        )),
        error => error,
    })?;
    let line = format!("deregistered {} (revision {})", escape(&name), response.revision);
    let view = DeregisteredView {
        service: args.target.service,
        id: args.target.id,
        removed: response.removed,
        revision: response.revision,
    };
    output::one(args.output.format, &view, Some(&name), Some(&line))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_path_is_a_service_and_an_id() {
        let target: InstancePath = "web/rack/7".parse().unwrap();
        assert_eq!((target.service.as_str(), target.id.as_str()), ("web", "rack/7"));
        for wrong in ["", "web", "web/", "/a"] {
            assert!(wrong.parse::<InstancePath>().unwrap_err().contains("SERVICE/ID"), "{wrong}");
        }
    }
}
