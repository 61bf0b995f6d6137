//! Whose checks changed.

use std::{collections::HashSet, mem, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};

use crate::{
    model::{InstanceId, ServiceName},
    registry::{Audience, Event},
};

/// Hears of every change, and keeps those of instances with checks until the runner looks.
#[derive(Debug, Default)]
pub struct Inbox {
    changed: Mutex<HashSet<(ServiceName, InstanceId)>>,
    bell: Notify,
}

impl Inbox {
    /// What has changed since it was last asked, as of so much later; waits until something has.
    pub(super) async fn changed_after(&self, pause: Duration) -> HashSet<(ServiceName, InstanceId)> {
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

    /// Has an instance looked at.
    pub(super) fn put(&self, service: &ServiceName, id: &InstanceId) {
        if self.changed.lock().insert((service.clone(), id.clone())) {
            self.bell.notify_one();
        }
    }
}

impl Audience for Inbox {
    fn changed(&self, event: &Event) {
        let before = event.before().is_some_and(|entry| !entry.instance.checks.is_empty());
        let after = event.after().is_some_and(|entry| !entry.instance.checks.is_empty());
        if before || after {
            self.put(event.service(), event.id());
        }
    }
}
