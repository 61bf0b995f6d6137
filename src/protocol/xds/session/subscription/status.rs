//! State of a subscription, for lists of streams.

use std::sync::Arc;

use super::{RejectedResponse, ResourceState, ResourceStatus, SentResponse, TypeSubscription};
use crate::model::UnixMillis;

impl TypeSubscription {
    /// Returns whether the client has asked for resources of the type.
    pub(in crate::protocol::xds) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Returns whether the client subscribes to all resources of the type.
    pub(in crate::protocol::xds) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Number of subscribed resources.
    pub(in crate::protocol::xds) fn len(&self) -> usize {
        self.resources.len()
    }

    /// Number of resources that the client named. Each further 256 bytes of a name count as one more.
    pub(in crate::protocol::xds) fn named(&self) -> usize {
        self.named
    }

    /// Returns the names of the subscription, and whether it includes all resources.
    #[cfg(test)]
    pub(in crate::protocol::xds::session) fn names_and_wildcard(&self) -> (Vec<Arc<str>>, bool) {
        let named = self.resources.iter().filter(|(_, state)| state.named);
        (named.map(|(name, _)| Arc::clone(name)).collect(), self.wildcard)
    }

    /// Returns the subscribed resources with their status, by name.
    pub(in crate::protocol::xds) fn resources(&self) -> impl Iterator<Item = (&Arc<str>, ResourceStatus)> {
        self.resources.iter().map(|(name, state)| (name, self.status(state)))
    }

    /// Returns the status of a resource. `None`: the client does not subscribe to it.
    pub(in crate::protocol::xds) fn status_of(&self, name: &str) -> Option<ResourceStatus> {
        self.resources.get(name).map(|state| self.status(state))
    }

    /// Returns the hash of the content that the client has or was sent. `None`: it was sent none.
    pub(in crate::protocol::xds) fn sent_hash(&self, name: &str) -> Option<u64> {
        self.resources.get(name).and_then(|state| state.sent)
    }

    fn status(&self, state: &ResourceState) -> ResourceStatus {
        let accepted = self.accepted.map_or(0, |response| response.nonce);
        match state.sent {
            None => ResourceStatus::NotSent,
            Some(_) if state.rejected => ResourceStatus::Rejected,
            Some(_) if state.nonce > accepted => ResourceStatus::Stale,
            Some(_) => ResourceStatus::Synced,
        }
    }

    /// Latest response.
    pub(in crate::protocol::xds) fn latest(&self) -> Option<SentResponse> {
        self.latest
    }

    /// Latest response that the client accepted.
    pub(in crate::protocol::xds) fn accepted(&self) -> Option<SentResponse> {
        self.accepted
    }

    /// Latest response that the client rejected, until it has accepted each of the rejected resources.
    pub(in crate::protocol::xds) fn rejected(&self) -> Option<&RejectedResponse> {
        self.rejected.as_ref()
    }

    /// Time since which the client has not answered a response. `None`: it has answered all.
    pub(in crate::protocol::xds) fn unanswered_since(&self) -> Option<UnixMillis> {
        self.unanswered_since
    }
}
