//! Subscription of one stream to the resources of one type.

mod service;
mod status;
mod wildcard;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use super::{InterestChange, MAX_ERROR_CHARS, MAX_RESPONSE_BYTES, RequestOutcome};
use crate::{model::UnixMillis, protocol::xds::resource::EncodedResource};

pub(in crate::protocol::xds) use service::service_of;

/// Name that subscribes to all resources.
const WILDCARD: &str = "*";
/// Bytes of a name that count as one resource, so that limits for resources also bound their memory.
const NAME_UNIT_BYTES: usize = 256;

/// Response of a type that the client was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocol::xds) struct SentResponse {
    pub(in crate::protocol::xds) nonce: u64,
    /// Revision of the registry at which the response was made.
    pub(in crate::protocol::xds) revision: u64,
    /// Time at which it was sent.
    pub(in crate::protocol::xds) at: UnixMillis,
}

/// Response of a type that the client rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocol::xds) struct RejectedResponse {
    pub(in crate::protocol::xds) nonce: u64,
    /// Reason that the client gave, cut to 1,024 characters.
    pub(in crate::protocol::xds) error: Arc<str>,
    /// Time at which the rejection arrived.
    pub(in crate::protocol::xds) at: UnixMillis,
}

/// State of one resource at the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocol::xds) enum ResourceStatus {
    /// The client was not sent the resource.
    NotSent,
    /// The client has not accepted the resource yet.
    Stale,
    /// The client rejected the response with the resource.
    Rejected,
    /// The client accepted the resource.
    Synced,
}

/// One resource.
#[derive(Debug, Clone, Copy, Default)]
struct ResourceState {
    /// The client named it. Otherwise it is part of a subscription to all.
    named: bool,
    /// Hash of the content that the client has or was sent.
    sent: Option<u64>,
    /// Nonce of the response with that content. 0: the client has it from an earlier stream.
    nonce: u64,
    /// Nonce of the first response with the resource. 0: there was none on this stream.
    first_nonce: u64,
    /// The client rejected that response.
    rejected: bool,
}

/// Subscription of one stream to the resources of one type.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is set and cleared independently of the others")]
pub(in crate::protocol::xds) struct TypeSubscription {
    /// A request for the type has arrived.
    begun: bool,
    /// The client subscribes to all resources.
    wildcard: bool,
    /// A request named resources, so an empty list no longer means all.
    has_named: bool,
    resources: BTreeMap<Arc<str>, ResourceState>,
    /// Number of resources that the client named. Each further 256 bytes of a name count as one more.
    named: usize,
    /// Resources that may differ from what the client has.
    pending: BTreeSet<Arc<str>>,
    /// Names that the client believes to have a resource and that have none.
    removed: BTreeSet<Arc<str>>,
    /// The client waits for a response to its request.
    requested: bool,
    /// The list of all resources has to be read.
    must_list: bool,
    /// Changed names that a subscription to all may lack.
    unlisted: BTreeSet<Arc<str>>,
    /// Latest response.
    latest: Option<SentResponse>,
    /// Latest response that the client accepted.
    accepted: Option<SentResponse>,
    /// Latest response that the client rejected, until it has accepted each of the rejected resources.
    rejected: Option<RejectedResponse>,
    /// Time since which the client has not answered a response.
    unanswered_since: Option<UnixMillis>,
}

/// Takes the name for all resources from names. Returns whether it was among them.
fn take_wildcard(names: &mut Vec<String>) -> bool {
    names.extract_if(.., |name| name == WILDCARD).count() > 0
}

/// Content of a response.
pub(super) struct ResponseContent {
    pub(super) resources: Vec<(Arc<str>, EncodedResource)>,
    pub(super) removed: Vec<Arc<str>>,
}

impl TypeSubscription {
    /// Takes in the client's answer to a response.
    pub(super) fn answered(&mut self, nonce: &str, error: Option<&str>, now: UnixMillis) -> RequestOutcome {
        // The nonce of a first request is that of another stream.
        if !mem::replace(&mut self.begun, true) || nonce.is_empty() {
            return RequestOutcome::Subscription;
        }
        let (Some(latest), Ok(nonce)) = (self.latest, nonce.parse::<u64>()) else { return RequestOutcome::Outdated };
        let is_latest = nonce == latest.nonce;
        let was_answered = is_latest && self.unanswered_since.take().is_none();
        match error {
            // A client that changes its subscription before it has looked at a response seems to accept that response first.
            Some(error) if nonce <= latest.nonce && self.rejected.as_ref().is_none_or(|last| last.nonce < nonce) => {
                self.reject(nonce, error, now)
            }
            None | Some(_) if was_answered => RequestOutcome::Subscription,
            None if is_latest => {
                self.accepted = Some(latest);
                if !self.resources.values().any(|state| state.rejected) {
                    self.rejected = None;
                }
                RequestOutcome::Accepted
            }
            None | Some(_) => RequestOutcome::Outdated,
        }
    }

