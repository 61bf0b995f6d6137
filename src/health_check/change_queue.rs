//! Queue of changes to instances that have checks.

use std::{
    collections::{
        HashMap,
        hash_map::Entry::{Occupied, Vacant},
    },
    mem,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};

use crate::{
    model::{InstanceId, Revision, ServiceName},
    registry::{ChangeListener, Entry, Event},
};

/// Instance that has checks.
pub(super) type Owner = (ServiceName, InstanceId);

/// Latest change of an instance.
#[derive(Debug)]
pub(super) struct InstanceChange {
    pub(super) revision: Revision,
    /// Monotonic time in microseconds at which the change was ordered, or shortly before. 0: unknown.
    pub(super) at_us: u64,
    /// The instance after the change. `None`: it was removed.
    pub(super) entry: Option<Arc<Entry>>,
}

/// Listener of the registry that keeps the latest change of each instance with checks until the runner takes it.
#[derive(Debug, Default)]
pub struct ChangeQueue {
    changed: Mutex<HashMap<Owner, InstanceChange>>,
    not_empty: Notify,
}

impl ChangeQueue {
    /// Waits for `delay`, then for a change, and takes all changes.
    pub(super) async fn take_after(&self, delay: Duration) -> HashMap<Owner, InstanceChange> {
        if !delay.is_zero() {
            sleep(delay).await;
        }
        loop {
            let changed = mem::take(&mut *self.changed.lock());
            if !changed.is_empty() {
                return changed;
            }
            // A change that arrived after the queue was checked has left a permit, so this returns at once.
            self.not_empty.notified().await;
        }
    }

    fn push(&self, owner: Owner, change: InstanceChange) {
        match self.changed.lock().entry(owner) {
            // Writers may notify in an order other than that of their revisions.
            Occupied(mut queued) if queued.get().revision < change.revision => *queued.get_mut() = change,
            Occupied(_) => {}
            Vacant(vacant) => {
                vacant.insert(change);
                self.not_empty.notify_one();
            }
        }
    }
}

impl ChangeListener for ChangeQueue {
    fn changed(&self, event: &Event) {
        let has_checks = |entry: &Arc<Entry>| !entry.instance.checks.is_empty();
        let (before, after) = (event.before(), event.after());
        if !before.is_some_and(has_checks) && !after.is_some_and(has_checks) {
            return;
        }
        let change = InstanceChange { revision: event.revision, at_us: event.at.monotonic_us, entry: after.cloned() };
        self.push((event.service().clone(), event.id().clone()), change);
    }

    fn holder_changed(&self, entry: &Arc<Entry>) {
        if !entry.instance.checks.is_empty() {
            // The time of the change is not known, so the runner looks the instance up.
            let change = InstanceChange { revision: entry.modified, at_us: 0, entry: Some(Arc::clone(entry)) };
            self.push((entry.instance.service.clone(), entry.instance.id.clone()), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Check, CheckDefinition, CheckId, CheckStatus, InstanceChecks, Probe, ServerActor},
        registry::{Attachment, Change, ClockReading, RemovalReason, test_support::entry},
    };

    fn entry_with_check() -> Arc<Entry> {
        let definition = CheckDefinition::new(CheckId::parse("c").unwrap(), "c", Probe::Ttl);
        let checks = InstanceChecks::new(vec![Check::new(definition.into(), CheckStatus::Passing)]).unwrap();
        let mut instance = entry("web", "a", 1).instance.clone();
        instance.checks = checks;
        Arc::new(Entry::new(instance, None))
    }

    fn event(revision: u64, change: Change) -> Event {
        let at = ClockReading { monotonic_us: revision, ..ClockReading::default() };
        Event {
            revision: Revision(revision),
            at,
            change,
            caller: Arc::clone(ServerActor::InProcess.caller()),
            attachment: Attachment::new(),
        }
    }

    #[tokio::test]
    async fn changes_notified_out_of_order_leave_the_latest() {
        let queue = ChangeQueue::default();
        queue.changed(&event(4, Change::Added(entry("web", "b", 1))));
        queue.changed(&event(6, Change::Removed(entry_with_check(), RemovalReason::Deregistered)));
        queue.changed(&event(5, Change::Added(entry_with_check())));
        let changes = queue.take_after(Duration::ZERO).await;
        let changes: Vec<_> = changes.iter().map(|((_, id), it)| (id.as_str(), it.at_us, it.entry.is_some())).collect();
        assert_eq!(changes, [("a", 6, false)]);
    }
}
