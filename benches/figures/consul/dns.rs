//! DNS: what a query costs, and when it no longer finds an instance.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    net::UdpSocket,
    process::Command,
    time::{sleep, timeout},
};

use super::ask::{fed, register_all};
use crate::{children::Server, client::service_name, now, report::Report};

/// As Consul was measured.
const INSTANCES: usize = 10;
const FLAGS: [&str; 6] = ["-e", "-c", "8", "-q", "64", "-l"];
const SECONDS: &str = "3";
const WARM_UP: &str = "1";
/// dnsperf waits so long for what is lost, and some more.
const PATIENCE: Duration = Duration::from_secs(15);

/// Rates and costs of A and SRV, by dnsperf.
pub async fn run(report: &mut Report) -> Result<()> {
    let server = Server::callboard_pinned()?;
    let Some(address) = server.dns().transpose()? else {
        eprintln!("dns: not measured, for this server does not answer DNS");
        return Ok(());
    };
    register_all(&server, INSTANCES, |_| 0, |_| fed()).await?;
    for kind in ["A", "SRV"] {
        let queries = tempfile::NamedTempFile::new()?;
        std::fs::write(queries.path(), format!("{}.service.consul {kind}\n", service_name(0)))?;
        let queries = queries.path().to_str().context("the temporary directory is no text")?;
        if dnsperf(address, queries, WARM_UP).await?.is_none() {
            eprintln!("dns: not measured, for dnsperf is not on the PATH (Debian: apt-get install dnsperf)");
            return Ok(());
        }
        let cpu = server.cpu()?;
        let told = dnsperf(address, queries, SECONDS).await?.context("dnsperf is gone")?;
        let cpu = server.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e6 / told.completed;
        let kind = kind.to_lowercase();
        let note = format!("dnsperf, 8 clients, 64 in flight, {INSTANCES} instances");
        report.add(format!("dns_{kind}_rate"), told.rate.round(), "/s", note);
        report.add(format!("dns_{kind}_cpu"), cpu, "µs", "server CPU of a query");
        report.add(format!("dns_{kind}_lost"), told.lost, "", "queries without an answer");
    }
    Ok(())
}

/// What dnsperf tells.
#[derive(Debug)]
struct Told {
    completed: f64,
    lost: f64,
    /// Completed, a second.
    rate: f64,
}

/// Asks for so long. `None`: there is no dnsperf.
async fn dnsperf(address: SocketAddr, queries: &str, seconds: &str) -> Result<Option<Told>> {
    let mut command = Command::new("dnsperf");
    command.args(["-s", &address.ip().to_string(), "-p", &address.port().to_string(), "-d", queries]);
    command.args(FLAGS).arg(seconds).stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(PATIENCE, command.output()).await.context("dnsperf does not end")? {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        output => output?,
    };
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "dnsperf: {said}{}", String::from_utf8_lossy(&output.stderr));
    let number = |name: &str| -> Result<f64> {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.with_context(|| format!("dnsperf does not tell {name:?}: {said}"))?.parse()?)
    };
    // Errors are answered fast; they do not count.
    let codes = said.lines().find(|line| line.trim().starts_with("Response codes:")).unwrap_or_default();
    ensure!(codes.contains("NOERROR") && codes.contains("(100.00%)"), "not every query found something: {said}");
    let (completed, lost) = (number("Queries completed:")?, number("Queries lost:")?);
    Ok(Some(Told { completed, lost, rate: number("Queries per second:")? }))
}

/// Somebody who asks for the addresses of a service.
#[derive(Debug)]
pub struct Resolver {
    socket: UdpSocket,
    query: Vec<u8>,
}

impl Resolver {
    /// Of a service that has some.
    pub async fn open(address: SocketAddr, service: usize) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(address).await?;
        // One question, recursion desired.
        let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in [&*service_name(service), "service", "consul"] {
            query.push(u8::try_from(label.len())?);
            query.extend_from_slice(label.as_bytes());
        }
        // The root, A, IN.
        query.extend_from_slice(&[0, 0, 1, 0, 1]);
        let resolver = Self { socket, query };
        ensure!(resolver.found().await? > 0, "DNS does not find what works");
        Ok(resolver)
    }

    async fn found(&self) -> Result<u16> {
        self.socket.send(&self.query).await?;
        let mut answer = [0; 4_096];
        let length = timeout(Duration::from_secs(1), self.socket.recv(&mut answer)).await??;
        let [_, _, _, code, _, _, high, low, ..] = answer[..length] else { bail!("a short DNS answer") };
        ensure!(matches!(code & 15, 0 | 3), "DNS answers with code {}", code & 15);
        Ok(u16::from_be_bytes([high, low]))
    }

    /// When it no longer has any.
    pub async fn gone(&self) -> Result<Instant> {
        while self.found().await? > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        Ok(now())
    }
}
