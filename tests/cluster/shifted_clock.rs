//! Wall clock of one process, which a test shifts while the process runs. A library that the process loads before all others reads
//! the shift from a shared file.

use std::{fs, io::Write as _, os::unix::fs::FileExt as _, path::PathBuf, process::Command};

use tempfile::TempDir;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/shifted_clock.c");

/// Wall clock of the processes that are started with its variables.
#[derive(Debug)]
pub struct ShiftedClock {
    directory: TempDir,
    file: fs::File,
}

impl ShiftedClock {
    /// Compiles the library with the C compiler, which every Rust toolchain needs as its linker.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut file = fs::File::create(directory.path().join("shift")).unwrap();
        file.write_all(&0_i64.to_ne_bytes()).unwrap();
        let clock = Self { directory, file };
        let output =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(clock.library()).arg(SOURCE).output();
        let output = output.unwrap();
        assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
        clock
    }

    /// Variables of a process that has this clock.
    pub fn variables(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", self.library()), ("SHIFTED_CLOCK", self.directory.path().join("shift"))]
    }

    /// Shifts the clock by these seconds against that of the machine.
    pub fn shift(&self, seconds: i64) {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    fn library(&self) -> PathBuf {
        self.directory.path().join("libshifted_clock.so")
    }
}
