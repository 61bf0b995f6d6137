//! Settling: after a start that lost registrations, readers who remember more than is there are kept waiting.
//!
//! Whoever was registered comes back within seconds. A reader that was told at once what is there would be told that all
//! the others are gone; one that hears nothing serves on from the set that it has. A reader without such a memory has
//! nothing to lose and is answered at once.
//!
//! What is not here: who is such a reader, which each door knows of its own tokens, and waking those who wait.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{Registry, lease::LeaseTime};

/// The time up to which readers with a memory wait; 0: they do not.
#[derive(Debug, Default)]
pub(super) struct Settling(AtomicU64);

impl Registry {
    /// Begins to settle, for so long from now on. Call it before the first reader comes, where registrations were lost.
    ///
    /// It runs on the time of leases, which stands still while the process does: so a pause costs nobody the time to
    /// come back.
    pub fn settle(&self, now: LeaseTime, length: Duration) {
        let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        if length > 0 {
            self.settling.0.store(now.saturating_add(length), Ordering::Release);
        }
    }

    /// Whether readers who bring a memory of an earlier incarnation are to be kept waiting, unanswered. It ends for all
    /// doors at once, when [`Registry::end_settling`] says so, not by the clock of whoever asks.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        self.settling.0.load(Ordering::Acquire) != 0
    }

    /// Ends settling if its time has come. True once: those who wait are then to be woken. To be asked by whoever expires
    /// leases, with the same time: a worker that has not read what came for it holds both back.
    #[must_use]
    pub fn end_settling(&self, now: LeaseTime) -> bool {
        let until = self.settling.0.load(Ordering::Acquire);
        until != 0 && now >= until && self.settling.0.swap(0, Ordering::AcqRel) != 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        engine::Memory,
        model::{Incarnation, ResumeToken, Revision, Selector},
        registry::{
            Command, ResetReason, Step, Subscription,
            test_support::{NoListener, at, name, register},
        },
    };

    const LENGTH: Duration = Duration::from_secs(10);
    const OTHER: Incarnation = Incarnation(3);

    fn memory() -> Memory {
        Memory::new(Incarnation(7), at(0), Arc::new(NoListener))
    }

    fn reader(token: Option<(Incarnation, Revision)>) -> Subscription {
        let selection = Arc::new(Selector::Names([name("web")].into()));
        let selected = selection.digest("");
        let token = token.map(|(incarnation, revision)| ResumeToken { incarnation, revision, selection: selected });
        Subscription::new(selection, None, token)
    }

    #[test]
    fn it_lasts_as_long_as_asked_and_ends_once() {
        let memory = memory();
        let registry = memory.registry();
        assert!(!registry.is_settling(), "only when told to");
        registry.settle(500, LENGTH);
        assert!(!registry.end_settling(10_499) && registry.is_settling());
        assert!(registry.end_settling(10_500), "now");
        assert!(!registry.is_settling() && !registry.end_settling(10_501), "once");
    }

    #[test]
    fn no_time_is_no_settling() {
        let memory = memory();
        memory.registry().settle(0, Duration::ZERO);
        assert!(!memory.registry().is_settling() && !memory.registry().end_settling(1));
    }

    #[test]
    fn only_a_reader_that_remembers_an_earlier_life_waits() {
        let memory = memory();
        let registry = memory.registry();
        registry.settle(0, LENGTH);
        let (mut remembers, mut knows_nothing) = (reader(Some((OTHER, Revision(9)))), reader(None));
        let mut of_this_life = reader(Some((Incarnation(7), registry.applied())));
        assert!(matches!(remembers.next(registry), Step::Settling));
        assert!(matches!(knows_nothing.next(registry), Step::Synced(_)));
        assert!(matches!(of_this_life.next(registry), Step::Synced(_)));
        memory.submit(Command::Register(register("web", "a", "boot", 1)), at(0)).unwrap();
        assert!(matches!(remembers.next(registry), Step::Settling), "whatever happens meanwhile");
        assert!(matches!(knows_nothing.next(registry), Step::Changes(..)));
        assert!(registry.end_settling(10_000));
        assert!(matches!(remembers.next(registry), Step::Reset(ResetReason::OtherIncarnation)));
        assert!(matches!(remembers.next(registry), Step::Snapshot(_)));
        assert!(matches!(remembers.next(registry), Step::Synced(_)));
    }
}
