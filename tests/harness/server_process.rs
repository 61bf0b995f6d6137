//! The program itself, as people and scripts start it.

use std::{
    net::{SocketAddr, TcpListener},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{ChildStdout, Command},
    task::JoinHandle,
};

use tempfile::TempDir;

use super::{Engine, TestClient, within};

/// A program that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Child {
    process: tokio::process::Child,
    lines: Lines<BufReader<ChildStdout>>,
    complaints: JoinHandle<String>,
}

/// Result of a program that has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

impl Child {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    pub fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Self::command(arguments);
        command.envs(variables.iter().copied());
        Self::spawn(command)
    }

    /// Callboard with these arguments, and without what this test's environment would tell it.
    pub fn command(arguments: &[&str]) -> Command {
        Self::command_in(None, arguments)
    }

    /// Callboard in a network namespace.
    pub fn command_in(namespace: Option<&str>, arguments: &[&str]) -> Command {
        let mut command = in_namespace(namespace, env!("CARGO_BIN_EXE_callboard"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CALLBOARD_")) {
            command.env_remove(name);
        }
        // Tests run beside each other, and there is one usual port.
        command.env("CALLBOARD_DNS", "off");
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Starts a prepared command.
    pub fn spawn(command: Command) -> Self {
        Self::spawn_with(command, Stdio::piped())
    }

    /// Starts a prepared command, with a file for its standard error.
    pub fn spawn_with_log(command: Command, log: std::fs::File) -> Self {
        Self::spawn_with(command, log.into())
    }

    fn spawn_with(mut command: Command, stderr: Stdio) -> Self {
        command.stdout(Stdio::piped()).stderr(stderr).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let stderr = process.stderr.take();
        let complaints = tokio::spawn(async move {
            let mut all = String::new();
            if let Some(mut stderr) = stderr {
                // What is no text is no complaint that a test looks for.
                let _ = stderr.read_to_string(&mut all).await;
            }
            all
        });
        Self { process, lines, complaints }
    }

    /// Runs a program that ends by itself.
    pub async fn run(arguments: &[&str]) -> Ended {
        Self::start(arguments).ended().await
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn pid(&self) -> Pid {
        let pid = self.process.id().expect("it runs");
        Pid::from_raw(pid.try_into().unwrap()).unwrap()
    }

    /// The next line of its standard output, as JSON.
    pub async fn line(&mut self) -> Value {
        let line = within("a line", self.lines.next_line()).await.unwrap();
        let Some(line) = line else { panic!("no more lines: {}", (&mut self.complaints).await.unwrap()) };
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// The next line that is wanted; those before it are passed over.
    pub async fn line_where(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        within(what, async {
            loop {
                let line = self.line().await;
                if wanted(&line) {
                    return line;
                }
            }
        })
        .await
    }

    /// The next line of this type.
    pub async fn of_type(&mut self, kind: &str) -> Value {
        self.line_where(kind, |line| line["type"] == kind).await
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> Ended {
        let mut stdout = String::new();
        let reading = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                stdout.push_str(&line);
                stdout.push('\n');
            }
        };
        within("the end of its output", reading).await;
        let status = within("its end", self.process.wait()).await.unwrap();
        Ended { status, stdout, stderr: self.complaints.await.unwrap() }
    }

    /// Returns true once it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// Ends it without a word.
    pub async fn kill(mut self) {
        within("its end", self.process.kill()).await.unwrap();
    }
}

/// `callboard serve`.
#[derive(Debug)]
pub struct ServerProcess {
    pub child: Child,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    /// Address of its DNS listener, if it has one.
    pub dns: Option<SocketAddr>,
    /// Data directory, if the test did not choose one.
    _data: Option<TempDir>,
}

impl ServerProcess {
    /// On ports that the system chooses.
    pub async fn start(more: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", more).await
    }

    pub async fn start_at(grpc: &str, more: &[&str]) -> Self {
        let engine = (!more.iter().any(|argument| ["--data-dir", "--etcd"].contains(argument))).then(Engine::usual);
        let (data, etcd) = (engine.and_then(Engine::data), engine.and_then(Engine::etcd));
        let mut arguments = more.to_vec();
        if let Some(data) = &data {
            arguments.extend(["--data-dir", data.path().to_str().unwrap()]);
        }
        if let Some(etcd) = &etcd {
            arguments.extend(["--etcd", &etcd.endpoints[0], "--cluster", &etcd.cluster]);
        }
        let serve = Self::ready(Self::begin(grpc, &arguments)).await;
        Self { _data: data, ..serve }
    }

    /// Starts the process with these arguments, and does not wait until it listens.
    pub fn begin(grpc: &str, more: &[&str]) -> Child {
        let usual = ["serve", "--grpc", grpc, "--http", "127.0.0.1:0", "-o", "json", "--log", "warn"];
        Child::start(&[&usual, more].concat())
    }

    /// Waits until it listens.
    pub async fn ready(mut child: Child) -> Self {
        let ready = child.line().await;
        let at = |listener: &str| ready[listener].as_str().unwrap().parse().unwrap();
        let dns = ready["dns"].as_str().map(|address| address.parse().unwrap());
        Self { grpc: at("grpc"), http: at("http"), dns, child, _data: None }
    }

    /// For `--server`.
    pub fn address(&self) -> String {
        self.grpc.to_string()
    }

    pub async fn client(&self) -> TestClient {
        TestClient::connect(self.grpc).await
    }

    /// Kills the process.
    pub async fn kill(self) {
        self.child.kill().await;
    }

    /// Kills the process and starts another on the same gRPC address.
    pub async fn restart(self, more: &[&str]) -> Self {
        let grpc = self.address();
        self.child.kill().await;
        Self::start_at(&grpc, more).await
    }

    /// Returns the CPU time of all threads.
    pub fn cpu(&self) -> Duration {
        let pid = self.child.pid().as_raw_nonzero();
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let times = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap());
        let nanoseconds = times.map(|times| times.split(' ').next().unwrap().parse::<u64>().unwrap());
        Duration::from_nanos(nanoseconds.sum())
    }

    /// Returns the resident memory in KiB.
    pub fn resident(&self) -> u64 {
        self.status("VmRSS:").trim_end_matches(" kB").parse().unwrap()
    }

    /// Returns the number of its threads.
    pub fn threads(&self) -> u64 {
        self.status("Threads:").parse().unwrap()
    }

    /// Returns the number of its open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.pid().as_raw_nonzero())).unwrap().count()
    }

    /// The sum of a metric over its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let (status, page) = super::get(self.http, "/metrics").await;
        assert_eq!(status, 200, "{page}");
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        page.lines().filter(of_name).map(value).sum()
    }

    fn status(&self, field: &str) -> String {
        let pid = self.child.pid().as_raw_nonzero();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned()
    }
}

/// Returns a command that runs a program in a network namespace, or where the test runs.
pub fn in_namespace(namespace: Option<&str>, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let Some(namespace) = namespace else { return Command::new(program) };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// Returns a port that is free at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A free port for a server that comes back to it: none of those that the system gives to connections, for one of them could take
/// it meanwhile, and a client that tries again and again could even reach itself.
pub fn steady_port() -> u16 {
    loop {
        let port = 61_100 + u16::try_from(callboard::random::u64() % 4_400).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
