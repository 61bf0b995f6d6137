//! Balancing messages of a watch: the effective weights and the policies of its services.
//!
//! The message of a service is encoded once for all watches. A watch knows for each service which weights and which policy it has
//! sent, and compares them with the present ones when it is woken for the service. It also sends a message after changes of instances
//! that have effective weights, which are absolute numbers.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    hash::{DefaultHasher, Hash, Hasher},
};

use bytes::Bytes;
use prost::Message;

use super::frame::{self, MessageChunks};
use crate::{
    app::{ServerContext, View, ViewKey, ViewValue, ViewVersion},
    model::{Instance, Revision, Selector, ServiceName},
    pb::callboard::v1 as pb,
    protocol::grpc::encode,
    registry::Delta,
    transport::ChangedServices,
};

/// Approximate maximum size of a message, in bytes.
const MAX_BALANCING_BYTES: usize = 256 * 1024;

/// State of the Balancing messages of a watch.
#[derive(Debug, Default)]
pub(super) struct BalancingState {
    /// Versions that were last sent, as far as they differ from those of a service without policy and weights.
    sent: BTreeMap<ServiceName, BalancingVersion>,
    /// Services whose messages are to be sent.
    pending: BTreeSet<ServiceName>,
    /// Rest of the messages of the present service.
    rest: VecDeque<Bytes>,
    /// Set once the client has the instances that the messages are about.
    is_synced: bool,
    /// Set if the watch names its services. Otherwise it gets no messages for services without instances.
    names_services: bool,
}

/// Version of the content of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct BalancingVersion {
    /// 0: as configured.
    weights: u64,
    policy: Revision,
}

impl BalancingVersion {
    fn of(context: &ServerContext, service: &ServiceName) -> Self {
        let weights = context.weights.of(service).map_or(0, |weights| weights.version());
        Self { weights, policy: context.engine.registry().policies().effective(service).revision }
    }
}

impl BalancingState {
    /// Records that the client starts over: messages follow after the next [`Self::synced`].
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Records that the client has all instances.
    pub(super) fn synced(&mut self, context: &ServerContext, selector: &Selector) {
        *self = Self { is_synced: true, names_services: matches!(selector, Selector::Names(_)), ..Self::default() };
        match selector {
            Selector::Names(names) => self.pending.extend(names.iter().cloned()),
            Selector::Prefix(_) | Selector::Everything => self.check_all(context, selector),
        }
    }

    /// Checks the services that the watch was woken for.
    pub(super) fn changed(&mut self, context: &ServerContext, selector: &Selector, changes: &ChangedServices) {
        match changes {
            ChangedServices::All => self.check_all(context, selector),
            ChangedServices::Named(names) => {
                names.iter().filter(|name| selector.includes(name)).for_each(|name| self.check(context, name));
            }
        }
    }

    /// Checks all services of the watch.
    pub(super) fn check_all(&mut self, context: &ServerContext, selector: &Selector) {
        if !self.is_synced {
            return;
        }
        match selector {
            Selector::Names(names) => names.iter().for_each(|name| self.check(context, name)),
            Selector::Prefix(_) | Selector::Everything => {
                // Services that have lost their instances are no longer in the registry.
                let sent: Vec<_> = self.sent.keys().cloned().collect();
                for name in &sent {
                    self.check(context, name);
                }
                let services = context.engine.registry().each_service().map(|summary| summary.name);
                services.filter(|name| selector.includes(name)).for_each(|name| self.check(context, &name));
            }
        }
    }

    fn check(&mut self, context: &ServerContext, service: &ServiceName) {
        if !self.is_synced {
            return;
        }
        let present = if self.omits(context, service) {
            BalancingVersion::default()
        } else {
            BalancingVersion::of(context, service)
        };
        if self.sent.get(service).copied().unwrap_or_default() != present {
            self.pending.insert(service.clone());
        }
    }

    /// Returns whether a service has no message. A service that has lost its instances is forgotten, by the client as well, so
    /// that names that come and go take no memory.
    fn omits(&self, context: &ServerContext, service: &ServiceName) -> bool {
        !self.names_services && context.engine.registry().view_revision(service).is_none()
    }

    /// Records changes of instances that the client is sent.
    pub(super) fn instances_changed(&mut self, context: &ServerContext, deltas: &[Delta]) {
        for delta in deltas {
            let service = delta.event.service();
            let Some(after) = delta.event.after() else { continue };
            let before = delta.event.before();
            if before.is_none_or(|before| weighs_otherwise(&before.instance, &after.instance))
                && context.weights.of(service).is_some()
            {
                self.pending.insert(service.clone());
            }
        }
    }

