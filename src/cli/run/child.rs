//! Child process of `callboard run`.

use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process;

use crate::cli::error::CliError;

/// Running program, in the process group and with the standard streams of this process.
#[derive(Debug)]
pub(super) struct Child {
    process: process::Child,
}

impl Child {
    /// Starts a program. `command` is its name and its arguments.
    pub(crate) fn spawn(command: &[OsString]) -> Result<Self, CliError> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(CliError::Other(anyhow::anyhow!("no program to run; name one after `--`")));
        };
        let spawned = process::Command::new(program).args(arguments).spawn();
        let process =
            spawned.map_err(|error| CliError::Spawn { program: program.to_string_lossy().into_owned(), error })?;
        Ok(Self { process })
    }

    /// Waits for the exit code. If a signal killed the program, it is 128 plus the signal's number, as in shells.
    pub(crate) async fn exit(&mut self) -> io::Result<u8> {
        Ok(code(self.process.wait().await?))
    }

    /// Forwards a signal. An interrupt from a terminal is not forwarded: the terminal sends it to the whole process group,
    /// and a second one makes many programs quit at once.
    pub(crate) fn forward(&self, signal: Signal) {
        if signal == Signal::INT && io::stdin().is_terminal() {
            return;
        }
        let id = self.process.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            // Fails if the program has just ended, which is the purpose of the signal.
            let _result = kill_process(pid, signal);
        }
    }

    /// Kills the program.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.process.start_kill()
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        Child::spawn(&["sh", "-c", script].map(OsString::from)).unwrap()
    }

    #[tokio::test]
    async fn exit_code_is_that_of_the_program() {
        assert_eq!(shell("exit 42").exit().await.unwrap(), 42);
    }

    #[tokio::test]
    async fn exit_code_of_killed_program_is_128_plus_the_signal() {
        assert_eq!(shell("kill -TERM $$").exit().await.unwrap(), 143);
        let mut sleeper = shell("exec sleep 60");
        sleeper.forward(Signal::TERM);
        assert_eq!(sleeper.exit().await.unwrap(), 143);
        let mut stubborn = shell("trap '' TERM; exec sleep 60");
        stubborn.kill().unwrap();
        assert_eq!(stubborn.exit().await.unwrap(), 137);
    }

    #[tokio::test]
    async fn error_of_missing_program_names_it() {
        let failure = Child::spawn(&[OsString::from("no-such-program-here")]).unwrap_err();
        assert!(failure.to_string().starts_with("cannot start `no-such-program-here`"), "{failure}");
    }
}
