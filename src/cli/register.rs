//! `callboard register`: an instance that is registered while this command runs.

use std::process::ExitCode;

use clap::Args;
use tokio::sync::mpsc;

use super::{
    connection::ServerArgs,
    error::CliError,
    instance_args::{InstanceArgs, RegistrationPrinter, address, exit_code_of_end},
    output::{self, OutputArgs},
    stop::StopSignals,
};
use crate::{
    client::{Registration, RegistrationEvent},
    pb::callboard::v1::Address,
};

#[derive(Debug, Args)]
pub(crate) struct RegisterArgs {
    /// The service
    service: String,
    /// Address of the instance
    #[arg(value_name = "HOST:PORT", value_parser = address)]
    address: Address,
    #[command(flatten)]
    instance: InstanceArgs,
    /// List the instance as STARTING, which means not ready yet
    #[arg(long)]
    starting: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(args: RegisterArgs) -> Result<ExitCode, CliError> {
    let mut stop = StopSignals::listen().map_err(anyhow::Error::from)?;
    let request = args.instance.request(args.service, args.address, args.starting);
    let servers = args.server.servers()?;
    let mut printer = RegistrationPrinter::new(servers.to_string(), &request);
    let (sender, mut events) = mpsc::unbounded_channel();
    let on_event = move |event| {
        // The receiver lives until it has received the last event.
        let _result = sender.send(event);
    };
    let registration = Registration::start(&servers, request, on_event).map_err(anyhow::Error::from)?;
    let mut output = Ok(());
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = stop.next() => {
                registration.leave();
                continue;
            }
        };
        let Some(event) = event else {
            return Err(CliError::Other(anyhow::anyhow!("the task of the registration has stopped")));
        };
        printer.print_error(&event);
        if output.is_ok() {
            let name = matches!(event, RegistrationEvent::Registered { .. }).then(|| printer.name());
            let line = printer.success(&event);
            let report = printer.report(&event);
            output = output::one(args.output.format, &report, name.as_deref(), line.as_deref());
        }
        if let RegistrationEvent::Ended(end) = event {
            output?;
            return Ok(ExitCode::from(exit_code_of_end(&end)));
        }
        if output.is_err() {
            registration.leave();
        }
    }
}
