//! `callboard run`: any program as an instance, without a line of its code.
//!
//! The program comes first: it starts and runs whether or not a registry answers, keeps its stdin, stdout and stderr, and
//! its exit code becomes ours. What is told of the registration goes to stderr.

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
    output::{OutputArgs, OutputFormat, complain, json},
    stop::StopSignals,
    view::host_port,
};
use crate::client::{Registration, RegistrationEvent};
use child::Child;

/// How often the port is tried until it accepts.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// How long one try may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the registry may take to note that no new calls should come, before the program is told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The service
    #[arg(long, value_name = "NAME")]
    service: String,
    /// Where the program will listen
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The host under which others reach it
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    #[command(flatten)]
    announce: InstanceArgs,
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
    let server = args.server.endpoint()?;
    let mut child = Child::spawn(&args.command)?;
    let request = args.announce.request(args.service, listening, true);
    let mut announcer = RegistrationPrinter::new(server.to_string(), &request);
    let format = args.output.format;
    let registration = Registration::start(&server, request, move |event| tell(&mut announcer, format, &event));
    let registration = registration.map_err(anyhow::Error::from)?;
    let code = live(&mut child, &registration, &mut stop, (args.host, args.port)).await;
    registration.deregister().await;
    Ok(ExitCode::from(code.map_err(anyhow::Error::from)?))
}

/// From start to exit: STARTING until the port accepts, DRAINING before the program is told to stop.
async fn live(
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
        // Whether or not the registry has noted it, the program is told.
        _ = timeout(DRAIN_TIMEOUT, registration.set_draining(true)) => {}
        again = stop.next() => insist(child, again)?,
    }
    child.pass_on(signal);
    loop {
        tokio::select! {
            code = child.exit() => return code,
            again = stop.next() => insist(child, again)?,
        }
    }
}

/// Told to stop once more: whoever interrupts twice does not want to wait.
fn insist(child: &mut Child, again: Signal) -> io::Result<()> {
    if again == Signal::INT {
        return child.kill();
    }
    child.pass_on(again);
    Ok(())
}

/// Waits until somebody listens there. A port gives no sign of that other than to be tried.
async fn accepts((host, port): (String, u16)) {
    let mut turn = interval(PROBE_INTERVAL);
    loop {
        turn.tick().await;
        if let Ok(Ok(_open)) = timeout(PROBE_TIMEOUT, TcpStream::connect((host.as_str(), port))).await {
            return;
        }
    }
}

fn tell(announcer: &mut RegistrationPrinter, format: OutputFormat, event: &RegistrationEvent) {
    match format {
        OutputFormat::Json | OutputFormat::Yaml => match json(&announcer.announcement(event), false) {
            Ok(line) => complain(&line),
            Err(failure) => complain(&failure.to_string()),
        },
        OutputFormat::Table | OutputFormat::Wide | OutputFormat::Name => {
            announcer.trouble(event);
            if let Some(line) = announcer.success(event) {
                complain(&line);
            }
        }
    }
}
