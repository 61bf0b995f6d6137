//! Servers as child processes, and their memory and CPU time as Linux reports them.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

/// Path of the binary under test.
pub const CALLBOARD: &str = env!("CARGO_BIN_EXE_callboard");
/// Cores of the server and of the load generator in comparisons.
const SERVER_CORE: &str = "0";
const LOAD_CORE: &str = "1";
/// Interval at which memory is sampled.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// Number of equal samples in a row after which memory counts as stable.
const STABLE_SAMPLES: u32 = 8;
const MAX_SAMPLES: u32 = 50;
/// Difference in bytes below which two samples are equal.
const NOISE_BYTES: u64 = 64 * 1024;

/// Server process that is killed on drop.
#[derive(Debug)]
pub struct Server {
    child: KilledOnDrop,
    /// Addresses by listener, from the line that the server prints when it is ready.
    ready: serde_json::Value,
    /// Address of the gRPC listener, or of HTTP where there is no gRPC.
    pub address: SocketAddr,
}

/// Child process that is killed on drop.
#[derive(Debug)]
pub struct KilledOnDrop(pub Child);

impl KilledOnDrop {
    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let process = Pid::from_raw(self.0.id().try_into()?).context("the process has no id")?;
        Ok(kill_process(process, signal)?)
    }

    /// Returns the CPU time of all threads, from `schedstat`, which has nanoseconds where `/proc/PID/stat` has steps of 10 ms.
    pub fn cpu(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.0.id()))? {
            let times = fs::read_to_string(thread?.path().join("schedstat"))?;
            let on_cpu = times.split(' ').next().context("empty schedstat")?;
            nanoseconds += on_cpu.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Returns the resident memory in bytes.
    pub fn memory_now(&self) -> Result<u64> {
        self.memory_field("VmRSS:")
    }

    fn memory_field(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kilobytes.with_context(|| format!("no {field} in /proc: Linux is needed"))?.parse::<u64>()? * 1024)
    }
}

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        // Fails if the process has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Starts `callboard serve` with its defaults.
    pub fn callboard() -> Result<Self> {
        Self::callboard_with(&[])
    }

    /// Starts `callboard serve` with further arguments.
    pub fn callboard_with(arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(CALLBOARD);
        serve(&mut command).args(arguments);
        Self::start(&mut command)
    }

    /// Starts `callboard serve` on one core, with one worker.
    pub fn callboard_pinned() -> Result<Self> {
        let mut command = pinned(CALLBOARD);
        serve(&mut command).args(["--workers", "1"]);
        Self::start(&mut command)
    }

    /// Starts a baseline on one core: this program with the baseline's name as its argument.
    pub fn baseline_pinned(baseline: &str) -> Result<Self> {
        let program = env::current_exe().context("cannot find this program")?;
        Self::start(pinned(&program.display().to_string()).arg(baseline))
    }

    fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = KilledOnDrop(child.with_context(|| format!("cannot start {command:?}"))?);
        let stdout = child.0.stdout.take().context("the server has no stdout")?;
        let mut ready = String::new();
        BufReader::new(stdout).read_line(&mut ready)?;
        ensure!(!ready.is_empty(), "{command:?} exited before it was ready: run it by hand to see why");
        let ready: serde_json::Value = serde_json::from_str(&ready)?;
        let address = listener(&ready, "grpc").or_else(|| listener(&ready, "http"));
        let address = address.context("the server printed no address of gRPC or HTTP")??;
        Ok(Self { child, ready, address })
    }

    /// Returns the address of the HTTP listener.
    pub fn http(&self) -> Result<SocketAddr> {
        listener(&self.ready, "http").context("the server printed no HTTP address")?
    }

    /// Returns the address of the listener with this name.
    pub fn listener(&self, name: &str) -> Result<SocketAddr> {
        listener(&self.ready, name).with_context(|| format!("the server printed no address of {name}"))?
    }

    /// Returns the address of the DNS listener, if there is one.
    pub fn dns(&self) -> Option<Result<SocketAddr>> {
        listener(&self.ready, "dns")
    }

    /// Returns the resident memory in bytes once it is stable.
    pub async fn memory(&self) -> Result<u64> {
        let mut last = self.child.memory_now()?;
        let mut stable = 0;
        for _ in 0..MAX_SAMPLES {
            sleep(SAMPLE_INTERVAL).await;
            let now = self.child.memory_now()?;
            stable = if now.abs_diff(last) <= NOISE_BYTES { stable + 1 } else { 0 };
            last = now;
            if stable == STABLE_SAMPLES {
                break;
            }
        }
        Ok(last)
    }

    /// Returns the largest resident memory so far in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        self.child.memory_field("VmHWM:")
    }

    /// Returns the CPU time of all threads.
    pub fn cpu(&self) -> Result<Duration> {
        self.child.cpu()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.child.signal(signal)
    }
}

/// Returns the address of a listener from the line that the server prints when it is ready.
fn listener(ready: &serde_json::Value, name: &str) -> Option<Result<SocketAddr>> {
    ready[name].as_str().map(|address| Ok(address.parse()?))
}

fn serve(command: &mut Command) -> &mut Command {
    let listeners = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--dns", "127.0.0.1:0"];
    command.arg("serve").args(listeners).args(["-o", "json", "--log", "warn"])
}

fn pinned(program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", SERVER_CORE, program]);
    command
}

/// Restricts this process to the load generator's core.
pub fn pin_this_process() -> Result<()> {
    let process = std::process::id().to_string();
    let done = Command::new("taskset").args(["-cp", LOAD_CORE, &process]).stdout(Stdio::null()).status();
    let done = done.context("cannot run taskset: install util-linux")?;
    ensure!(done.success(), "taskset cannot use core {LOAD_CORE}: comparing needs two cores");
    Ok(())
}
