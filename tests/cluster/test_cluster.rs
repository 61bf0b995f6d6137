//! Three replicas over three members of etcd, as processes.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{network::Network, shifted_clock::ShiftedClock};
use crate::harness::{
    Child, EtcdCluster, EtcdPlace, Proxy, Random, ServerProcess, SmallDisk, TestClient, steady_port, within,
};

/// Number of members of etcd, and of replicas.
pub const SIZE: usize = 3;
/// Lines of each log that a failing test prints.
const SHOWN_LINES: usize = 40;

/// Surroundings of a cluster that its faults need.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surroundings {
    /// Processes run on hosts of their own.
    pub networks: bool,
    /// Wall clocks of replicas can be shifted.
    pub clocks: bool,
    /// Replicas reach etcd through proxies.
    pub proxies: bool,
    /// Mount options of the disk of the last member. etcd has up to three files of 64 MB for its log.
    pub small_disk: Option<&'static str>,
    /// Arguments of the members.
    pub etcd_arguments: &'static [&'static str],
}

/// Addresses of the replicas, in their order.
#[derive(Debug, Clone)]
pub struct ReplicaAddresses(pub Arc<[SocketAddr]>);

impl ReplicaAddresses {
    /// Returns a client of a replica; numbers go round.
    pub fn client(&self, replica: usize) -> TestClient {
        TestClient::lazy(self.0[replica % self.0.len()])
    }

    /// Returns the number of a replica that is chosen at random.
    pub fn any(&self, random: &mut Random) -> usize {
        usize::try_from(random.below(self.0.len() as u64)).unwrap()
    }

    /// Returns the addresses as the Rust client takes them.
    pub fn servers(&self) -> callboard::client::Servers {
        let all: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        all.join(",").parse().unwrap()
    }
}

/// Replicas and members.
#[derive(Debug)]
pub struct TestCluster {
    pub etcd: EtcdCluster,
    replicas: Vec<ReplicaProcess>,
    pub network: Option<Network>,
    pub clocks: Vec<ShiftedClock>,
    /// Proxies in front of the members.
    pub proxies: Vec<Proxy>,
    pub small_disk: Option<SmallDisk>,
    logs: TempDir,
}

/// Address of a replica, and its process unless it has ended.
#[derive(Debug)]
struct ReplicaProcess {
    address: SocketAddr,
    process: Option<ServerProcess>,
}

