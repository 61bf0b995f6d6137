//! Readers that wait until the registry of this replica is recent enough: for the state of etcd at the time of their request, or for a
//! revision that another replica has shown.

use std::{collections::BTreeMap, mem, time::Duration};

use super::position::CommitPosition;
use crate::{
    engine::{EngineError, OutcomeSender},
    model::Revision,
};

/// Maximum time that a consistent read waits.
const MAX_SYNCHRONIZATION: Duration = Duration::from_secs(2);
/// Maximum time that a watch waits for the revision of its token.
const MAX_CATCH_UP: Duration = Duration::from_secs(3);
/// Time after which a rejected reader should try again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Reader that waits.
#[derive(Debug)]
struct WaitingReader {
    sender: OutcomeSender<()>,
    /// Time since the start of the process at which the reader is rejected.
    deadline: Duration,
    /// Reason of the rejection.
    late: &'static str,
}

impl WaitingReader {
    fn answer(self) {
        // A reader that has given up gets no answer.
        let _ = self.sender.send(Ok(()));
    }

    /// Rejects the reader if its time is over, and drops it if it has given up. Returns it otherwise.
    fn checked(self, now: Duration) -> Option<Self> {
        if self.sender.is_closed() {
            return None;
        }
        if now < self.deadline {
            return Some(self);
        }
        let error = EngineError::NotCurrent { reason: self.late.to_owned(), retry: RETRY_DELAY };
        let _ = self.sender.send(Err(error));
        None
    }
}

/// Readers that wait.
#[derive(Debug, Default)]
pub struct WaitingReaders {
    /// Readers that arrived after the present read of etcd's revision was sent. The next read serves all of them.
    arrived: Vec<WaitingReader>,
    /// Readers that the present read serves. `None`: no read is in flight.
    asking: Option<Vec<WaitingReader>>,
    /// Readers that wait until this replica has received all changes up to a revision of etcd.
    waiting: ReadersByRevision,
    /// Readers that wait until this replica has applied a change at or above a revision of etcd.
    behind: ReadersByRevision,
}

/// Readers by the revision of etcd that they wait for.
#[derive(Debug, Default)]
struct ReadersByRevision {
    readers: BTreeMap<u64, Vec<WaitingReader>>,
    /// Newest revision that was reached.
    reached: u64,
}

impl ReadersByRevision {
    fn add(&mut self, revision: u64, readers: Vec<WaitingReader>) {
        if revision <= self.reached {
            readers.into_iter().for_each(WaitingReader::answer);
        } else {
            self.readers.entry(revision).or_default().extend(readers);
        }
    }

    fn reach(&mut self, revision: u64) {
        self.reached = self.reached.max(revision);
        while let Some(first) = self.readers.first_entry()
            && *first.key() <= self.reached
        {
            first.remove().into_iter().for_each(WaitingReader::answer);
        }
    }

    fn expire(&mut self, now: Duration) {
        self.readers.values_mut().for_each(|readers| check(readers, now));
        self.readers.retain(|_, readers| !readers.is_empty());
    }
}

/// Rejects the readers that have waited too long, and forgets those that have given up.
fn check(readers: &mut Vec<WaitingReader>, now: Duration) {
    *readers = mem::take(readers).into_iter().filter_map(|reader| reader.checked(now)).collect();
}

impl WaitingReaders {
    /// Adds a reader that needs everything that was acknowledged before now.
    pub fn synchronize(&mut self, sender: OutcomeSender<()>, now: Duration) {
        let late = "etcd has not confirmed within 2 s that this replica has all changes";
        self.arrived.push(WaitingReader { sender, deadline: now + MAX_SYNCHRONIZATION, late });
    }

    /// Adds a reader that needs a revision of the registry.
    pub fn reach(&mut self, revision: Revision, sender: OutcomeSender<()>, now: Duration) {
        let late = "this replica has not received within 3 s what another one has shown to the client";
        let reader = WaitingReader { sender, deadline: now + MAX_CATCH_UP, late };
        self.behind.add(CommitPosition::etcd_revision_of(revision), vec![reader]);
    }

    /// Returns whether etcd's revision has to be read now. Its result goes to [`Self::take_revision`].
    pub fn begin_read(&mut self) -> bool {
        let begins = self.asking.is_none() && !self.arrived.is_empty();
        if begins {
            self.asking = Some(mem::take(&mut self.arrived));
        }
        begins
    }

