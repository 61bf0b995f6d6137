//! Settling: after a start that lost registrations, readers with state of an earlier incarnation wait.
//!
//! Registered programs register again within seconds. Until then, an answer would tell a reader that instances are gone which
//! are about to return; a reader that waits keeps using its last set. A reader without such state loses nothing and is answered
//! at once.
//!
//! Not here: which readers have such state, which each protocol knows from its own tokens, and waking the readers that wait.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{Registry, lease::LeaseTime};
use crate::model::Incarnation;

/// Lease time at which settling ends; 0: the registry does not settle.
#[derive(Debug, Default)]
pub(super) struct Settling(AtomicU64);

impl Registry {
    /// Starts settling, for `length` from now on. Call it before the first reader connects, if registrations were lost.
    ///
    /// Settling runs on lease time, which leaves out pauses of the process, so a pause does not shorten the time to register
    /// again.
    pub fn settle(&self, now: LeaseTime, length: Duration) {
        let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        if length > 0 {
            self.settling.0.store(now.saturating_add(length), Ordering::Release);
        }
    }

    /// Returns whether readers with state of an earlier incarnation wait. Settling ends for all protocols at the same
    /// time, by [`Registry::end_settling`], not by the clock of each caller.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        self.settling.0.load(Ordering::Acquire) != 0
    }

    /// Returns whether a reader that remembers this incarnation has to wait until settling ends.
    #[must_use]
    pub fn must_settle(&self, remembered: Incarnation) -> bool {
        remembered != self.incarnation() && self.is_settling()
    }

    /// Ends settling if its time is over. Returns true once, and the caller then wakes the waiting readers. Called by the task
    /// that expires leases, with the same time, so that a worker with unread heartbeats holds back both.
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
        model::{ResumeToken, Revision, Selector},
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
        let selector = Arc::new(Selector::Names([name("web")].into()));
        let selected = selector.digest("");
        let token =
            token.map(|(incarnation, revision)| ResumeToken { incarnation, revision, selector_digest: selected });
        Subscription::new(selector, None, token)
    }

    #[test]
    fn settling_lasts_for_its_length_and_ends_once() {
        let memory = memory();
        let registry = memory.registry();
        assert!(!registry.is_settling(), "it was not started");
        registry.settle(500, LENGTH);
        assert!(!registry.end_settling(10_499) && registry.is_settling());
        assert!(registry.end_settling(10_500), "now");
        assert!(!registry.is_settling() && !registry.end_settling(10_501), "once");
    }

    #[test]
    fn settling_without_length_does_not_start() {
        let memory = memory();
        memory.registry().settle(0, Duration::ZERO);
        assert!(!memory.registry().is_settling() && !memory.registry().end_settling(1));
    }

    #[test]
    fn only_reader_with_token_of_another_incarnation_waits() {
        let memory = memory();
        let registry = memory.registry();
        registry.settle(0, LENGTH);
        let (mut resuming, mut fresh) = (reader(Some((OTHER, Revision(9)))), reader(None));
        let mut of_this_incarnation = reader(Some((Incarnation(7), registry.applied())));
        assert!(matches!(resuming.next(registry), Step::Settling));
        assert!(matches!(fresh.next(registry), Step::Synced(_)));
        assert!(matches!(of_this_incarnation.next(registry), Step::Synced(_)));
        memory.submit(Command::Register(register("web", "a", "boot", 1)), at(0)).unwrap();
        assert!(matches!(resuming.next(registry), Step::Settling), "changes do not end it");
        assert!(matches!(fresh.next(registry), Step::Changes(..)));
        assert!(registry.end_settling(10_000));
        assert!(matches!(resuming.next(registry), Step::Reset(ResetReason::OtherIncarnation)));
        assert!(matches!(resuming.next(registry), Step::Snapshot(_)));
        assert!(matches!(resuming.next(registry), Step::Synced(_)));
    }

    #[test]
    fn live_reader_waits_and_starts_over_when_another_incarnation_begins() {
        let memory = memory();
        let registry = memory.registry();
        memory.submit(Command::Register(register("web", "a", "boot", 1)), at(0)).unwrap();
        let mut live = reader(None);
        assert!(matches!(live.next(registry), Step::Snapshot(_)));
        assert!(matches!(live.next(registry), Step::Synced(_)));
        let before = live.token(registry, registry.applied());
        registry.settle(0, LENGTH);
        registry.order().begin_incarnation(OTHER);
        memory.submit(Command::Register(register("web", "b", "boot", 2)), at(0)).unwrap();
        assert!(matches!(live.next(registry), Step::Settling), "the change is of the other incarnation");
        assert_eq!(live.token(registry, before.revision), before, "a token of what was sent stays what it is");
        assert!(registry.end_settling(10_000));
        assert!(matches!(live.next(registry), Step::Reset(ResetReason::OtherIncarnation)));
        assert!(matches!(live.next(registry), Step::Snapshot(_)));
        assert!(matches!(live.next(registry), Step::Synced(_)));
        assert_eq!(live.token(registry, registry.applied()).incarnation, OTHER);
    }
}