impl TestCluster {
    /// Starts all processes. Returns `None` if the environment permits skipping tests that need such surroundings.
    pub async fn start(surroundings: Surroundings) -> Option<Self> {
        let network = if surroundings.networks { Some(Network::with_hosts(2 * SIZE)?) } else { None };
        let small_disk = match surroundings.small_disk {
            Some(options) => Some(SmallDisk::mount(options)?),
            None => None,
        };
        let place = |member: usize| {
            let place = network.as_ref().map_or_else(EtcdPlace::default, |network| EtcdPlace {
                host: network.address(member),
                namespace: Some(network.namespace(member)),
                disk: None,
            });
            let disk = small_disk.as_ref().filter(|_| member == SIZE - 1).map(|disk| disk.path().to_owned());
            EtcdPlace { disk, ..place }
        };
        let etcd = EtcdCluster::start_at((0..SIZE).map(place).collect(), surroundings.etcd_arguments).await;
        let mut proxies = Vec::new();
        if surroundings.proxies {
            for member in 0..SIZE {
                proxies.push(Proxy::before(etcd.address(member)).await);
            }
        }
        let mut ports = Vec::new();
        while ports.len() < SIZE {
            let port = steady_port();
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        let host = |number: usize| network.as_ref().map_or("127.0.0.1".to_owned(), |net| net.address(SIZE + number));
        let address = |(number, port)| format!("{}:{port}", host(number)).parse().unwrap();
        let addresses = ports.into_iter().enumerate().map(address);
        let replicas = addresses.map(|address| ReplicaProcess { address, process: None }).collect();
        let clocks = if surroundings.clocks { (0..SIZE).map(|_| ShiftedClock::new()).collect() } else { Vec::new() };
        let logs = tempfile::tempdir().unwrap();
        let mut cluster = Self { etcd, replicas, network, clocks, proxies, small_disk, logs };
        for replica in 0..SIZE {
            cluster.start_replica(replica).await;
        }
        Some(cluster)
    }

    pub fn addresses(&self) -> ReplicaAddresses {
        ReplicaAddresses(self.replicas.iter().map(|replica| replica.address).collect())
    }

    /// Starts a replica that does not run, on its address, and waits until it serves.
    pub async fn start_replica(&mut self, replica: usize) {
        let child = self.begin_replica(replica);
        self.replicas[replica].process = Some(ServerProcess::ready(child).await);
    }

    /// Starts the replicas that have ended by themselves, as a supervisor does. Returns their number.
    pub async fn restart_ended(&mut self) -> usize {
        let mut restarted = 0;
        for replica in 0..SIZE {
            let process = self.replicas[replica].process.as_mut();
            if process.is_none_or(|process| process.child.has_ended()) {
                self.start_replica(replica).await;
                restarted += 1;
            }
        }
        restarted
    }

    pub async fn kill_replica(&mut self, replica: usize) {
        self.replicas[replica].process.take().expect("it runs").kill().await;
    }

    /// Sends a signal to a replica that runs.
    pub fn signal_replica(&self, replica: usize, signal: Signal) {
        self.replicas[replica].process.as_ref().expect("it runs").child.signal(signal);
    }

    /// Returns a metric of a replica, which must not be on a host of its own.
    pub async fn metric(&self, replica: usize, name: &str) -> f64 {
        self.replicas[replica].process.as_ref().expect("it runs").metric(name).await
    }

    /// Returns the resident memory of the replicas in KiB.
    pub fn resident(&self) -> Vec<u64> {
        self.replicas.iter().filter_map(|replica| replica.process.as_ref()).map(ServerProcess::resident).collect()
    }

    /// Returns a member that leads etcd, and one that does not.
    pub async fn leader_and_follower(&self) -> (usize, usize) {
        let leader = within("a leader", self.etcd.leader()).await;
        (leader, (leader + 1) % SIZE)
    }

    /// Host of a member in the network.
    pub fn member_host(member: usize) -> usize {
        member
    }

    /// Host of a replica in the network.
    pub fn replica_host(replica: usize) -> usize {
        SIZE + replica
    }

    fn begin_replica(&self, replica: usize) -> Child {
        let grpc = self.replicas[replica].address.to_string();
        let etcd = if self.proxies.is_empty() {
            self.etcd.endpoints()
        } else {
            let endpoint = |proxy: &Proxy| format!("http://{}", proxy.address());
            self.proxies.iter().map(endpoint).collect::<Vec<_>>().join(",")
        };
        let name = format!("replica-{replica}");
        let usual = [
            "serve",
            "--grpc",
            &grpc,
            "--http",
            "127.0.0.1:0",
            "--dns",
            "off",
            "-o",
            "json",
            "--log",
            "info,callboard::engine=debug",
        ];
        let store = ["--etcd", &etcd, "--replica", &name, "--allow-insecure-remote"];
        let arguments = [&usual[..], &store].concat();
        let namespace = self.network.as_ref().map(|network| network.namespace(Self::replica_host(replica)));
        let mut command = Child::command_in(namespace.as_deref(), &arguments);
        if let Some(clock) = self.clocks.get(replica) {
            command.envs(clock.variables());
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log(replica)).unwrap();
        Child::spawn_with_log(command, log)
    }

    fn log(&self, replica: usize) -> PathBuf {
        self.logs.path().join(format!("replica-{replica}.log"))
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if thread::panicking() {
            (0..SIZE).for_each(|replica| print_end(&self.log(replica)));
        }
    }
}

/// Prints the last lines of a log.
fn print_end(log: &Path) {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    eprintln!("the end of {}:", log.display());
    for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
        eprintln!("  {line}");
    }
}
