//! `callboard serve`: runs a registry until it is told to stop.

mod supervisor;

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
};

use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    config::{self, Config, ReadyFormat, ServeArgs},
    engine::Durability,
    server::{InheritedSockets, Server, ServerAddresses},
    telemetry,
};
use supervisor::ServiceManager;

/// The line that says where the doors are, once they are open.
#[derive(Debug, Serialize)]
struct ReadyLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_tls: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_tls: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<SocketAddr>,
}

impl From<ServerAddresses> for ReadyLine {
    fn from(ServerAddresses { grpc, http, grpc_tls, http_tls, health, dns }: ServerAddresses) -> Self {
        Self { grpc, http, grpc_tls, http_tls, health, dns }
    }
}

/// What is behind the doors.
const GRPC: &str = "register, keep alive, watch, health, reflection";
const HTTP: &str = "Consul's API (/v1/), /metrics /healthz /readyz /prometheus/sd";

pub(super) fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    // First of all: it has to be while there is no other thread.
    let inherited = match InheritedSockets::from_environment() {
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

/// Threads beside the workers: for accepting, expiry and DNS, so that a large page of the one does not hold up the others.
const THREADS: usize = 2;
/// The exit code for a configuration that cannot be used.
const USAGE: u8 = 2;

async fn serve(config: &Config, inherited: InheritedSockets, output: ReadyFormat) -> anyhow::Result<()> {
    // Before the doors open: whoever reads that they are open may send a signal at once.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let supervisor = ServiceManager::from_environment();
    // Where there is nothing to read again, it ends the process as it always does: the terminal is gone. A supervisor has none.
    let reloads = config.tls.is_some() || supervisor.listens();
    let mut reload = reloads.then(|| signal(SignalKind::hangup())).transpose()?;
    let mut server = Server::start_with(config, inherited)?;
    let company = supervisor.ready(server.liveness());
    announce(&server, output)?;
    let kept = match (&config.data_dir, config.durability) {
        (None, _) => "in memory: a restart forgets it, and instances register again by themselves",
        (Some(_), Durability::Durable) => "on the disk: a restart forgets nothing that was acknowledged",
        (Some(_), Durability::Relaxed) => "on the disk within a second: a restart after a crash may forget that second",
    };
    let ServerAddresses { grpc, http, grpc_tls, http_tls, health, dns } = server.addresses();
    tracing::info!(
        grpc = grpc.map(display),
        http = http.map(display),
        grpc_tls = grpc_tls.map(display),
        http_tls = http_tls.map(display),
        health = health.map(display),
        dns = dns.map(display),
        instances = server.instances(),
        "the registry is kept {kept}"
    );
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = hang_up(&mut reload) => supervisor.reloading(|| server.reload()),
            why = server.failed() => anyhow::bail!(why),
        }
    }
    supervisor.leaving(company);
    tracing::info!("leaving: telling every stream to reconnect");
    tokio::select! {
        () = server.shutdown() => tracing::info!("left"),
        _ = interrupt.recv() => anyhow::bail!("interrupted twice: streams were dropped"),
    }
    Ok(())
}

/// The next time that somebody asks for the files to be read again.
async fn hang_up(signal: &mut Option<Signal>) {
    let heard = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if heard.is_none() {
        std::future::pending::<()>().await;
    }
}

fn announce(server: &Server, output: ReadyFormat) -> anyhow::Result<()> {
    let ready = ReadyLine::from(server.addresses());
    let mut out = io::stdout().lock();
    match output {
        ReadyFormat::Json => writeln!(out, "{}", serde_json::to_string(&ready)?)?,
        ReadyFormat::Table => {
            let doors = [
                ("gRPC", ready.grpc, GRPC),
                ("HTTP", ready.http, HTTP),
                ("gRPC, TLS", ready.grpc_tls, GRPC),
                ("HTTP, TLS", ready.http_tls, HTTP),
                ("health", ready.health, "grpc.health.v1 alone"),
                ("DNS", ready.dns, "A, AAAA, SRV, over UDP and TCP"),
            ];
            let open: Vec<_> = doors.iter().filter_map(|(name, at, what)| Some((name, (*at)?, what))).collect();
            let wide = open.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
            for (name, at, what) in open {
                writeln!(out, "{name:wide$}  {at}  {what}")?;
            }
        }
    }
    out.flush()?;
    Ok(())
}
