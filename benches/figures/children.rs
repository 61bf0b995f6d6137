//! Servers as children of this process, and what the kernel says of them.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::time::sleep;

/// The binary that is measured.
pub const CALLBOARD: &str = env!("CARGO_BIN_EXE_callboard");
/// Where servers run when they are compared, and where the load does.
const SERVER_CORE: &str = "0";
const LOAD_CORE: &str = "1";
/// How often memory is looked at, how often in a row it must be the same, and how long to wait for that.
const LOOK: Duration = Duration::from_millis(100);
const SAME: u32 = 8;
const LOOKS: u32 = 50;
/// Changes of so many bytes are none.
const NOISE: u64 = 64 * 1024;

/// A server that ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Ended,
    /// What it said when it was ready: its addresses, by door.
    ready: serde_json::Value,
    /// Where it speaks gRPC; or HTTP, if it speaks nothing else.
    pub address: SocketAddr,
}

/// A child that is killed when this is dropped.
#[derive(Debug)]
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Callboard as people run it.
    pub fn callboard() -> Result<Self> {
        Self::callboard_with(&[])
    }

    /// Callboard with more arguments.
    pub fn callboard_with(arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(CALLBOARD);
        serve(&mut command).args(arguments);
        Self::start(&mut command)
    }

    /// Callboard on one core, with one worker.
    pub fn callboard_pinned() -> Result<Self> {
        let mut command = pinned(CALLBOARD);
        serve(&mut command).args(["--workers", "1"]);
        Self::start(&mut command)
    }

    /// A limit, on one core: this program, as what it is called there.
    pub fn limit_pinned(limit: &str) -> Result<Self> {
        let program = env::current_exe().context("cannot find this program")?;
        Self::start(pinned(&program.display().to_string()).arg(limit))
    }

    fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = Ended(child.with_context(|| format!("cannot start {command:?}"))?);
        let stdout = child.0.stdout.take().context("the server has no stdout")?;
        let mut ready = String::new();
        BufReader::new(stdout).read_line(&mut ready)?;
        ensure!(!ready.is_empty(), "{command:?} ended before it was ready: run it by hand");
        let ready: serde_json::Value = serde_json::from_str(&ready)?;
        let address = door(&ready, "grpc").or_else(|| door(&ready, "http"));
        let address = address.context("the ready line names no address")??;
        Ok(Self { child, ready, address })
    }

    /// Where it speaks HTTP.
    pub fn http(&self) -> Result<SocketAddr> {
        door(&self.ready, "http").context("the ready line names no HTTP address")?
    }

    /// Where it answers DNS, if it does.
    pub fn dns(&self) -> Option<Result<SocketAddr>> {
        door(&self.ready, "dns")
    }

    /// Resident memory in bytes, once it no longer changes.
    pub async fn memory(&self) -> Result<u64> {
        let mut last = self.memory_now()?;
        let mut same = 0;
        for _ in 0..LOOKS {
            sleep(LOOK).await;
            let now = self.memory_now()?;
            same = if now.abs_diff(last) <= NOISE { same + 1 } else { 0 };
            last = now;
            if same == SAME {
                break;
            }
        }
        Ok(last)
    }

    fn memory_now(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kilobytes.context("no VmRSS in /proc: Linux is needed")?.parse::<u64>()? * 1024)
    }

    /// CPU time of all its threads: what `/proc/PID/stat` tells in steps of 10 ms, in nanoseconds.
    pub fn cpu(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.0.id()))? {
            let times = fs::read_to_string(thread?.path().join("schedstat"))?;
            let on_cpu = times.split(' ').next().context("empty schedstat")?;
            nanoseconds += on_cpu.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }
}

/// An address out of a ready line.
fn door(ready: &serde_json::Value, name: &str) -> Option<Result<SocketAddr>> {
    ready[name].as_str().map(|address| Ok(address.parse()?))
}

fn serve(command: &mut Command) -> &mut Command {
    let doors = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--dns", "127.0.0.1:0"];
    command.arg("serve").args(doors).args(["-o", "json", "--log", "warn"])
}

fn pinned(program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", SERVER_CORE, program]);
    command
}

/// Keeps this process off the servers' core.
pub fn pin_this_process() -> Result<()> {
    let process = std::process::id().to_string();
    let done = Command::new("taskset").args(["-cp", LOAD_CORE, &process]).stdout(Stdio::null()).status();
    let done = done.context("cannot run taskset: install util-linux")?;
    ensure!(done.success(), "taskset cannot use core {LOAD_CORE}: comparing needs two cores");
    Ok(())
}
