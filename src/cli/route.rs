//! `callboard route`: where the calls to a service go.

mod match_text;
mod split;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    connection::ServerArgs,
    error::CliError,
    output::{self, OutputArgs, Printable},
    policy::{self, ChangeArgs, PolicyFields, PolicyTarget, inline},
    terminal::{escape, print_stderr},
    view::or_dash,
};
use match_text::ParsedRoutes;
use split::Percentages;

/// Field with the split of the calls that no route matches.
const DEFAULT: &str = "default";

#[derive(Debug, Args)]
pub(crate) struct RouteArgs {
    #[command(subcommand)]
    command: RouteCommand,
}

#[derive(Debug, Subcommand)]
enum RouteCommand {
    /// Set the default split of a service, replace its routes, or both
    Set(RouteSetArgs),
    /// Add routes after the present ones
    Add(RouteAddArgs),
    /// List the routes of a service in the order in which they are tried
    List(RouteListArgs),
    /// Remove a route
    Remove(RouteRemoveArgs),
    /// Change the percentage of subsets in the default split; the others keep their proportion
    Shift(RouteShiftArgs),
}

#[derive(Debug, Args)]
#[command(after_help = match_text::HELP)]
struct RouteSetArgs {
    /// The service
    #[arg(value_name = "SERVICE", value_parser = policy::service_name)]
    service: String,
    /// Split of the calls that no route matches, for example v1=90,v2=10
    #[arg(long, value_name = "SUBSET=PERCENT", value_parser = split::parse, required_unless_present = "matches")]
    split: Option<Percentages>,
    /// Destination of these calls if their subset has no routable instance: spill (the rest of the service) or fail
    #[arg(long, value_name = "MODE", requires = "split")]
    empty: Option<String>,
    /// Route, which replaces the present ones; may be repeated
    #[arg(long = "match", value_name = "MATCH", value_parser = match_text::parse)]
    matches: Vec<ParsedRoutes>,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
#[command(after_help = match_text::HELP)]
struct RouteAddArgs {
    /// The service
    #[arg(value_name = "SERVICE", value_parser = policy::service_name)]
    service: String,
    /// Route; may be repeated
    #[arg(long = "match", value_name = "MATCH", value_parser = match_text::parse, required = true)]
    matches: Vec<ParsedRoutes>,
    /// Index of the first new route; routes from there on move back [default: after the last]
    #[arg(long, value_name = "INDEX")]
    at: Option<usize>,
    #[command(flatten)]
    options: RouteOptions,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Other fields of a route.
#[derive(Debug, Args)]
struct RouteOptions {
    /// Maximum time of a matching call, instead of the policy's
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    timeout: Option<String>,
    /// Number of further attempts after a failed call, 0 to 4, instead of the policy's
    #[arg(long, value_name = "N")]
    retries: Option<u8>,
    /// Status codes after which a call is retried, for example unavailable,cancelled
    #[arg(long, value_name = "CODE", value_delimiter = ',', requires = "retries")]
    retry_on: Vec<String>,
    /// Header whose value is the key for ring hash
    #[arg(long, value_name = "NAME")]
    hash_header: Option<String>,
    /// Destination of calls to a subset that has no routable instance: spill (the rest of the service) or fail
    #[arg(long, value_name = "MODE")]
    empty: Option<String>,
}

#[derive(Debug, Args)]
struct RouteListArgs {
    /// The service
    #[arg(value_name = "SERVICE", value_parser = policy::service_name)]
    service: String,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct RouteRemoveArgs {
    /// The service
    #[arg(value_name = "SERVICE", value_parser = policy::service_name)]
    service: String,
    /// Index of the route, as `callboard route list` shows it
    #[arg(value_name = "INDEX")]
    index: usize,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
struct RouteShiftArgs {
    /// The service
    #[arg(value_name = "SERVICE", value_parser = policy::service_name)]
    service: String,
    /// New percentages, for example v2=50
    #[arg(value_name = "SUBSET=PERCENT", value_parser = split::parse_exact)]
    targets: Percentages,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Route as printed. Its keys are stable, because scripts read them.
#[derive(Debug, Serialize)]
struct RouteView {
    /// `None` for the calls that no route matches.
    index: Option<usize>,
    #[serde(flatten)]
    route: serde_json::Map<String, Value>,
}

impl Printable for RouteView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["INDEX", "MATCH", "TO", "OTHER FIELDS"], &[]);

    fn cells(&self) -> Vec<String> {
        let to = self.route.get("to").and_then(Value::as_object);
        let to =
            to.map(|to| to.iter().map(|(name, percent)| format!("{name}={percent}")).collect::<Vec<_>>().join(","));
        let others = self.route.iter().filter(|(name, _)| !matches!(&***name, "header" | "method" | "to"));
        let others: Vec<_> = others.map(|(name, value)| format!("{name}={}", inline(value))).collect();
        vec![
            self.name(),
            match_text::display(&self.route),
            to.unwrap_or_else(|| "the whole service".to_owned()),
            or_dash((!others.is_empty()).then(|| others.join(" ")).as_deref()),
        ]
    }

    fn name(&self) -> String {
        self.index.map_or_else(|| DEFAULT.to_owned(), |index| index.to_string())
    }
}

pub(crate) async fn run(args: RouteArgs) -> Result<ExitCode, CliError> {
    match args.command {
        RouteCommand::Set(RouteSetArgs { service, split, empty, matches, change }) => {
            let set = |document: &mut PolicyFields| {
                if let Some(split) = &split {
                    document.set(DEFAULT, split::to_value(split));
                }
                if let Some(empty) = &empty {
                    document.set("empty", empty.clone());
                }
                if !matches.is_empty() {
                    document.set_routes(routes(&matches, None));
                }
                Ok(())
            };
            policy::edit(PolicyTarget::Service(service), change, set).await
        }
        RouteCommand::Add(RouteAddArgs { service, matches, at, options, change }) => {
            let add = |document: &mut PolicyFields| insert(document, &service, routes(&matches, Some(&options)), at);
            policy::edit(PolicyTarget::Service(service.clone()), change, add).await
        }
        RouteCommand::Remove(RouteRemoveArgs { service, index, change }) => {
            let remove = |document: &mut PolicyFields| remove(document, &service, index);
            policy::edit(PolicyTarget::Service(service.clone()), change, remove).await
        }
        RouteCommand::Shift(RouteShiftArgs { service, targets, change }) => {
            let mut note = None;
            let shift = |document: &mut PolicyFields| {
                note = shift(document, &service, &targets)?;
                Ok(())
            };
            let code = policy::edit(PolicyTarget::Service(service.clone()), change, shift).await?;
            if let Some(note) = note {
                print_stderr(&format!("note: {}", escape(&note)));
            }
            Ok(code)
        }
        RouteCommand::List(args) => list(args).await,
    }
}

async fn list(args: RouteListArgs) -> Result<ExitCode, CliError> {
    let document = policy::present(&args.server.connect()?, &args.service).await?;
    let empty = format!("{} has no routes: all calls go to the whole service", escape(&args.service));
    output::list(args.output.format, &views(&document), &empty)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the routes, and the default split after them if there is any of both.
fn views(document: &PolicyFields) -> Vec<RouteView> {
    let table = |route: Value| if let Value::Object(route) = route { route } else { serde_json::Map::new() };
    let routes = document.routes().into_iter().enumerate();
    let mut views: Vec<_> =
        routes.map(|(index, route)| RouteView { index: Some(index), route: table(route) }).collect();
    let default = [("to", DEFAULT), ("empty", "empty")]
        .into_iter()
        .filter_map(|(field, of_document)| document.get(of_document).map(|value| (field.to_owned(), value.clone())));
    let default: serde_json::Map<_, _> = default.collect();
    if !views.is_empty() || !default.is_empty() {
        views.push(RouteView { index: None, route: default });
    }
    views
}

/// Returns the routes of the arguments.
fn routes(matches: &[ParsedRoutes], options: Option<&RouteOptions>) -> Vec<Value> {
    let mut routes: Vec<Value> = matches.iter().flat_map(ParsedRoutes::values).collect();
    for route in &mut routes {
        let Some(RouteOptions { timeout, retries, retry_on, hash_header, empty }) = options else { continue };
        if let Some(attempts) = retries {
            route["retry"] = json!({ "attempts": attempts });
            if !retry_on.is_empty() {
                route["retry"]["on"] = Value::from(retry_on.clone());
            }
        }
        for (field, value) in [("timeout", timeout), ("hash_header", hash_header), ("empty", empty)] {
            if let Some(value) = value {
                route[field] = Value::from(value.clone());
            }
        }
    }
    routes
}

fn insert(document: &mut PolicyFields, service: &str, added: Vec<Value>, at: Option<usize>) -> Result<(), CliError> {
    let mut routes = document.routes();
    let at = at.unwrap_or(routes.len());
    if at > routes.len() {
        return Err(no_route(service, at, routes.len()));
    }
    routes.splice(at..at, added);
    document.set_routes(routes);
    Ok(())
}

fn remove(document: &mut PolicyFields, service: &str, index: usize) -> Result<(), CliError> {
    let mut routes = document.routes();
    if index >= routes.len() {
        return Err(no_route(service, index, routes.len()));
    }
    routes.remove(index);
    document.set_routes(routes);
    Ok(())
}

fn no_route(service: &str, index: usize, count: usize) -> CliError {
    let routes = if count == 1 { "1 route".to_owned() } else { format!("{count} routes") };
    CliError::NotFound(format!(
        "{service} has no route {index}, because it has {routes}, counted from 0; `callboard route list {service}` lists them"
    ))
}

/// Shifts the default split. Returns a note on the subsets that rounding leaves without calls.
fn shift(document: &mut PolicyFields, service: &str, targets: &Percentages) -> Result<Option<String>, CliError> {
    let subsets: Vec<String> = document.table("subsets").keys().cloned().collect();
    let before = split::of_table(&document.table(DEFAULT));
    let after = split::shift(service, &subsets, &before, targets)?;
    document.set(DEFAULT, split::to_value(&after));
    let lost = split::rounded_away(&before, &after, targets);
    Ok((!lost.is_empty()).then(|| {
        format!(
            "{} gets no calls any more, because the rest is too small for all other subsets: name it to give it calls again, as in \
             {}=1",
            lost.join(", "),
            lost[0]
        )
    }))
}

#[cfg(test)]
mod tests;
