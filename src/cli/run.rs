//! `callboard run`: runs any program as an instance, without changes to its code.
//!
//! The program takes priority: it starts and runs even if no registry answers, and it keeps its standard streams. Its exit
//! code becomes the exit code of this command. Events of the registration go to standard error.

mod child;

use std::{ffi::OsString, io, process::ExitCode, time::Duration};

use clap::Args;
use rustix::process::Signal;
use tokio::{
    net::TcpStream,
    time::{interval, timeout},
};

use super::{
    connection::ServerArgs,
    error::CliError,
    instance_args::{InstanceArgs, RegistrationPrinter, address},
    output::{OutputArgs, OutputFormat, json},
    stop::StopSignals,
    terminal::print_stderr,
    view::host_port,
};
use crate::client::{Registration, RegistrationEvent};
use child::Child;

/// Interval between connection attempts to the program's port, until one succeeds.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// Timeout of one connection attempt.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout for draining: after it the program is stopped even if the registry has not confirmed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The service
    #[arg(long, value_name = "NAME")]
    service: String,
    /// Port that the program listens on
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Host at which clients reach the program
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    #[command(flatten)]
    instance: InstanceArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(crate) async fn run(args: RunArgs) -> Result<ExitCode, CliError> {
    let mut stop = StopSignals::listen().map_err(anyhow::Error::from)?;
    let port = u32::from(args.port);
    let listening = address(&host_port(&args.host, port)).map_err(anyhow::Error::msg)?;
    let servers = args.server.servers()?;
    let mut child = Child::spawn(&args.command)?;
    let request = args.instance.request(args.service, listening, true);
    let mut printer = RegistrationPrinter::new(servers.to_string(), &request);
    let format = args.output.format;
    let registration = Registration::start(&servers, request, move |event| print_event(&mut printer, format, &event));
    let registration = registration.map_err(anyhow::Error::from)?;
    let code = supervise(&mut child, &registration, &mut stop, (args.host, args.port)).await;
    registration.deregister().await;
    Ok(ExitCode::from(code.map_err(anyhow::Error::from)?))
}

/// Waits until the program exits. The instance is STARTING until the port accepts connections, and DRAINING before the
/// program is stopped.
async fn supervise(
    child: &mut Child,
    registration: &Registration,
    stop: &mut StopSignals,
    listening: (String, u16),
) -> io::Result<u8> {
    let accepting = accepts(listening);
    tokio::pin!(accepting);
    let mut ready = false;
    let signal = loop {
        tokio::select! {
            code = child.exit() => return code,
            signal = stop.next() => break signal,
            () = &mut accepting, if !ready => {
                ready = true;
                registration.serving();
            }
        }
    };
    tokio::select! {
        code = child.exit() => return code,
        // The program is stopped even if the registry does not confirm.
        _ = timeout(DRAIN_TIMEOUT, registration.set_draining(true)) => {}
        again = stop.next() => forward_again(child, again)?,
    }
    child.forward(signal);
    loop {
        tokio::select! {
            code = child.exit() => return code,
            again = stop.next() => forward_again(child, again)?,
        }
    }
}

/// Forwards a repeated signal. A second interrupt kills the program.
fn forward_again(child: &mut Child, again: Signal) -> io::Result<()> {
    if again == Signal::INT {
        return child.kill();
    }
    child.forward(again);
    Ok(())
}

/// Waits until the port accepts connections, by trying to connect.
async fn accepts((host, port): (String, u16)) {
    let mut ticks = interval(PROBE_INTERVAL);
    loop {
        ticks.tick().await;
        if let Ok(Ok(_open)) = timeout(PROBE_TIMEOUT, TcpStream::connect((host.as_str(), port))).await {
            return;
        }
    }
}

/// Prints an event to standard error.
fn print_event(printer: &mut RegistrationPrinter, format: OutputFormat, event: &RegistrationEvent) {
    match format {
        OutputFormat::Json | OutputFormat::Yaml => match json(&printer.report(event), false) {
            Ok(line) => print_stderr(&line),
            Err(error) => print_stderr(&error.to_string()),
        },
        OutputFormat::Table | OutputFormat::Wide | OutputFormat::Name => {
            printer.print_error(event);
            if let Some(line) = printer.success(event) {
                print_stderr(&line);
            }
        }
    }
}
