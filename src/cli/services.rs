//! `callboard services`: the registered services.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{
    connection::{ServerArgs, with_deadline},
    error::CliError,
    output::{self, OutputArgs, Printable},
    staleness::warn_of_staleness,
};
use crate::pb::callboard::v1::{ListServicesRequest, ServiceSummary};

#[derive(Debug, Args)]
pub(crate) struct ServicesArgs {
    /// Only services whose name starts with this
    #[arg(long)]
    prefix: Option<String>,
    /// Include every write that was acknowledged before, at whichever replica
    #[arg(long)]
    consistent: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct ServiceSummaryView {
    name: String,
    instances: u32,
    available: u32,
    revision: u64,
}

impl From<ServiceSummary> for ServiceSummaryView {
    fn from(service: ServiceSummary) -> Self {
        Self {
            name: service.name,
            instances: service.instances,
            available: service.available,
            revision: service.revision,
        }
    }
}

impl Printable for ServiceSummaryView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["NAME", "INSTANCES", "AVAILABLE"], &["REVISION"]);

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), self.instances.to_string(), self.available.to_string(), self.revision.to_string()]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

pub(crate) async fn run(args: ServicesArgs) -> Result<ExitCode, CliError> {
    let connection = args.server.connect()?;
    let prefix = args.prefix.unwrap_or_default();
    let mut staleness = None;
    let services = connection.pages(usize::MAX, async |server, page_token| {
        let request = with_deadline(ListServicesRequest {
            prefix: prefix.clone(),
            page_size: 0,
            page_token,
            consistent: args.consistent,
        });
        let page = server.call(server.discovery().list_services(request)).await?;
        staleness = page.staleness.or(staleness.take());
        Ok((page.services, page.next_page_token))
    });
    let services: Vec<ServiceSummaryView> = services.await?.into_iter().map(ServiceSummaryView::from).collect();
    warn_of_staleness(staleness.as_ref());
    output::list(args.output.format, &services, "no services")?;
    Ok(ExitCode::SUCCESS)
}
