//! File descriptors: the limit of the process, and a descriptor kept in reserve.

use std::{fs::File, io};

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// Percentage of the descriptors that connections may use. The rest is for files, pollers and the store.
const MAX_CONNECTION_PERCENT: u64 = 80;
/// Limit that is assumed if the operating system sets none.
const ASSUMED_LIMIT: u64 = 1 << 20;

/// Raises the process's limit on descriptors as far as the operating system permits. The default is low for programs that use `select`, which
/// this program does not.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, ?current, ?maximum, "cannot raise the limit on file descriptors: raise it where the process is started (ulimit -n, LimitNOFILE=)");
    }
}

/// Maximum number of connections that the limit on descriptors permits.
#[must_use]
pub fn max_connections_by_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(ASSUMED_LIMIT).min(ASSUMED_LIMIT);
    usize::try_from(limit * MAX_CONNECTION_PERCENT / 100).unwrap_or(usize::MAX).max(1)
}

/// Descriptor that is closed when no others are left. See `Acceptor`.
#[derive(Debug)]
pub(super) struct SpareDescriptor(Option<File>);

impl SpareDescriptor {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Some(File::open("/dev/null")?)))
    }

    /// Returns whether an error means that the operating system or this process has no descriptor, or no memory, for a
    /// connection.
    pub(super) fn is_exhaustion(error: &io::Error) -> bool {
        let errno = Errno::from_io_error(error);
        errno.is_some_and(|errno| [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&errno))
    }

    /// Closes the descriptor. Returns whether there was one.
    pub(super) fn close(&mut self) -> bool {
        self.0.take().is_some() || self.reopen() && self.0.take().is_some()
    }

    /// Opens the descriptor again if it was closed. Returns whether there is one.
    pub(super) fn reopen(&mut self) -> bool {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
        self.0.is_some()
    }
}