    /// Takes etcd's revision, or that it was not read: its readers then wait for the next read. Returns whether readers wait for changes that
    /// this replica has not received.
    pub fn take_revision(&mut self, revision: Option<u64>) -> bool {
        let readers = self.asking.take().unwrap_or_default();
        match revision {
            Some(revision) => self.waiting.add(revision, readers),
            None => self.arrived.extend(readers),
        }
        !self.waiting.readers.is_empty()
    }

    /// Records that this replica has received all changes up to a revision of etcd, and answers the readers that waited for them.
    pub fn received(&mut self, revision: u64) {
        self.waiting.reach(revision);
    }

    /// Records that this replica has applied a change with a revision of etcd, and answers the readers that waited for it.
    pub fn applied(&mut self, revision: u64) {
        self.waiting.reach(revision);
        self.behind.reach(revision);
    }

    /// Rejects the readers that have waited too long, and forgets those that have given up.
    pub fn expire(&mut self, now: Duration) {
        check(&mut self.arrived, now);
        self.asking.iter_mut().for_each(|readers| check(readers, now));
        self.waiting.expire(now);
        self.behind.expire(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::PendingCommand;

    const SECOND: Duration = Duration::from_secs(1);

    fn synchronize(readers: &mut WaitingReaders, now: Duration) -> PendingCommand<()> {
        let (sender, pending) = PendingCommand::waiting();
        readers.synchronize(sender, now);
        pending
    }

    fn reach(readers: &mut WaitingReaders, revision: Revision) -> PendingCommand<()> {
        let (sender, pending) = PendingCommand::waiting();
        readers.reach(revision, sender, Duration::ZERO);
        pending
    }

    fn count(readers: &WaitingReaders) -> usize {
        readers.arrived.len()
            + readers.asking.iter().map(Vec::len).sum::<usize>()
            + [&readers.waiting, &readers.behind]
                .iter()
                .flat_map(|waiting| waiting.readers.values())
                .map(Vec::len)
                .sum::<usize>()
    }

    #[test]
    fn reader_that_arrives_during_a_read_waits_for_the_next_one() {
        let mut readers = WaitingReaders::default();
        assert!(!readers.begin_read(), "nothing waits");
        readers.received(7);
        let first = [synchronize(&mut readers, SECOND), synchronize(&mut readers, SECOND)];
        assert!(readers.begin_read());
        let later = synchronize(&mut readers, SECOND);
        assert!(!readers.begin_read(), "one read at a time");
        assert!(!readers.take_revision(Some(7)));
        assert!(first.into_iter().all(|reader| reader.wait().is_ok()));
        assert_eq!(count(&readers), 1);
        assert!(readers.begin_read() && readers.take_revision(Some(8)));
        readers.received(8);
        assert!(later.wait().is_ok());
    }

    #[test]
    fn reader_waits_until_its_revision_is_received_or_applied() {
        let mut readers = WaitingReaders::default();
        let (current, token) = (synchronize(&mut readers, SECOND), reach(&mut readers, CommitPosition::complete(9)));
        assert!(readers.begin_read() && readers.take_revision(Some(6)));
        readers.applied(5);
        assert_eq!(count(&readers), 2);
        readers.received(9);
        assert!(current.wait().is_ok());
        assert_eq!(count(&readers), 1, "the change itself was not applied");
        readers.applied(9);
        assert!(token.wait().is_ok());
    }

    #[test]
    fn reader_of_a_failed_read_is_served_by_the_next_one_and_rejected_after_its_time() {
        let mut readers = WaitingReaders::default();
        let pending = synchronize(&mut readers, SECOND);
        for _ in 0..2 {
            assert!(readers.begin_read());
            assert!(!readers.take_revision(None));
        }
        readers.expire(SECOND * 2);
        assert!(readers.begin_read());
        readers.expire(SECOND * 3);
        let error = pending.wait().unwrap_err();
        assert!(matches!(error, EngineError::NotCurrent { .. }), "{error}");
        assert_eq!(count(&readers), 0);
    }

    #[test]
    fn reader_that_gives_up_is_forgotten() {
        let mut readers = WaitingReaders::default();
        drop(reach(&mut readers, CommitPosition::complete(u64::MAX)));
        drop(synchronize(&mut readers, SECOND));
        readers.expire(Duration::ZERO);
        assert_eq!(count(&readers), 0);
        let pending = reach(&mut readers, CommitPosition::complete(u64::MAX));
        readers.expire(SECOND * 3);
        assert!(pending.wait().is_err());
    }
}
