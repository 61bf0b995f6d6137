//! The program that `callboard run` runs.

use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process;

use crate::cli::error::CliError;

/// A running program, in our process group, with our stdin, stdout and stderr.
#[derive(Debug)]
pub(super) struct Child {
    process: process::Child,
}

impl Child {
    /// Starts it. `command` is the program and its arguments.
    pub(crate) fn spawn(command: &[OsString]) -> Result<Self, CliError> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(CliError::Other(anyhow::anyhow!("no program to run; name one after `--`")));
        };
        let spawned = process::Command::new(program).args(arguments).spawn();
        let process =
            spawned.map_err(|error| CliError::Spawn { program: program.to_string_lossy().into_owned(), error })?;
        Ok(Self { process })
    }

    /// Its exit code, once it has ended; 128 and the signal's number where one killed it, as in shells.
    pub(crate) async fn exit(&mut self) -> io::Result<u8> {
        Ok(code(self.process.wait().await?))
    }

    /// Passes a signal on. An interrupt from a terminal has reached it already, with the whole process group: a second
    /// one would make many programs quit without finishing what they do.
    pub(crate) fn pass_on(&self, signal: Signal) {
        if signal == Signal::INT && io::stdin().is_terminal() {
            return;
        }
        let id = self.process.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            // It fails where the program has just ended, which is what the signal is for.
            let _ended = kill_process(pid, signal);
        }
    }

    /// Ends it at once.
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
    async fn the_exit_code_is_that_of_the_program() {
        assert_eq!(shell("exit 42").exit().await.unwrap(), 42);
    }

    #[tokio::test]
    async fn a_program_killed_by_a_signal_ends_as_in_a_shell() {
        assert_eq!(shell("kill -TERM $$").exit().await.unwrap(), 143);
        let mut sleeper = shell("exec sleep 60");
        sleeper.pass_on(Signal::TERM);
        assert_eq!(sleeper.exit().await.unwrap(), 143);
        let mut stubborn = shell("trap '' TERM; exec sleep 60");
        stubborn.kill().unwrap();
        assert_eq!(stubborn.exit().await.unwrap(), 137);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let failure = Child::spawn(&[OsString::from("no-such-program-here")]).unwrap_err();
        assert!(failure.to_string().starts_with("cannot start `no-such-program-here`"), "{failure}");
    }
}
