//! `callboard self-preservation reset`: removes the instances that self-preservation holds.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::WHOLE;
use crate::{
    cli::{
        connection::{ServerArgs, with_deadline},
        error::CliError,
        output::{self, OutputArgs},
        replicas::{ReplicaItem, ask_each},
        terminal::escape,
        view::set,
    },
    pb::callboard::v1::ResetSelfPreservationRequest,
};

#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// The service
    #[arg(value_name = "SERVICE", required_unless_present = "all", conflicts_with = "all")]
    service: Option<String>,
    /// All services, and the registry as a whole
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct ResetView {
    /// `None` for all services.
    service: Option<String>,
    released_instances: u32,
}

pub(super) async fn run(args: ResetArgs) -> Result<ExitCode, CliError> {
    let request = ResetSelfPreservationRequest { service: args.service.unwrap_or_default(), all: args.all };
    // Every replica holds the instances whose leases it has.
    let found = ask_each(&args.server, async |server| {
        let request = with_deadline(request.clone());
        let response = server.call(server.admin().reset_self_preservation(request)).await?;
        Ok((response.replica, response.released_instances))
    });
    let found = found.await?;
    for (replica, released_instances) in &found.answers {
        let item = ResetView { service: set(request.service.clone()), released_instances: *released_instances };
        let line = if found.are_several() { format!("{}: {}", escape(replica), item.line()) } else { item.line() };
        let view = ReplicaItem { replica: replica.clone(), item };
        output::one(args.output.format, &view, Some(view.item.name()), Some(&line))?;
    }
    Ok(found.finish(0))
}

impl ResetView {
    fn name(&self) -> &str {
        self.service.as_deref().unwrap_or(WHOLE)
    }

    fn line(&self) -> String {
        let name = escape(self.name());
        match self.released_instances {
            0 => format!("{name}: no instances miss heartbeats"),
            count => format!("{name}: instances that are removed now or when their leases expire: {count}"),
        }
    }
}
