//! The command line: one file a verb.
//!
//! Data goes to stdout, all else to stderr; the exit code says what kind of failure it was (`failure.rs`).

mod checks;
mod clients;
mod completion;
mod connection;
mod deregister;
mod drain;
mod error;
mod events;
mod export_import;
mod health;
mod instance_args;
mod instances;
mod output;
mod register;
mod run;
mod self_preservation;
mod serve;
mod services;
mod stop;
mod view;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::CliError;

/// Service discovery: instances sign in and keep signing, and whoever watches is told within milliseconds.
#[derive(Debug, Parser)]
#[command(name = "callboard", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    verb: CliCommand,
}

const EXIT_CODES: &str =
    "Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 registry unreachable, 5 denied, 6 findings.";

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Run a registry
    Serve(Box<crate::config::ServeArgs>),
    /// Register an instance and keep it alive until interrupted, then deregister it
    Register(register::RegisterArgs),
    /// Remove an instance
    Deregister(deregister::DeregisterArgs),
    /// Run a program as an instance: registered while it runs, drained when it is told to stop
    Run(run::RunArgs),
    /// List services
    Services(services::ServicesArgs),
    /// List the instances of a service
    Instances(instances::InstancesArgs),
    /// List what the health checks of an instance say (exit code 6 when one is critical)
    Checks(checks::ChecksArgs),
    /// Print the instances of services, then each change as it happens
    Watch(watch::WatchArgs),
    /// List what happened recently, the newest last
    Events(events::EventsArgs),
    /// Send an instance no new calls
    Drain(drain::DrainArgs),
    /// List who watches, and how far behind each is
    Clients(clients::ClientsArgs),
    /// Check the health of the registry or of a service (exit code 6 when it is not serving)
    Health(health::HealthArgs),
    /// List who is protected from mass expiry, or end that (exit code 6 when something is protected)
    SelfPreservation(Box<self_preservation::SelfPreservationArgs>),
    /// Write what is in a data directory as JSON Lines
    Export(export_import::ExportArgs),
    /// Make a data directory of what was exported
    Import(export_import::ImportArgs),
    /// Print a completion script for a shell
    Completion(completion::CompletionArgs),
}

/// Does what the arguments say; failures are printed to stderr.
#[must_use]
pub fn run() -> ExitCode {
    let done = match Cli::parse().verb {
        CliCommand::Serve(args) => serve::run(&args).map_err(CliError::from),
        CliCommand::Completion(args) => completion::run(&args),
        CliCommand::Export(args) => export_import::export(&args),
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
        CliCommand::Health(args) => block_on(health::run(args)),
    };
    done.unwrap_or_else(|failure| failure.report())
}

/// A client needs no more than this thread.
fn block_on(verb: impl Future<Output = Result<ExitCode, CliError>>) -> Result<ExitCode, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(anyhow::Error::from)?.block_on(verb)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_of_every_verb_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_for_clients_takes_a_server_and_a_format() {
        for verb in Cli::command().get_subcommands() {
            let name = verb.get_name();
            if matches!(name, "serve" | "completion" | "export" | "import") {
                continue;
            }
            for option in ["server", "output"] {
                let has = verb.get_arguments().any(|argument| argument.get_long() == Some(option));
                assert!(has, "`{name}` lacks --{option}");
            }
        }
    }
}