    fn reject(&mut self, nonce: u64, error: &str, now: UnixMillis) -> RequestOutcome {
        let error: Arc<str> = error.chars().take(MAX_ERROR_CHARS).collect::<String>().into();
        self.rejected = Some(RejectedResponse { nonce, error: Arc::clone(&error), at: now });
        for state in self.resources.values_mut().filter(|state| state.nonce == nonce) {
            state.rejected = true;
        }
        RequestOutcome::Rejected(error)
    }

    /// Sets the names of the state-of-the-world protocol. `may_be_all`: no names in the first request mean all resources.
    pub(super) fn set_names(&mut self, mut names: Vec<String>, may_be_all: bool) -> Vec<InterestChange> {
        names.sort_unstable();
        names.dedup();
        let is_empty = names.is_empty();
        let all = may_be_all && (take_wildcard(&mut names) || is_empty && !self.has_named);
        self.has_named |= !is_empty;
        self.set_wildcard(all);
        // A client repeats its names, which may be thousands, in each answer to a response.
        let present = self.resources.iter().filter(|(_, state)| state.named).map(|(name, _)| &**name);
        if present.eq(names.iter().map(String::as_str)) {
            return Vec::new();
        }
        let mut changes = self.remove_others(|name| names.binary_search_by(|other| (**other).cmp(name)).is_ok());
        names.retain(|name| self.resources.get(name.as_str()).is_none_or(|state| !state.named));
        for name in names {
            self.add(&name.into(), &mut changes);
        }
        changes
    }

    /// Unsubscribes from the named resources that are not in this list.
    pub(super) fn remove_unlisted(&mut self, names: &[String]) -> Vec<InterestChange> {
        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        self.remove_others(|name| names.contains(name))
    }

    fn remove_others(&mut self, is_listed: impl Fn(&str) -> bool) -> Vec<InterestChange> {
        let others = self.resources.iter().filter(|(name, state)| state.named && !is_listed(name));
        let others: Vec<_> = others.map(|(name, _)| Arc::clone(name)).collect();
        let mut changes = Vec::new();
        for name in &others {
            self.remove(name, &mut changes);
        }
        changes
    }

    /// Changes the names of the delta protocol. `may_be_all`: no names in the first request mean all resources.
    pub(super) fn change_names(
        &mut self,
        mut subscribe: Vec<String>,
        mut unsubscribe: Vec<String>,
        initial: Vec<(String, Option<u64>)>,
        may_be_all: bool,
    ) -> Vec<InterestChange> {
        let is_first = !mem::replace(&mut self.has_named, true);
        if may_be_all {
            let names_none = subscribe.is_empty() && unsubscribe.is_empty();
            if take_wildcard(&mut unsubscribe) {
                self.set_wildcard(false);
            }
            if take_wildcard(&mut subscribe) || is_first && names_none {
                self.set_wildcard(true);
            }
        }
        let mut changes = Vec::new();
        for name in &unsubscribe {
            self.remove(name, &mut changes);
        }
        for name in subscribe {
            let name: Arc<str> = name.into();
            self.add(&name, &mut changes);
            // The client may have dropped a resource that it names again.
            self.send_again(&name);
            self.requested = true;
        }
        // Later ones would not be those of an earlier stream, and the names under a wildcard would pile up.
        if is_first {
            for (name, hash) in initial {
                self.has_from_earlier_stream(name, hash);
            }
        }
        changes
    }

    /// Records that the client has a resource from an earlier stream.
    fn has_from_earlier_stream(&mut self, name: String, hash: Option<u64>) {
        match self.resources.get_mut(name.as_str()) {
            Some(state) => state.sent = hash,
            None if self.wildcard => {
                let name: Arc<str> = name.into();
                self.resources.insert(Arc::clone(&name), ResourceState { sent: hash, ..ResourceState::default() });
                self.pending.insert(Arc::clone(&name));
                // Unless it is in the list.
                self.removed.insert(name);
            }
            None => {}
        }
    }

    fn add(&mut self, name: &Arc<str>, changes: &mut Vec<InterestChange>) {
        let state = self.resources.entry(Arc::clone(name)).or_default();
        if !mem::replace(&mut state.named, true) {
            self.named += units(name);
            self.removed.remove(name);
            self.requested = true;
            self.pending.insert(Arc::clone(name));
            changes.push(InterestChange::Add(Arc::clone(name)));
        }
    }

