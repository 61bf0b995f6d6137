//! A cluster of etcd: real processes on loopback, in a temporary directory.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use callboard::etcd::{EtcdClient, EtcdCredentials, EtcdMemberStatus, EtcdOptions, EtcdTls};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    net::UnixDatagram,
    process::{Child, Command},
};

use super::{CertFiles, TestCa, in_namespace, steady_port, within};

/// Variable with the path of the program.
const PROGRAM: &str = "CALLBOARD_TEST_ETCD_PROGRAM";
/// Time between two looks at a member whose state etcd reports to nobody.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Returns the directory with etcdctl and etcdutl, and builds them if they are not there.
fn tools() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/etcd/install");
    let output = std::process::Command::new(script).arg("tools").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}

/// Runs a tool.
async fn run(tool: &mut Command) {
    let output = tool.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Cluster of etcd members. Dropping it kills them.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<EtcdMember>,
    more: Vec<String>,
    tls: Option<EtcdTls>,
    credentials: Option<EtcdCredentials>,
    directory: TempDir,
}

#[derive(Debug)]
struct EtcdMember {
    name: String,
    place: EtcdPlace,
    client_url: String,
    peer_url: String,
    running: Option<RunningMember>,
}

/// Address, network and disk of a member.
#[derive(Debug, Clone)]
pub struct EtcdPlace {
    pub host: String,
    pub namespace: Option<String>,
    /// Directory for its data, if it is not in that of the cluster.
    pub disk: Option<PathBuf>,
}

impl Default for EtcdPlace {
    fn default() -> Self {
        Self { host: "127.0.0.1".to_owned(), namespace: None, disk: None }
    }
}

#[derive(Debug)]
struct RunningMember {
    process: Child,
    /// Socket on which the member reports that it serves.
    readiness: UnixDatagram,
}

impl EtcdCluster {
    /// Starts this number of members, and waits until all serve.
    pub async fn start(members: usize) -> Self {
        Self::start_with(members, &[]).await
    }

    /// Starts members with more arguments.
    pub async fn start_with(members: usize, more: &[&str]) -> Self {
        Self::start_at(vec![EtcdPlace::default(); members], more).await
    }

    /// Starts a member at each place, with more arguments.
    pub async fn start_at(places: Vec<EtcdPlace>, more: &[&str]) -> Self {
        Self::launch(places, more.iter().map(ToString::to_string).collect(), None).await
    }

    /// Starts members that speak TLS and ask clients for certificates. A client has the certificate `client`.
    pub async fn start_with_tls(members: usize, ca: &TestCa, server: &CertFiles, client: &CertFiles) -> Self {
        let (ca, mine) = (ca.ca(), client.clone());
        let more = [
            ("--cert-file", server.certificate()),
            ("--key-file", server.key()),
            ("--trusted-ca-file", ca.to_str().unwrap()),
        ];
        let mut more: Vec<String> = more.iter().map(|(flag, file)| format!("{flag}={file}")).collect();
        more.push("--client-cert-auth".to_owned());
        let tls = EtcdTls { certificate: Some((mine.certificate, mine.key)), ca: Some(ca) };
        Self::launch(vec![EtcdPlace::default(); members], more, Some(tls)).await
    }

