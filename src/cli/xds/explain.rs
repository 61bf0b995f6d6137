//! `callboard xds explain`: what a client gets that dials a name, and why it might get nothing.

mod cluster_view;
mod policy_view;
mod stream_view;
mod view;

use std::{io::Write as _, process::ExitCode};

use clap::Args;

use crate::{
    cli::{
        connection::{ServerArgs, with_deadline},
        error::{CliError, FINDINGS},
        output::{self, OutputArgs, OutputFormat},
        terminal::escape,
    },
    pb::callboard::v1::{ExplainRequest, ExplainResponse, XdsLocality},
};
use view::ExplanationView;

#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "the comments are help texts, which are plain text")]
pub(super) struct ExplainArgs {
    /// Name that the client dials: xds:///payments, payments, payments:50051
    #[arg(value_name = "TARGET")]
    target: String,
    /// Library of the client and its version, as in go@1.85.0: cpp, go, java, node, php, python, ruby, tonic or envoy
    #[arg(long = "as", value_name = "LIBRARY@VERSION")]
    agent: Option<String>,
    /// Zone of the client, as in eu/a
    #[arg(long, value_name = "REGION/ZONE")]
    zone: Option<String>,
    /// Header of the call, as in x-canary=true; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Method of the call, as in /pay.v1.Payments/Charge
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Subset whose endpoints are shown, instead of those of the cluster with the largest share of the calls
    #[arg(long, value_name = "NAME")]
    subset: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Parses a header.
fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) => Err("it has no name; write NAME=VALUE, as in x-canary=true".to_owned()),
        None => Err("it has no value; write NAME=VALUE, as in x-canary=true".to_owned()),
    }
}

pub(super) async fn run(args: ExplainArgs) -> Result<ExitCode, CliError> {
    let connection = args.server.connect()?;
    let asked = ExplainRequest {
        target: args.target.clone(),
        agent: args.agent.unwrap_or_default(),
        zone: args.zone.unwrap_or_default(),
        headers: args.headers.into_iter().collect(),
        method: args.method.unwrap_or_default(),
        subset: args.subset.unwrap_or_default(),
        ..ExplainRequest::default()
    };
    let pages = connection.pages(usize::MAX, async |server, page_token| {
        let request = ExplainRequest { page_token, ..asked.clone() };
        let mut page = server.call(server.xds().explain(with_deadline(request))).await?;
        let next = std::mem::take(&mut page.next_page_token);
        Ok((vec![page], next))
    });
    let explanation = ExplanationView::new(args.target, merge(pages.await?));
    match args.output.format {
        format @ (OutputFormat::Table | OutputFormat::Wide) => print(format, &explanation)?,
        format @ (OutputFormat::Json | OutputFormat::Yaml | OutputFormat::Name) => {
            output::one(format, &explanation, explanation.service.as_deref(), None)?;
        }
    }
    Ok(ExitCode::from(if explanation.is_routable() { 0 } else { FINDINGS }))
}

/// Joins the pages. A locality may be on several of them.
fn merge(pages: Vec<ExplainResponse>) -> ExplainResponse {
    let mut pages = pages.into_iter();
    let mut all = pages.next().unwrap_or_default();
    for page in pages {
        all.omitted.extend(page.omitted);
        for locality in page.localities {
            let is_same = |other: &&mut XdsLocality| {
                (&other.region, &other.zone, &other.sub_zone) == (&locality.region, &locality.zone, &locality.sub_zone)
            };
            match all.localities.iter_mut().find(is_same) {
                Some(known) => known.endpoints.extend(locality.endpoints),
                None => all.localities.push(locality),
            }
        }
    }
    all
}

/// Prints a summary, and a table for each part that has entries.
fn print(format: OutputFormat, explanation: &ExplanationView) -> Result<(), CliError> {
    let mut out = anstream::stdout();
    for (label, text) in explanation.summary() {
        writeln!(out, "{label:<10}{}", escape(&text))?;
    }
    if let Some(policy) = explanation.present_policy() {
        section(format, &policy.rows())?;
        section(format, explanation.limitations())?;
        section(format, &explanation.routes)?;
        section(format, &explanation.clusters)?;
        section(format, explanation.zones())?;
    }
    section(format, &explanation.resources)?;
    section(format, &explanation.localities)?;
    section(format, &explanation.endpoint_rows())?;
    section(format, &explanation.omitted)?;
    section(format, &explanation.streams)?;
    if let Some(more) = explanation.more_streams() {
        writeln!(out, "and {more} more streams: `callboard clients` lists all")?;
    }
    Ok(())
}

fn section<T: output::Printable>(format: OutputFormat, rows: &[T]) -> Result<(), CliError> {
    if !rows.is_empty() {
        writeln!(anstream::stdout())?;
        output::list(format, rows, "")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::callboard::v1::{OmittedInstance, XdsEndpoint};

    fn page(sub_zone: &str, endpoint: &str, omitted: &[&str]) -> ExplainResponse {
        let endpoint = XdsEndpoint { instance_id: endpoint.to_owned(), ..XdsEndpoint::default() };
        let locality =
            XdsLocality { sub_zone: sub_zone.to_owned(), endpoints: vec![endpoint], ..XdsLocality::default() };
        let omitted = omitted.iter().map(|id| OmittedInstance { instance_id: (*id).to_owned(), ..Default::default() });
        ExplainResponse { localities: vec![locality], omitted: omitted.collect(), ..ExplainResponse::default() }
    }

    #[test]
    fn pages_become_one_explanation_with_each_locality_once() {
        let mut first = page("~w3", "a", &["x"]);
        first.instances = 5;
        let all = merge(vec![first, page("", "b", &[]), page("~w3", "c", &["y"])]);
        let localities: Vec<_> = all
            .localities
            .iter()
            .map(|locality| {
                let ids: Vec<_> = locality.endpoints.iter().map(|endpoint| &*endpoint.instance_id).collect();
                (&*locality.sub_zone, ids.join(" "))
            })
            .collect();
        assert_eq!(localities, [("~w3", "a c".to_owned()), ("", "b".to_owned())]);
        assert_eq!((all.omitted.len(), all.instances), (2, 5));
    }
}
