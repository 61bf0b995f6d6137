//! `callboard policy list`: the policies.

use std::process::ExitCode;

use clap::Args;

use super::StoredPolicyView;
use crate::{
    cli::{
        connection::{ServerArgs, with_deadline},
        error::CliError,
        output::{self, OutputArgs, Printable},
        view::{or_dash, set},
    },
    pb::callboard::v1::ListPoliciesRequest,
};

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Printable for StoredPolicyView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["SERVICE", "REVISION", "CHANGED", "FIELDS"], &["CALLER"]);

    fn cells(&self) -> Vec<String> {
        let fields: Vec<_> = self.policy.in_order().map(|(name, _)| name).collect();
        vec![
            self.name(),
            self.revision.to_string(),
            or_dash(self.time.as_deref()),
            or_dash(set(fields.join(",")).as_deref()),
            self.caller.cell(),
        ]
    }

    fn name(&self) -> String {
        self.target().name().to_owned()
    }
}

pub(super) async fn run(args: ListArgs) -> Result<ExitCode, CliError> {
    let connection = args.server.connect()?;
    let policies = connection.pages(usize::MAX, async |server, page_token| {
        let request = with_deadline(ListPoliciesRequest { page_size: 0, page_token });
        let page = server.call(server.admin().list_policies(request)).await?;
        Ok((page.policies, page.next_page_token))
    });
    let policies: Vec<StoredPolicyView> = policies.await?.into_iter().map(StoredPolicyView::from).collect();
    output::list(args.output.format, &policies, "no policies")?;
    Ok(ExitCode::SUCCESS)
}