    /// Returns the next message, if there is one.
    pub(super) fn next(&mut self, context: &ServerContext) -> Option<MessageChunks> {
        if let Some(message) = self.rest.pop_front() {
            return Some(vec![message]);
        }
        if !self.is_synced {
            return None;
        }
        let service = self.pending.pop_first()?;
        if self.omits(context, &service) {
            self.sent.remove(&service);
            let forgotten = pb::Balancing { service: service.to_string(), ..pb::Balancing::default() };
            return Some(vec![frame::balancing(forgotten)]);
        }
        let (version, messages) = messages(context, &service);
        if version == BalancingVersion::default() {
            self.sent.remove(&service);
        } else {
            self.sent.insert(service, version);
        }
        self.rest = messages.into();
        self.rest.pop_front().map(|message| vec![message])
    }
}

/// Returns whether two states of an instance can have different effective weights under the same weights of the service.
fn weighs_otherwise(before: &Instance, after: &Instance) -> bool {
    before.effective_weight() != after.effective_weight()
        || before.registered_revision != after.registered_revision
        || before.status().is_routable() != after.status().is_routable()
}

/// Encoded messages of a service.
#[derive(Debug)]
struct EncodedBalancing(Vec<Bytes>);

impl ViewValue for EncodedBalancing {
    fn bytes(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }
}

/// Returns the present messages of a service, encoded at most once for all watches, and their version.
fn messages(context: &ServerContext, service: &ServiceName) -> (BalancingVersion, Vec<Bytes>) {
    let registry = context.engine.registry();
    // Read before the instances, which may be newer.
    let revision = registry.view_revision(service).unwrap_or_default();
    let present = BalancingVersion::of(context, service);
    let mut inputs = DefaultHasher::new();
    present.hash(&mut inputs);
    let current = ViewVersion { inputs: inputs.finish(), ..ViewVersion::at(revision) };
    let make = || {
        let weights = context.weights.of(service);
        let chunks = registry.chunks(service);
        let entries = chunks.iter().flat_map(|chunk| chunk.entries()).map(|entry| &entry.instance);
        let effective = entries.filter(|instance| instance.status().is_routable()).filter_map(|instance| {
            let weight = encode::effective_weight(weights.as_deref(), instance)?;
            Some(pb::EffectiveWeight { id: instance.id.to_string(), weight })
        });
        let policy = encode::client_policy(&registry.policies().effective(service));
        Ok::<_, Infallible>((encode_messages(service, policy, effective), current))
    };
    let key = ViewKey::new(View::WatchBalancing, service.as_str(), "");
    let Ok((encoded, _)) = context.views.get(key, |version| *version == current, make);
    (present, encoded.0.clone())
}

fn encode_messages(
    service: &ServiceName,
    policy: pb::ClientPolicy,
    weights: impl Iterator<Item = pb::EffectiveWeight>,
) -> EncodedBalancing {
    let empty = pb::Balancing { service: service.to_string(), policy: Some(policy), ..pb::Balancing::default() };
    let (mut messages, mut present, mut bytes) = (Vec::new(), empty.clone(), 0);
    for weight in weights {
        if bytes >= MAX_BALANCING_BYTES {
            present.more = true;
            messages.push(frame::balancing(std::mem::replace(&mut present, empty.clone())));
            bytes = 0;
        }
        bytes += weight.encoded_len();
        present.weights.push(weight);
    }
    messages.push(frame::balancing(present));
    EncodedBalancing(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_a_large_service_are_divided_into_messages() {
        let service = ServiceName::parse("web").unwrap();
        let weights = (0..20_000).map(|n| pb::EffectiveWeight { id: format!("instance-{n:0100}"), weight: 0.5 });
        let EncodedBalancing(messages) = encode_messages(&service, pb::ClientPolicy::default(), weights);
        assert!(messages.len() > 5);
        assert!(messages.iter().all(|message| message.len() < MAX_BALANCING_BYTES + 4 * 1024 + 200 * 200));
        let decoded: Vec<_> = messages.iter().map(frame::decode_balancing).collect();
        let (last, others) = decoded.split_last().unwrap();
        assert!(!last.more && others.iter().all(|message| message.more));
        assert_eq!(decoded.iter().map(|message| message.weights.len()).sum::<usize>(), 20_000);
    }
}
