//! `callboard subset`: the named parts of a service.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use super::{
    connection::ServerArgs,
    error::CliError,
    output::{self, OutputArgs, Printable},
    policy::{self, ChangeArgs, PolicyFields, PolicyTarget},
    terminal::escape,
    view::or_dash,
};

#[derive(Debug, Args)]
pub(crate) struct SubsetArgs {
    #[command(subcommand)]
    command: SubsetCommand,
}

#[derive(Debug, Subcommand)]
enum SubsetCommand {
    /// Define a subset of a service by a filter
    Set(SubsetSetArgs),
    /// List the subsets of a service
    List(SubsetListArgs),
    /// Remove a subset that no route uses
    Unset(SubsetUnsetArgs),
}

#[derive(Debug, Args)]
struct SubsetSetArgs {
    /// The service
    #[arg(value_name = "SERVICE", value_parser = policy::service_name)]
    service: String,
    /// Name of the subset, for example v2
    #[arg(value_name = "NAME")]
    name: String,
    /// The instances that belong to it, as in '"v2" in tags'
    #[arg(long)]
    filter: String,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
struct SubsetListArgs {
    /// The service
    #[arg(value_name = "SERVICE", value_parser = policy::service_name)]
    service: String,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct SubsetUnsetArgs {
    /// The service
    #[arg(value_name = "SERVICE", value_parser = policy::service_name)]
    service: String,
    /// Name of the subset
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Subset as printed. Its keys are stable, because scripts read them.
#[derive(Debug, Serialize)]
struct SubsetView {
    service: String,
    name: String,
    filter: String,
    /// Percentage of the calls that no route matches. `None` if these calls go to the whole service.
    default_percent: Option<u64>,
    /// Indexes of the routes that lead to it.
    routes: Vec<usize>,
}

impl Printable for SubsetView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) = (&["NAME", "FILTER", "DEFAULT", "ROUTES"], &[]);

    fn cells(&self) -> Vec<String> {
        let routes: Vec<_> = self.routes.iter().map(ToString::to_string).collect();
        vec![
            self.name.clone(),
            self.filter.clone(),
            or_dash(self.default_percent.map(|percent| format!("{percent} %")).as_deref()),
            or_dash((!routes.is_empty()).then(|| routes.join(",")).as_deref()),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.service, self.name)
    }
}

pub(crate) async fn run(args: SubsetArgs) -> Result<ExitCode, CliError> {
    match args.command {
        SubsetCommand::Set(SubsetSetArgs { service, name, filter, change }) => {
            let set = |document: &mut PolicyFields| {
                document.set_entry("subsets", &name, filter.clone());
                Ok(())
            };
            policy::edit(PolicyTarget::Service(service), change, set).await
        }
        SubsetCommand::Unset(SubsetUnsetArgs { service, name, change }) => {
            let unset = |document: &mut PolicyFields| remove(document, &service, &name);
            policy::edit(PolicyTarget::Service(service.clone()), change, unset).await
        }
        SubsetCommand::List(args) => list(args).await,
    }
}

async fn list(args: SubsetListArgs) -> Result<ExitCode, CliError> {
    let document = policy::present(&args.server.connect()?, &args.service).await?;
    let empty = format!("{} has no subsets", escape(&args.service));
    output::list(args.output.format, &subsets(&args.service, &document), &empty)?;
    Ok(ExitCode::SUCCESS)
}

fn remove(document: &mut PolicyFields, service: &str, name: &str) -> Result<(), CliError> {
    let used = subsets(service, document).into_iter().find(|subset| subset.name == name);
    if let Some(SubsetView { default_percent: Some(percent @ 1..), .. }) = used {
        let text = format!(
            "{name} takes {percent} % of the default split of {service}: move its calls first with `callboard route shift \
             {service} {name}=0`"
        );
        return Err(CliError::Usage(text.into()));
    }
    if let Some(route) = used.and_then(|subset| subset.routes.first().copied()) {
        let text = format!(
            "route {route} of {service} leads to {name}: remove it first with `callboard route remove {service} {route}`, or give \
             it another destination"
        );
        return Err(CliError::Usage(text.into()));
    }
    if document.remove_entry("subsets", name) {
        return Ok(());
    }
    Err(CliError::NotFound(format!(
        "{service} has no subset `{name}`; `callboard subset list {service}` lists its subsets"
    )))
}

fn subsets(service: &str, document: &PolicyFields) -> Vec<SubsetView> {
    let default = document.table("default");
    let routes = document.routes();
    let leads_to = |route: &Value, name: &str| route["to"].as_object().is_some_and(|to| to.contains_key(name));
    let view = |(name, filter): (String, Value)| SubsetView {
        service: service.to_owned(),
        filter: filter.as_str().unwrap_or_default().to_owned(),
        default_percent: (!default.is_empty()).then(|| default.get(&name).and_then(Value::as_u64).unwrap_or(0)),
        routes: (0..routes.len()).filter(|index| leads_to(&routes[*index], &name)).collect(),
        name,
    };
    document.table("subsets").into_iter().map(view).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::policy::tests::fields;

    #[test]
    fn subsets_are_shown_with_their_part_of_the_calls() {
        let document = fields(json!({
            "subsets": {"v1": "\"v1\" in tags", "v2": "\"v2\" in tags", "v3": "\"v3\" in tags"},
            "default": {"v1": 90, "v2": 10},
            "route": [{"to": {"v1": 50, "v2": 50}}, {}, {"to": {"v2": 100}}],
        }));
        let cells: Vec<_> = subsets("web", &document).iter().map(Printable::cells).collect();
        let expected = [
            ["v1", "\"v1\" in tags", "90 %", "0"],
            ["v2", "\"v2\" in tags", "10 %", "0,2"],
            ["v3", "\"v3\" in tags", "0 %", "-"],
        ];
        assert_eq!(cells, expected);
        let without_split = fields(json!({"subsets": {"v1": "a"}}));
        assert_eq!(subsets("web", &without_split)[0].cells()[2], "-");
    }

    #[test]
    fn subset_is_removed_and_an_unknown_one_is_an_error() {
        let mut document = fields(json!({"subsets": {"v1": "a"}}));
        let error = remove(&mut document, "web", "v2").unwrap_err();
        assert!(matches!(error, CliError::NotFound(_)) && error.to_string().contains("`v2`"), "{error}");
        remove(&mut document, "web", "v1").unwrap();
        assert!(document.is_empty());
    }

    #[test]
    fn subset_that_takes_calls_is_not_removed() {
        let subsets = json!({"v1": "a", "v2": "b", "v3": "c"});
        let before = fields(json!({"subsets": subsets, "default": {"v1": 100}, "route": [{}, {"to": {"v2": 100}}]}));
        for (name, part) in [
            (
                "v1",
                "v1 takes 100 % of the default split of web: move its calls first with `callboard route shift web v1=0`",
            ),
            ("v2", "route 1 of web leads to v2: remove it first with `callboard route remove web 1`"),
        ] {
            let mut document = before.clone();
            let error = remove(&mut document, "web", name).unwrap_err();
            assert!(matches!(error, CliError::Usage(_)) && error.to_string().contains(part), "{error}");
            assert_eq!(document, before);
        }
        remove(&mut before.clone(), "web", "v3").unwrap();
    }
}
