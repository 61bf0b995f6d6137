//! A disk that is too small.

use std::{
    env,
    path::Path,
    process::{Command, ExitStatus},
};

use tempfile::TempDir;

/// Environment variable that permits skipping the tests where nothing can be mounted. Without it they fail.
const SKIP_VARIABLE: &str = "CALLBOARD_TEST_WITHOUT_MOUNT";

/// Small disk in memory. Dropping it unmounts it.
#[derive(Debug)]
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// Returns `None` if the environment permits skipping the test.
    pub fn mount(options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(directory.path()).status();
        if status.as_ref().is_ok_and(ExitStatus::success) {
            return Some(Self(directory));
        }
        let known = env::var(SKIP_VARIABLE).as_deref() == Ok("1");
        assert!(
            known,
            "no tmpfs can be mounted ({status:?}): be root, or set {SKIP_VARIABLE}=1 to leave out what needs one"
        );
        eprintln!("LEFT OUT, for {SKIP_VARIABLE} is set: a disk of {options}");
        None
    }

    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let status = Command::new("mount").args(["-o", &options]).arg(self.0.path()).status().unwrap();
        assert!(status.success(), "{options}: {status}");
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        if !status.as_ref().is_ok_and(ExitStatus::success) {
            eprintln!("{} stays mounted: {status:?}", self.0.path().display());
        }
    }
}
