//! Limit of the changes of weights alone, for clients that connect anew to all instances at each changed resource.
//!
//! Such a change is sent [`MIN_INTERVAL`] after the resource was last sent, or later; the newest weights always arrive. Any other change is
//! sent at once, with the weights that there are.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use super::Session;
use crate::protocol::xds::resource::{EncodedResource, ResourceType};

/// Minimum time from sending a resource to a change of its weights alone.
const MIN_INTERVAL: Duration = Duration::from_secs(10);

impl Session {
    /// Limits the changes of weights alone: the client connects anew to all instances at each change.
    pub(in crate::protocol::xds) fn pace_weights(&mut self) {
        self.pacing.turn_on();
    }

    /// Marks the resources as pending whose changed weights have waited long enough. `now`: time since the start of the process.
    pub(in crate::protocol::xds) fn release_weights(&mut self, now: Duration) {
        for name in self.pacing.release(now) {
            self.types[ResourceType::Assignment as usize].mark(&name);
        }
    }

    /// Time at which the next weights have waited long enough.
    pub(in crate::protocol::xds) fn wake_at(&self) -> Option<Duration> {
        self.pacing.wake_at()
    }
}

/// Limit of the changes of weights alone. Times are since the start of the process.
#[derive(Debug, Default)]
pub(super) struct WeightPacing {
    is_on: bool,
    now: Duration,
    sent: HashMap<Arc<str>, SentShape>,
    /// Resources with other weights than the client has, and the times at which they may be sent.
    delayed: BTreeMap<Arc<str>, Duration>,
}

/// Resource as it was last sent.
#[derive(Debug, Clone, Copy)]
struct SentShape {
    shape: u64,
    at: Duration,
}

impl WeightPacing {
    /// Begins to limit the changes.
    pub(super) fn turn_on(&mut self) {
        self.is_on = true;
    }

    /// Sets the time. Returns the resources that may be sent now.
    pub(super) fn release(&mut self, now: Duration) -> Vec<Arc<str>> {
        self.now = now;
        self.delayed.extract_if(.., |_, at| *at <= now).map(|(name, _)| name).collect()
    }

    /// Returns whether a changed resource must not be sent yet. Then it is released later.
    pub(super) fn delays(&mut self, name: &Arc<str>, resource: &EncodedResource) -> bool {
        let Some(sent) = self.sent.get(name).filter(|sent| sent.shape == resource.shape) else { return false };
        let at = sent.at + MIN_INTERVAL;
        let delays = self.now < at;
        if delays {
            self.delayed.insert(Arc::clone(name), at);
        }
        delays
    }

    /// Records that a resource is sent.
    pub(super) fn sent(&mut self, name: &Arc<str>, resource: &EncodedResource) {
        if self.is_on {
            self.sent.insert(Arc::clone(name), SentShape { shape: resource.shape, at: self.now });
            self.delayed.remove(name);
        }
    }

    /// Forgets a resource that the client no longer subscribes to.
    pub(super) fn forget(&mut self, name: &str) {
        self.sent.remove(name);
        self.delayed.remove(name);
    }

    /// Time at which the next resource is released.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        self.delayed.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(shape: u64) -> EncodedResource {
        EncodedResource { shape, ..EncodedResource::new(Vec::new().into()) }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn weights_wait_and_other_changes_do_not() {
        let (mut pacing, name) = (WeightPacing::default(), Arc::from("web"));
        pacing.turn_on();
        assert!(pacing.release(seconds(3)).is_empty());
        assert!(!pacing.delays(&name, &resource(1)), "it was never sent");
        pacing.sent(&name, &resource(1));
        assert!(pacing.release(seconds(12)).is_empty());
        assert!(pacing.delays(&name, &resource(1)));
        assert_eq!(pacing.wake_at(), Some(seconds(13)));
        assert!(!pacing.delays(&name, &resource(2)), "another endpoint");
        assert_eq!(pacing.release(seconds(13)), [Arc::clone(&name)]);
        assert!(!pacing.delays(&name, &resource(1)));
        assert_eq!(pacing.wake_at(), None);

        pacing.sent(&name, &resource(2));
        assert!(pacing.delays(&name, &resource(2)));
        pacing.sent(&name, &resource(3));
        assert_eq!(pacing.wake_at(), None, "the weights were sent with another change");
        pacing.forget(&name);
        assert!(!pacing.delays(&name, &resource(3)));
    }

    #[test]
    fn clients_that_keep_their_connections_get_weights_at_once() {
        let (mut pacing, name) = (WeightPacing::default(), Arc::from("web"));
        pacing.sent(&name, &resource(1));
        assert!(!pacing.delays(&name, &resource(1)));
    }
}
