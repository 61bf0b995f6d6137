//! `callboard register`: an instance that lives as long as this command.

use std::process::ExitCode;

use clap::Args;
use tokio::sync::mpsc;

use super::{
    connection::ServerArgs,
    error::CliError,
    instance_args::{InstanceArgs, RegistrationPrinter, address, departure_exit_code},
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
    /// Where the instance can be reached
    #[arg(value_name = "HOST:PORT", value_parser = address)]
    address: Address,
    #[command(flatten)]
    announce: InstanceArgs,
    /// Not ready yet: list it as STARTING
    #[arg(long)]
    starting: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(args: RegisterArgs) -> Result<ExitCode, CliError> {
    let mut stop = StopSignals::listen().map_err(anyhow::Error::from)?;
    let request = args.announce.request(args.service, args.address, args.starting);
    let server = args.server.endpoint()?;
    let mut announcer = RegistrationPrinter::new(server.to_string(), &request);
    let (told, mut events) = mpsc::unbounded_channel();
    let tell = move |event| {
        // The receiver lives until the last event has come out of it.
        let _heard = told.send(event);
    };
    let registration = Registration::start(&server, request, tell).map_err(anyhow::Error::from)?;
    let mut printed = Ok(());
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = stop.next() => {
                registration.leave();
                continue;
            }
        };
        let Some(event) = event else {
            return Err(CliError::Other(anyhow::anyhow!("the registration's task has stopped")));
        };
        announcer.trouble(&event);
        if printed.is_ok() {
            let name = matches!(event, RegistrationEvent::Registered { .. }).then(|| announcer.name());
            let line = announcer.success(&event);
            let said = announcer.announcement(&event);
            printed = output::one(args.output.format, &said, name.as_deref(), line.as_deref());
        }
        if let RegistrationEvent::Ended(departure) = event {
            printed?;
            return Ok(ExitCode::from(departure_exit_code(&departure)));
        }
        if printed.is_err() {
            registration.leave();
        }
    }
}