    async fn launch(places: Vec<EtcdPlace>, more: Vec<String>, tls: Option<EtcdTls>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut ports = BTreeSet::new();
        while ports.len() < 2 * places.len() {
            ports.insert(steady_port());
        }
        let ports: Vec<u16> = ports.into_iter().collect();
        let member = |(index, (place, ports)): (usize, (EtcdPlace, &[u16]))| EtcdMember {
            name: format!("m{index}"),
            client_url: format!("{scheme}://{}:{}", place.host, ports[0]),
            peer_url: format!("http://{}:{}", place.host, ports[1]),
            place,
            running: None,
        };
        let members = places.into_iter().zip(ports.chunks(2)).enumerate().map(member).collect();
        let mut cluster = Self { members, more, tls, credentials: None, directory: tempfile::tempdir().unwrap() };
        cluster.start_all().await;
        cluster
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_running(&self, member: usize) -> bool {
        self.members[member].running.is_some()
    }

    /// Waits until a member ends by itself. Cancel-safe.
    pub async fn end_of(&mut self, member: usize) {
        let running = self.members[member].running.as_mut().expect("it runs");
        running.process.wait().await.unwrap();
        self.members[member].running = None;
    }

    /// Kills all members, and returns a copy of their data.
    pub async fn back_up(&mut self) -> TempDir {
        self.kill_all().await;
        let backup = tempfile::tempdir().unwrap();
        for member in 0..self.len() {
            copy(&self.data(member), &backup.path().join(&self.members[member].name));
        }
        backup
    }

    /// Kills all members, replaces their data by a backup, and starts them.
    pub async fn restore(&mut self, backup: &TempDir) {
        self.kill_all().await;
        for member in 0..self.len() {
            fs::remove_dir_all(self.data(member)).unwrap();
            copy(&backup.path().join(&self.members[member].name), &self.data(member));
        }
        self.start_all().await;
    }

    /// Saves a snapshot with etcdctl.
    pub async fn save_snapshot(&self, file: &Path) {
        let mut etcdctl = Command::new(tools().join("etcdctl"));
        run(etcdctl.args(["--endpoints", self.endpoint(0), "snapshot", "save"]).arg(file)).await;
    }

    /// Kills the only member, and starts it with a snapshot that etcdutl restores with its revisions raised.
    pub async fn restore_raised(&mut self, snapshot: &Path, raise: u64) {
        assert_eq!(self.len(), 1);
        self.kill_all().await;
        let data = self.data(0);
        fs::remove_dir_all(&data).unwrap();
        let EtcdMember { name, peer_url, .. } = &self.members[0];
        let mut etcdutl = Command::new(tools().join("etcdutl"));
        etcdutl.args(["snapshot", "restore", "--mark-compacted", "--bump-revision", &raise.to_string()]);
        etcdutl.args(["--name", name, "--initial-advertise-peer-urls", peer_url]);
        etcdutl.args(["--initial-cluster", &format!("{name}={peer_url}"), "--initial-cluster-token=test"]);
        run(etcdutl.arg("--data-dir").arg(data).arg(snapshot)).await;
        self.start_all().await;
    }

    /// Returns the endpoint of a member.
    pub fn endpoint(&self, member: usize) -> &str {
        &self.members[member].client_url
    }

    /// Returns the address of a member for plain TCP.
    pub fn address(&self, member: usize) -> std::net::SocketAddr {
        self.endpoint(member).split_once("://").unwrap().1.parse().unwrap()
    }

    /// Returns the endpoints of all members, separated by commas.
    pub fn endpoints(&self) -> String {
        self.members.iter().map(|member| &*member.client_url).collect::<Vec<_>>().join(",")
    }

    /// Returns the settings of a client of all members, in their order.
    pub fn options(&self) -> EtcdOptions {
        let mut options = EtcdOptions::new(self.members.iter().map(|member| &member.client_url));
        options.tls = self.tls.clone().unwrap_or_default();
        options.credentials.clone_from(&self.credentials);
        options
    }

    /// Gives clients a user from now on.
    pub fn set_credentials(&mut self, user: &str, password: &str) {
        self.credentials = Some(EtcdCredentials { user: user.to_owned(), password: password.to_owned() });
    }

    /// Returns a client of all members, in their order.
    pub fn client(&self) -> EtcdClient {
        EtcdClient::new(self.options()).unwrap()
    }

    /// Returns a client of one member.
    pub fn client_of(&self, member: usize) -> EtcdClient {
        EtcdClient::new(EtcdOptions { endpoints: vec![self.endpoint(member).to_owned()], ..self.options() }).unwrap()
    }

    /// Returns the leader, once one is elected that all running members know.
    pub async fn leader(&self) -> usize {
        within("a leader", async {
            loop {
                if let Some(leader) = self.agreed_leader().await {
                    return leader;
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        })
        .await
    }

    /// Returns a member that is not the leader.
    pub async fn follower(&self) -> usize {
        (self.leader().await + 1) % self.len()
    }

    async fn agreed_leader(&self) -> Option<usize> {
        let client = self.client();
        let mut statuses = Vec::new();
        for (index, member) in self.members.iter().enumerate() {
            if member.running.is_some() {
                statuses.push((index, client.member_status(index).await.ok()?));
            }
        }
        let leader = statuses.first()?.1.leader?;
        let agreed = statuses.iter().all(|(_, status)| status.leader == Some(leader));
        statuses.iter().find(|(_, status)| agreed && status.member_id == leader).map(|(index, _)| *index)
    }

    /// Returns the status of a member, which must run.
    pub async fn status(&self, member: usize) -> EtcdMemberStatus {
        self.client().member_status(member).await.unwrap()
    }

    /// Kills a member with SIGKILL, and waits for its end.
    pub async fn kill(&mut self, member: usize) {
        let mut running = self.members[member].running.take().expect("it runs");
        within("the end of a member", running.process.kill()).await.unwrap();
    }

    /// Stops a member with SIGSTOP, and returns once all its threads have stopped: it keeps its connections, and answers nothing.
    pub fn pause(&self, member: usize) {
        self.signal(member, Signal::STOP);
        while !is_stopped(self.pid(member)) {
            std::thread::yield_now();
        }
    }

    /// Continues a member that was stopped.
    pub fn resume(&self, member: usize) {
        self.signal(member, Signal::CONT);
    }

    /// Starts a member that was killed, on its addresses and with its data, and waits until it serves.
    pub async fn restart(&mut self, member: usize) {
        self.begin(member);
        self.ready(member).await;
    }

    /// Starts a member that was killed, and does not wait: without a quorum it serves nothing.
    pub fn begin(&mut self, member: usize) {
        assert!(self.members[member].running.is_none(), "it runs");
        let directory = self.directory.path();
        let socket = directory.join(format!("{}.ready", self.members[member].name));
        // Absent at the first start.
        let _ = fs::remove_file(&socket);
        let readiness = UnixDatagram::bind(&socket).unwrap();
        let process = self.command(member, &socket).spawn().unwrap();
        self.members[member].running = Some(RunningMember { process, readiness });
    }

    /// Waits until a member that was begun serves.
    pub async fn ready(&mut self, member: usize) {
        let log = self.log(member);
        let running = self.members[member].running.as_mut().expect("it was begun");
        let mut message = [0; 64];
        let ready = async {
            loop {
                let length = running.readiness.recv(&mut message).await.unwrap();
                if message[..length].starts_with(b"READY=1") {
                    return;
                }
            }
        };
        tokio::select! {
            () = within("a member that serves", ready) => {}
            status = running.process.wait() => {
                let log = fs::read_to_string(&log).unwrap_or_default();
                panic!("etcd ended with {}: {log}", status.unwrap());
            }
        }
    }

    /// Kills all members, removes their data, and starts them anew: a cluster with the same ids and without history.
    pub async fn wipe(&mut self) {
        self.kill_all().await;
        for member in 0..self.len() {
            fs::remove_dir_all(self.data(member)).unwrap();
        }
        self.start_all().await;
    }

    async fn kill_all(&mut self) {
        for member in 0..self.len() {
            if self.is_running(member) {
                self.kill(member).await;
            }
        }
    }

    /// Directory with the data of a member.
    pub fn data(&self, member: usize) -> PathBuf {
        let EtcdMember { name, place, .. } = &self.members[member];
        place.disk.as_deref().unwrap_or(self.directory.path()).join(name)
    }

    /// Starts all members, which were killed, and waits until they serve.
    pub async fn start_all(&mut self) {
        for member in 0..self.len() {
            self.begin(member);
        }
        for member in 0..self.len() {
            self.ready(member).await;
        }
    }

    fn log(&self, member: usize) -> PathBuf {
        self.directory.path().join(format!("{}.log", self.members[member].name))
    }

    fn command(&self, member: usize, readiness: &Path) -> Command {
        let EtcdMember { name, place, client_url, peer_url, .. } = &self.members[member];
        let peers = self.members.iter().map(|member| format!("{}={}", member.name, member.peer_url));
        let peers = peers.collect::<Vec<_>>().join(",");
        let mut command = in_namespace(place.namespace.as_deref(), program());
        command
            .arg(format!("--name={name}"))
            .arg(format!("--data-dir={}", self.data(member).display()))
            .arg(format!("--listen-client-urls={client_url}"))
            .arg(format!("--advertise-client-urls={client_url}"))
            .arg(format!("--listen-peer-urls={peer_url}"))
            .arg(format!("--initial-advertise-peer-urls={peer_url}"))
            .arg(format!("--initial-cluster={peers}"))
            .args(["--initial-cluster-token=test", "--logger=zap", "--log-level=warn", "--unsafe-no-fsync"])
            .args(&self.more)
            .env("NOTIFY_SOCKET", readiness)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.log(member)).unwrap())
            .kill_on_drop(true);
        command
    }

    fn signal(&self, member: usize, signal: Signal) {
        kill_process(Pid::from_raw(self.pid(member).try_into().unwrap()).unwrap(), signal).unwrap();
    }

    fn pid(&self, member: usize) -> u32 {
        self.members[member].running.as_ref().and_then(|running| running.process.id()).expect("it runs")
    }
}

/// Returns whether all threads of a process have stopped.
fn is_stopped(pid: u32) -> bool {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|thread| {
        // The state follows the name of the program in parentheses. A thread that ends meanwhile has no state.
        let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
    })
}

fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("--archive").args([from, to]).status().unwrap();
    assert!(status.success(), "{} could not be copied", from.display());
}

/// Returns the program that the environment names.
fn program() -> OsString {
    std::env::var_os(PROGRAM).unwrap_or_else(|| panic!("{PROGRAM} names no etcd: run `just etcd`"))
}
