//! Subscription to all resources of a type.

use std::{mem, sync::Arc};

use super::TypeSubscription;

/// Maximum number of changed names that a subscription to all looks up one by one. With more, it reads the list of all.
const MAX_UNLISTED_NAMES: usize = 1_024;

impl TypeSubscription {
    /// Begins or ends the subscription to all.
    pub(in crate::protocol::xds::session) fn set_wildcard(&mut self, wildcard: bool) {
        if wildcard == mem::replace(&mut self.wildcard, wildcard) {
            return;
        }
        if wildcard {
            self.must_list = true;
            self.requested = true;
        } else {
            self.must_list = false;
            self.resources.retain(|_, state| state.named);
            self.pending.retain(|name| self.resources.contains_key(name));
            self.removed.clear();
            self.unlisted.clear();
        }
    }

    /// Removes a resource that is part of a subscription to all, and that the client did not name.
    pub(in crate::protocol::xds::session) fn remove_unnamed(&mut self, name: &str) {
        if self.resources.get(name).is_some_and(|state| !state.named)
            && let Some((name, _)) = self.resources.remove_entry(name)
        {
            self.pending.remove(&name);
            self.removed.insert(name);
        }
    }

    /// Adds a resource if it exists when the next response is made, and the client subscribes to all and lacks it.
    pub(in crate::protocol::xds::session) fn mark_new(&mut self, name: &str) {
        if self.wildcard && !self.must_list && !self.resources.contains_key(name) {
            self.unlisted.insert(name.into());
            if self.unlisted.len() > MAX_UNLISTED_NAMES {
                self.list_again();
                self.unlisted.clear();
            }
        }
    }

    /// Makes the list of all resources be read again, if the client subscribes to all.
    pub(in crate::protocol::xds::session) fn list_again(&mut self) {
        self.must_list |= self.wildcard;
    }

    /// Returns whether the list of all resources has to be read for the next response.
    pub(in crate::protocol::xds::session) fn must_list(&self) -> bool {
        self.must_list
    }

    /// Takes in the list of all resources. A resource stays subscribed when it leaves the list: clusters are never removed from a
    /// client that may use them.
    pub(in crate::protocol::xds::session) fn list(&mut self, names: Vec<Arc<str>>) {
        self.must_list = false;
        self.unlisted.clear();
        for name in names {
            self.removed.remove(&name);
            let state = self.resources.entry(Arc::clone(&name)).or_default();
            if state.sent.is_none() {
                self.pending.insert(name);
            }
        }
        for name in &self.removed {
            self.resources.remove(name);
            self.pending.remove(name);
        }
    }

    /// Adds the changed resources that exist to a subscription to all.
    pub(in crate::protocol::xds::session) fn list_changed(&mut self, exists: impl Fn(&str) -> bool) {
        for name in mem::take(&mut self.unlisted) {
            if exists(&name) {
                self.removed.remove(&name);
                self.resources.entry(Arc::clone(&name)).or_default();
                self.pending.insert(name);
            }
        }
    }
}
