//! `callboard serve`: runs a registry until it is told to stop.

mod supervisor;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::{self, Config, ReadyFormat, ServeArgs},
    engine::Durability,
    server::{Inherited, Server},
    telemetry,
};
use supervisor::Supervisor;

/// The line that says where the doors are, once they are open.
#[derive(Debug, Serialize)]
struct Ready {
    grpc: String,
    http: String,
}

pub(super) fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    // First of all: it has to be while there is no other thread.
    let inherited = match Inherited::from_environment() {
        Ok(inherited) => inherited,
        Err(error) => {
            anstream::eprintln!("error: {error}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    let config = match Config::load(args, &inherited.addresses()) {
        Ok(config) => config,
        Err(error) => {
            anstream::eprintln!("error: {:#}", anyhow::Error::from(error));
            return Ok(ExitCode::from(USAGE));
        }
    };
    telemetry::init(&config.log, config.log_format)?;
    for (variable, meant) in config::misspelt_variables() {
        tracing::warn!(variable, meant, "this variable is not read: perhaps it is misspelt");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    runtime.block_on(serve(&config, inherited, args.output))?;
    Ok(ExitCode::SUCCESS)
}

/// Threads beside the workers: for accepting, expiry and HTTP, so that a large page of the one does not hold up the others.
const THREADS: usize = 2;
/// The exit code for a configuration that cannot be used.
const USAGE: u8 = 2;

async fn serve(config: &Config, inherited: Inherited, output: ReadyFormat) -> anyhow::Result<()> {
    // Before the doors open: whoever reads that they are open may send a signal at once.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut server = Server::start_with(config, inherited)?;
    let supervisor = Supervisor::from_environment();
    let company = supervisor.ready(server.pulse());
    announce(&server, output)?;
    let kept = match (&config.data_dir, config.durability) {
        (None, _) => "in memory: a restart forgets it, and instances register again by themselves",
        (Some(_), Durability::Durable) => "on the disk: a restart forgets nothing that was acknowledged",
        (Some(_), Durability::Relaxed) => "on the disk within a second: a restart after a crash may forget that second",
    };
    tracing::info!(grpc = %server.grpc(), http = %server.http(), instances = server.instances(), "the registry is kept {kept}");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        why = server.failed() => anyhow::bail!(why),
    }
    supervisor.leaving(company);
    tracing::info!("leaving: telling every stream to reconnect");
    tokio::select! {
        () = server.shutdown() => tracing::info!("left"),
        _ = interrupt.recv() => anyhow::bail!("interrupted twice: streams were dropped"),
    }
    Ok(())
}

fn announce(server: &Server, output: ReadyFormat) -> anyhow::Result<()> {
    let ready = Ready { grpc: server.grpc().to_string(), http: server.http().to_string() };
    let mut out = io::stdout().lock();
    match output {
        ReadyFormat::Json => writeln!(out, "{}", serde_json::to_string(&ready)?)?,
        ReadyFormat::Table => {
            writeln!(out, "gRPC  {}  register, keep alive, watch, health, reflection", ready.grpc)?;
            writeln!(out, "HTTP  {}  /metrics /healthz /readyz /prometheus/sd", ready.http)?;
        }
    }
    out.flush()?;
    Ok(())
}
