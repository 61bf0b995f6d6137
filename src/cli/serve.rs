//! `callboard serve`: runs a registry until a signal stops it.

mod supervisor;

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
};

use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::USAGE;
use crate::{
    config::{self, Config, ReadyFormat, ServeArgs},
    engine::Durability,
    server::{InheritedSockets, Server, ServerAddresses},
    telemetry,
};
use supervisor::ServiceManager;

/// Addresses of the listeners, printed once they are open.
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

/// Services of the gRPC listeners.
const GRPC: &str = "registration, discovery, health, reflection";
/// Paths of the HTTP listeners.
const HTTP: &str = "Consul's API (/v1/), /metrics /healthz /readyz /prometheus/sd";

pub(super) fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    // Called first, because it requires that there are no other threads.
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
        tracing::warn!(variable, meant, "unknown environment variable: it may be a misspelling of the one meant");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).enable_all().build()?;
    let served = runtime.block_on(serve(&config, inherited, args.output));
    // Does not wait for threads that the time limits of the shutdown have given up on, such as a store whose disk hangs.
    runtime.shutdown_background();
    served.map(|()| ExitCode::SUCCESS)
}

/// Threads beside the workers, for accepting and expiry. There are two, so that one long task does not delay the others.
const RUNTIME_THREADS: usize = 2;

async fn serve(config: &Config, inherited: InheritedSockets, output: ReadyFormat) -> anyhow::Result<()> {
    // Before the listeners open, because a program that reads the ready line may send a signal immediately.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let supervisor = ServiceManager::from_environment();
    // SIGHUP reloads the TLS files. Without TLS it ends the process, as it does when a terminal closes, unless a service
    // manager supervises the process.
    let reloads = config.tls.is_some() || supervisor.is_present();
    let mut hangup = reloads.then(|| signal(SignalKind::hangup())).transpose()?;
    let mut server = Server::start_with(config, inherited)?;
    let notifications = supervisor.ready(server.liveness());
    print_ready(&server, output)?;
    let storage = match (&config.data_dir, config.durability) {
        (None, _) if config.etcd.is_some() => "in etcd: other replicas share it",
        (None, _) => "in memory: registrations are lost at a restart, and instances register again",
        (Some(_), Durability::Durable) => "on disk, durable: no acknowledged change is lost at a restart",
        (Some(_), Durability::Relaxed) => "on disk, relaxed: a crash may lose the changes of the last second",
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
        "the registry is ready; it is stored {storage}"
    );
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = next_hangup(&mut hangup) => supervisor.reloading(|| server.reload()),
            error = server.failed() => {
                server.close_store().await;
                anyhow::bail!(error)
            }
        }
    }
    supervisor.stopping(notifications);
    tracing::info!("shutting down: asking streams to reconnect");
    tokio::select! {
        () = server.shutdown() => tracing::info!("shut down"),
        _ = interrupt.recv() => anyhow::bail!("interrupted twice: open streams were dropped"),
    }
    Ok(())
}

/// Waits for the next SIGHUP. Without a receiver, waits forever.
async fn next_hangup(signal: &mut Option<Signal>) {
    let received = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if received.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Prints the addresses of the listeners to standard output.
fn print_ready(server: &Server, output: ReadyFormat) -> anyhow::Result<()> {
    let ready = ReadyLine::from(server.addresses());
    let mut out = io::stdout().lock();
    match output {
        ReadyFormat::Json => writeln!(out, "{}", serde_json::to_string(&ready)?)?,
        ReadyFormat::Table => {
            let listeners = [
                ("gRPC", ready.grpc, GRPC),
                ("HTTP", ready.http, HTTP),
                ("gRPC, TLS", ready.grpc_tls, GRPC),
                ("HTTP, TLS", ready.http_tls, HTTP),
                ("health", ready.health, "grpc.health.v1 only"),
                ("DNS", ready.dns, "A, AAAA, SRV, PTR, TXT, over UDP and TCP"),
            ];
            let open: Vec<_> =
                listeners.iter().filter_map(|(name, address, serves)| Some((name, (*address)?, serves))).collect();
            let width = open.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
            for (name, address, serves) in open {
                writeln!(out, "{name:width$}  {address}  {serves}")?;
            }
        }
    }
    out.flush()?;
    Ok(())
}
