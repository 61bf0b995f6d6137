//! Whose checks changed.

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

/// Whose instance it is.
pub(super) type Owner = (ServiceName, InstanceId);

/// What became of an instance.
#[derive(Debug)]
pub(super) struct InstanceChange {
    pub(super) revision: Revision,
    /// When it was ordered, in microseconds, or a little before.
    pub(super) at: u64,
    /// As it is now. `None`: it is gone.
    pub(super) entry: Option<Arc<Entry>>,
}

/// Hears of every change, and keeps those of instances with checks until the runner looks.
#[derive(Debug, Default)]
pub struct ChangeQueue {
    changed: Mutex<HashMap<Owner, InstanceChange>>,
    bell: Notify,
}

impl ChangeQueue {
    /// What has changed since it was last asked, as of so much later; waits until something has.
    pub(super) async fn changed_after(&self, pause: Duration) -> HashMap<Owner, InstanceChange> {
        if !pause.is_zero() {
            sleep(pause).await;
        }
        loop {
            let changed = mem::take(&mut *self.changed.lock());
            if !changed.is_empty() {
                return changed;
            }
            // What is put in between has left a permit.
            self.bell.notified().await;
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
        let news = InstanceChange { revision: event.revision, at: event.at.monotonic_us, entry: after.cloned() };
        match self.changed.lock().entry((event.service().clone(), event.id().clone())) {
            // Two writers may tell of what they did in the other order.
            Occupied(mut known) if known.get().revision < news.revision => *known.get_mut() = news,
            Occupied(_) => {}
            Vacant(place) => {
                place.insert(news);
                self.bell.notify_one();
            }
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

    fn checked() -> Arc<Entry> {
        let definition = CheckDefinition::new(CheckId::parse("c").unwrap(), "c", Probe::Ttl);
        let checks = InstanceChecks::new(vec![Check::new(definition.into(), CheckStatus::Passing)]).unwrap();
        let mut instance = entry("web", "a", 1).instance.clone();
        instance.checks = checks;
        Arc::new(Entry { instance, lease: None })
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
    async fn of_changes_that_are_told_in_the_other_order_the_later_counts() {
        let inbox = ChangeQueue::default();
        inbox.changed(&event(4, Change::Added(entry("web", "b", 1))));
        inbox.changed(&event(6, Change::Removed(checked(), RemovalReason::Deregistered)));
        inbox.changed(&event(5, Change::Added(checked())));
        let heard = inbox.changed_after(Duration::ZERO).await;
        let heard: Vec<_> = heard.iter().map(|((_, id), news)| (id.as_str(), news.at, news.entry.is_some())).collect();
        assert_eq!(heard, [("a", 6, false)]);
    }
}
