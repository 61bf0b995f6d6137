//! `callboard instances`: the instances of a service.

use std::{iter, process::ExitCode};

use clap::Args;

use super::{
    connection::{ServerArgs, with_deadline},
    error::CliError,
    output::{self, OutputArgs},
    staleness::warn_of_staleness,
    terminal::escape,
    view::InstanceView,
};
use crate::pb::callboard::v1::ListInstancesRequest;

#[derive(Debug, Args)]
pub(crate) struct InstancesArgs {
    /// The service
    #[arg(value_name = "NAME")]
    service: String,
    /// Only instances that match, as in '"v2" in tags and status == SERVING'
    #[arg(long)]
    filter: Option<String>,
    /// Only instances of this subset, as `callboard subset list` shows it
    #[arg(long, value_name = "SUBSET")]
    subset: Option<String>,
    /// Include every write that was acknowledged before, at whichever replica
    #[arg(long)]
    consistent: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(args: InstancesArgs) -> Result<ExitCode, CliError> {
    let connection = args.server.connect()?;
    let filter = args.filter.unwrap_or_default();
    let subset = args.subset.unwrap_or_default();
    let mut staleness = None;
    let instances = connection.pages(usize::MAX, async |server, page_token| {
        let request = with_deadline(ListInstancesRequest {
            service: args.service.clone(),
            filter: filter.clone(),
            page_size: 0,
            page_token,
            subset: subset.clone(),
            consistent: args.consistent,
        });
        let page = server.call(server.discovery().list_instances(request)).await?;
        staleness = page.staleness.or(staleness.take());
        let holders = page.holders.into_iter().chain(iter::repeat(String::new()));
        Ok((page.instances.into_iter().zip(holders).collect(), page.next_page_token))
    });
    let instances = instances.await?.into_iter();
    let instances: Vec<_> =
        instances.map(|(instance, holder)| InstanceView::from(instance).with_holder(holder)).collect();
    warn_of_staleness(staleness.as_ref());
    let which = if filter.is_empty() && subset.is_empty() { "" } else { " matching" };
    let empty = format!("no{which} instances of {}", escape(&args.service));
    output::list(args.output.format, &instances, &empty)?;
    Ok(ExitCode::SUCCESS)
}
