//! File descriptors: how many there may be, and one in reserve.

use std::{fs::File, io};

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// The share of the descriptors that connections may use, in percent. The rest is for files, pollers and the store.
const CONNECTIONS: u64 = 80;
/// Where the system sets no limit.
const UNLIMITED: u64 = 1 << 20;

/// Raises the process's limit on descriptors as far as the system lets it. What is low is there for programs that use
/// `select`, and this is none.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, ?current, ?maximum, "the limit on descriptors stays as it is");
    }
}

/// How many connections the limit on descriptors leaves room for.
#[must_use]
pub fn room_for_connections() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED).min(UNLIMITED);
    usize::try_from(limit * CONNECTIONS / 100).unwrap_or(usize::MAX).max(1)
}

/// A descriptor to give up when there are no others.
///
/// Without one, a connection that waits can neither be taken nor turned away: it would be announced again and again.
#[derive(Debug)]
pub(super) struct SpareDescriptor(Option<File>);

impl SpareDescriptor {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Some(File::open("/dev/null")?)))
    }

    /// Whether an error means that the system, or this process, has no descriptors or no memory for a connection.
    pub(super) fn is_wanted(error: &io::Error) -> bool {
        let errno = Errno::from_io_error(error);
        errno.is_some_and(|errno| [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&errno))
    }

    /// Gives it up. Whether there was one.
    pub(super) fn spend(&mut self) -> bool {
        self.0.take().is_some() || self.renew() && self.0.take().is_some()
    }

    /// Whether there is one again.
    pub(super) fn renew(&mut self) -> bool {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
        self.0.is_some()
    }
}