    fn remove(&mut self, name: &str, changes: &mut Vec<InterestChange>) {
        let Some((name, _)) = self.resources.get_key_value(name).filter(|(_, state)| state.named) else { return };
        let name = Arc::clone(name);
        self.named -= units(&name);
        self.resources.remove(&name);
        self.pending.remove(&name);
        changes.push(InterestChange::Remove(Arc::clone(&name)));
        if self.wildcard {
            // The client cannot know whether the resource is one of all. It is sent again, or reported as removed.
            self.removed.insert(name);
            self.must_list = true;
            self.requested = true;
        }
    }

    /// Marks a resource as pending, if the client subscribes to it.
    pub(super) fn mark(&mut self, name: &str) {
        if let Some((name, _)) = self.resources.get_key_value(name) {
            self.pending.insert(Arc::clone(name));
        }
    }

    /// Marks all resources as pending.
    pub(super) fn mark_all(&mut self) {
        self.pending.extend(self.resources.keys().cloned());
    }

    /// Makes a resource be sent again, even if its content is the same.
    pub(super) fn send_again(&mut self, name: &str) {
        if let Some(state) = self.resources.get_mut(name) {
            state.sent = None;
            self.mark(name);
        }
    }

    /// Returns whether a response may be due.
    pub(super) fn is_due(&self) -> bool {
        let has_changes =
            self.must_list || !self.pending.is_empty() || !self.removed.is_empty() || !self.unlisted.is_empty();
        self.requested || has_changes && self.unanswered_since.is_none()
    }

    /// Takes a response of the state-of-the-world protocol with all resources, if one has changed or was requested.
    pub(super) fn take_whole(&mut self, resource: impl Fn(&str) -> Option<EncodedResource>) -> Option<ResponseContent> {
        let has_removed = !mem::take(&mut self.removed).is_empty();
        let pending = mem::take(&mut self.pending);
        let has_changed = |name: &Arc<str>| {
            let sent = self.resources.get(name).and_then(|state| state.sent);
            resource(name).is_some_and(|resource| Some(resource.hash) != sent)
        };
        if !mem::take(&mut self.requested) && !has_removed && !pending.iter().any(has_changed) {
            return None;
        }
        let resources = self.resources.keys().filter_map(|name| Some((Arc::clone(name), resource(name)?))).collect();
        Some(ResponseContent { resources, removed: Vec::new() })
    }

    /// Takes a response with pending resources, as many as fit, if the client does not have them. `delays`: returns whether a changed resource
    /// must not be sent yet, and marks it as pending later.
    pub(super) fn take_pending(
        &mut self,
        resource: impl Fn(&str) -> Option<EncodedResource>,
        mut delays: impl FnMut(&Arc<str>, &EncodedResource) -> bool,
    ) -> Option<ResponseContent> {
        let mut resources = Vec::new();
        let mut bytes = 0;
        while bytes < MAX_RESPONSE_BYTES
            && let Some(name) = self.pending.pop_first()
        {
            let sent = self.resources.get(&name).and_then(|state| state.sent);
            match resource(&name) {
                Some(resource) if Some(resource.hash) == sent || sent.is_some() && delays(&name, &resource) => {}
                Some(resource) => {
                    bytes += name.len() + resource.any.len();
                    resources.push((name, resource));
                }
                None => {
                    self.removed.insert(name);
                }
            }
        }
        let removed: Vec<_> = mem::take(&mut self.removed).into_iter().collect();
        // The rest follows at once.
        let was_requested = mem::replace(&mut self.requested, !self.pending.is_empty());
        // A request of all resources is answered even if there are none, because Envoy waits for the answer.
        let must_answer = was_requested && self.wildcard && self.latest.is_none();
        let has_content = !resources.is_empty() || !removed.is_empty();
        (has_content || must_answer).then_some(ResponseContent { resources, removed })
    }

    /// Records a response. Returns the resources whose content is new to the client.
    pub(super) fn sent(&mut self, resources: &[(Arc<str>, EncodedResource)], response: SentResponse) -> Vec<Arc<str>> {
        self.latest = Some(response);
        self.unanswered_since.get_or_insert(response.at);
        let mut new = Vec::new();
        for (name, resource) in resources {
            if let Some(state) = self.resources.get_mut(name) {
                if state.sent.replace(resource.hash) != Some(resource.hash) {
                    new.push(Arc::clone(name));
                }
                state.nonce = response.nonce;
                if state.first_nonce == 0 {
                    state.first_nonce = response.nonce;
                }
                state.rejected = false;
            }
        }
        new
    }
}

/// Returns the number of resources that a name counts as.
fn units(name: &str) -> usize {
    1 + name.len() / NAME_UNIT_BYTES
}
