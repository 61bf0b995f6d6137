//! Cluster of etcd on this machine, in a temporary directory.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use callboard::etcd::{EtcdClient, EtcdMemberStatus, EtcdOptions};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::number;
use crate::{client::page, processes::KilledOnDrop};

const MEMBERS: usize = 3;
/// Variable with the path of the program. Without it, `tests/etcd/install` builds one.
const PROGRAM: &str = "CALLBOARD_TEST_ETCD_PROGRAM";
/// Ports below those that Linux gives to outgoing connections, so that a member finds its own again.
const PORTS: std::ops::Range<u16> = 23_790..32_000;
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// Members of etcd. Dropping it kills them and removes their data.
#[derive(Debug)]
pub struct EtcdCluster {
    program: PathBuf,
    ports: Vec<u16>,
    members: Vec<KilledOnDrop>,
    /// Dropped after the members.
    directory: TempDir,
}

/// Use of resources by all members so far.
#[derive(Debug, Clone, Copy)]
pub struct EtcdUsage {
    /// CPU time in seconds.
    pub cpu: f64,
    /// Bytes written to the write-ahead logs.
    pub log: f64,
    /// Bytes sent to other members.
    pub to_peers: f64,
    /// Bytes sent to clients.
    pub to_clients: f64,
    /// Bytes of the database of one member that are in use.
    pub database: f64,
}

impl EtcdUsage {
    /// Returns what was used since an earlier time.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu - earlier.cpu,
            log: self.log - earlier.log,
            to_peers: self.to_peers - earlier.to_peers,
            to_clients: self.to_clients - earlier.to_clients,
            database: self.database - earlier.database,
        }
    }
}

impl EtcdCluster {
    /// Starts the members, and waits until they have a leader.
    pub async fn start() -> Result<Self> {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(base)?;
        let mut free = PORTS.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
        let ports: Vec<_> = free.by_ref().take(2 * MEMBERS).collect();
        ensure!(ports.len() == 2 * MEMBERS, "no free ports from {} to {}", PORTS.start, PORTS.end);
        let (program, directory) = (program()?, tempfile::tempdir_in(base)?);
        let mut cluster = Self { program, ports, members: Vec::new(), directory };
        cluster.start_members().await?;
        Ok(cluster)
    }

    /// Starts all members, which must not run, with the data that they have.
    pub async fn start_members(&mut self) -> Result<()> {
        for member in 0..MEMBERS {
            self.members.push(self.spawn(member)?);
        }
        let client = self.client()?;
        let ready = async {
            for member in 0..MEMBERS {
                while client.member_status(member).await.ok().and_then(|status| status.leader).is_none() {
                    sleep(Duration::from_millis(50)).await;
                }
            }
        };
        timeout(START_TIMEOUT, ready).await.with_context(|| {
            let log = fs::read_to_string(self.directory.path().join("m0.log")).unwrap_or_default();
            format!("etcd has no leader: {log}")
        })
    }

    /// Kills all members.
    pub fn kill_members(&mut self) {
        self.members.clear();
    }

    fn spawn(&self, member: usize) -> Result<KilledOnDrop> {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let peer = |member: usize| url(self.ports[MEMBERS + member]);
        let peers: Vec<_> = (0..MEMBERS).map(|member| format!("m{member}={}", peer(member))).collect();
        let directory = self.directory.path();
        let child = Command::new(&self.program)
            .arg(format!("--name=m{member}"))
            .arg(format!("--data-dir={}", directory.join(format!("m{member}")).display()))
            .arg(format!("--listen-client-urls={}", self.endpoint(member)))
            .arg(format!("--advertise-client-urls={}", self.endpoint(member)))
            .arg(format!("--listen-peer-urls={}", peer(member)))
            .arg(format!("--initial-advertise-peer-urls={}", peer(member)))
            .arg(format!("--initial-cluster={}", peers.join(",")))
            .args(["--initial-cluster-token=benchmarks", "--logger=zap", "--log-level=warn"])
            .arg("--quota-backend-bytes=8589934592")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join(format!("m{member}.log")))?)
            .spawn();
        Ok(KilledOnDrop(child.with_context(|| format!("cannot start {}", self.program.display()))?))
    }

    fn endpoint(&self, member: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[member])
    }

    fn all_endpoints(&self) -> Vec<String> {
        (0..MEMBERS).map(|member| self.endpoint(member)).collect()
    }

    /// Returns the endpoints, separated by commas, for a replica of this number: each uses another member first.
    pub fn endpoints(&self, replica: usize) -> String {
        let mut endpoints = self.all_endpoints();
        endpoints.rotate_left(replica % MEMBERS);
        endpoints.join(",")
    }

    /// Returns a client of all members.
    pub fn client(&self) -> Result<EtcdClient> {
        Ok(EtcdClient::new(EtcdOptions::new(self.all_endpoints()))?)
    }

    /// Returns the status of a member.
    pub async fn status(&self) -> Result<EtcdMemberStatus> {
        Ok(self.client()?.status().await?)
    }

    /// Removes the history up to now.
    pub async fn compact(&self) -> Result<()> {
        let client = self.client()?;
        let newest = client.status().await?.revision;
        Ok(client.compact(newest).await?)
    }

    /// Returns the use of resources so far.
    pub async fn usage(&self) -> Result<EtcdUsage> {
        let status = self.status().await?;
        let mut usage = EtcdUsage {
            cpu: 0.0,
            log: 0.0,
            to_peers: 0.0,
            to_clients: 0.0,
            database: number(status.database_bytes_in_use),
        };
        for (member, port) in self.members.iter().zip(&self.ports) {
            usage.cpu += member.cpu()?.as_secs_f64();
            let metrics = page(([127, 0, 0, 1], *port).into(), "/metrics").await?;
            usage.log += metric(&metrics, "etcd_disk_wal_write_bytes_total");
            usage.to_peers += metric(&metrics, "etcd_network_peer_sent_bytes_total");
            usage.to_clients += metric(&metrics, "etcd_network_client_grpc_sent_bytes_total");
        }
        Ok(usage)
    }

    /// Returns the resident memory of all members in bytes.
    pub fn memory(&self) -> Result<u64> {
        self.members.iter().map(KilledOnDrop::memory_now).sum()
    }
}

/// Returns the sum of a metric over its labels.
pub fn metric(page: &str, name: &str) -> f64 {
    let lines = page.lines().filter_map(|line| line.strip_prefix(name));
    lines
        .filter(|rest| rest.starts_with([' ', '{']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

fn program() -> Result<PathBuf> {
    if let Some(program) = env::var_os(PROGRAM) {
        return Ok(program.into());
    }
    let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/etcd/install");
    let output = Command::new(&install).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot run {}", install.display()))?;
    ensure!(output.status.success(), "{} failed: see its message above", install.display());
    Ok(String::from_utf8(output.stdout)?.trim().into())
}
