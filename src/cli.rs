//! The command line: one file for each command.
//!
//! Data goes to standard output, everything else to standard error. `error.rs` has the exit codes.

mod checks;
mod clients;
mod completion;
mod connection;
mod deregister;
mod drain;
pub(crate) mod error;
mod events;
mod export_import;
mod health;
mod instance_args;
mod instances;
mod output;
mod policy;
mod register;
mod replicas;
mod route;
mod run;
mod self_preservation;
mod serve;
mod services;
mod staleness;
mod stop;
mod subset;
mod terminal;
mod view;
mod watch;
mod xds;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use error::CliError;

/// Service registry: instances register and renew leases; watchers receive every change within milliseconds.
#[derive(Debug, Parser)]
#[command(name = "callboard", version, after_help = exit_codes_line())]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

/// Returns the exit codes on one line, for `--help`.
fn exit_codes_line() -> String {
    let codes = error::EXIT_CODES.map(|(code, name, _)| format!("{code} {name}"));
    format!("Exit codes: {}.", codes.join(", "))
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Run a registry
    Serve(Box<crate::config::ServeArgs>),
    /// Register an instance and renew its lease until interrupted, then deregister it
    Register(register::RegisterArgs),
    /// Remove an instance
    Deregister(deregister::DeregisterArgs),
    /// Run a program as an instance: registered while it runs, draining before it stops
    Run(run::RunArgs),
    /// List services
    Services(services::ServicesArgs),
    /// List the instances of a service
    Instances(instances::InstancesArgs),
    /// List the health checks of an instance (exit code 6 if one is critical)
    Checks(checks::ChecksArgs),
    /// Print the instances of services, then each change
    Watch(watch::WatchArgs),
    /// List recent events, the newest last
    Events(events::EventsArgs),
    /// Mark an instance as draining, so that it receives no new calls
    Drain(drain::DrainArgs),
    /// List the clients that read services, and how far each is behind
    Clients(clients::ClientsArgs),
    /// Check the health of the registry or of a service (exit code 6 if it is not serving)
    Health(health::HealthArgs),
    /// List the services in self-preservation, or end it (exit code 6 if there are any)
    SelfPreservation(Box<self_preservation::SelfPreservationArgs>),
    /// Set how clients balance, limit and route their calls to a service
    Policy(Box<policy::PolicyArgs>),
    /// Define named parts of a service, for routes
    Subset(Box<subset::SubsetArgs>),
    /// Split the calls to a service between its subsets, or route some of them
    Route(Box<route::RouteArgs>),
    /// Help clients that use xDS
    Xds(xds::XdsArgs),
    /// Export a registry as JSON Lines, from its store or while it runs
    Export(export_import::ExportArgs),
    /// Create a registry on disk or in etcd from an export
    Import(export_import::ImportArgs),
    /// Print a completion script for a shell
    Completion(completion::CompletionArgs),
}

/// Parses the arguments and runs the command. Errors are printed to standard error.
#[must_use]
pub fn run() -> ExitCode {
    let result = match Cli::parse().command {
        CliCommand::Serve(args) => serve::run(&args).map_err(CliError::from),
        CliCommand::Completion(args) => completion::run(&args),
        CliCommand::Xds(args) => xds::run(args),
        CliCommand::Export(args) => export_import::export(args),
        CliCommand::Import(args) => export_import::import(&args),
        CliCommand::Register(args) => block_on(register::run(args)),
        CliCommand::Deregister(args) => block_on(deregister::run(args)),
        CliCommand::Run(args) => block_on(run::run(args)),
        CliCommand::Services(args) => block_on(services::run(args)),
        CliCommand::Instances(args) => block_on(instances::run(args)),
        CliCommand::Checks(args) => block_on(checks::run(args)),
        CliCommand::Watch(args) => block_on(watch::run(args)),
        CliCommand::Events(args) => block_on(events::run(args)),
        CliCommand::Drain(args) => block_on(drain::run(args)),
        CliCommand::Clients(args) => block_on(clients::run(args)),
        CliCommand::SelfPreservation(args) => block_on(self_preservation::run(*args)),
        CliCommand::Policy(args) => block_on(policy::run(*args)),
        CliCommand::Subset(args) => block_on(subset::run(*args)),
        CliCommand::Route(args) => block_on(route::run(*args)),
        CliCommand::Health(args) => block_on(health::run(args)),
    };
    result.unwrap_or_else(|error| error.report())
}

/// Returns the command line, for completion scripts and the reference pages.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// Runs a client command on this thread.
fn block_on(command: impl Future<Output = Result<ExitCode, CliError>>) -> Result<ExitCode, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(anyhow::Error::from)?.block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_every_command_are_consistent() {
        Cli::command().debug_assert();
    }

    /// Asserts that a command, or each of its subcommands, takes a server and a format.
    fn assert_takes_server_and_format(command: &clap::Command) {
        let name = command.get_name();
        if matches!(name, "serve" | "completion" | "export" | "import" | "bootstrap") {
            return;
        }
        let has = |option: &str| command.get_arguments().any(|argument| argument.get_long() == Some(option));
        let is_group = command.is_subcommand_required_set();
        assert!(is_group || has("server") && has("output"), "`{name}` lacks --server or --output");
        command.get_subcommands().for_each(assert_takes_server_and_format);
    }

    #[test]
    fn every_client_command_takes_a_server_and_a_format() {
        Cli::command().get_subcommands().for_each(assert_takes_server_and_format);
    }
}
