//! The task behind a channel: follows the instances, connects to them, and publishes the connections that calls can use.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::Arc,
};

use hyper::client::conn::http2::SendRequest;
use tokio::{
    sync::{
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        watch,
    },
    task::AbortHandle,
    time::Instant,
};
use tonic::body::Body;

use super::{
    call_table::{CallTable, ChannelAvailability, UsableConnection},
    connection::{ConnectionEvent, ConnectionEventKind, ConnectionTarget, Dialer},
    selection::{InstanceSelection, endpoint, is_callable},
    settings::ChannelSettings,
    status::{ChannelInstance, ChannelStatus, ConnectionState},
};
use crate::{
    client::{
        WatchEvent,
        balance::{BalancingMethod, LocalCapacity, PickCandidate, Picker, Proximity, RandomSequence},
        instance_set::InstanceSet,
    },
    pb::callboard::v1::{ClientPolicy, Instance, InstanceStatus, LoadBalancing},
};

/// Event of the registry.
#[derive(Debug)]
pub(super) enum RegistryEvent {
    Watch(WatchEvent),
    /// The registry rejected the watch.
    Rejected(String),
}

/// Task that owns the connections of a channel. It ends when the channel is dropped.
pub(super) struct ChannelTask {
    pub(super) settings: ChannelSettings,
    pub(super) registry: mpsc::Receiver<RegistryEvent>,
    pub(super) table: watch::Sender<Arc<CallTable>>,
    pub(super) random: Arc<RandomSequence>,
    pub(super) epoch: Instant,
    set: InstanceSet,
    registry_error: Option<String>,
    members: HashMap<String, ChannelMember>,
    dialer: Arc<Dialer>,
    connections: UnboundedReceiver<ConnectionEvent>,
    connection_events: UnboundedSender<ConnectionEvent>,
    selection: InstanceSelection,
    opened_connections: u64,
}

/// Instance that the channel connects to.
struct ChannelMember {
    target: Arc<ConnectionTarget>,
    state: ChannelMemberState,
    keeper: AbortHandle,
}

enum ChannelMemberState {
    Connecting,
    Connected {
        number: u64,
        sender: SendRequest<Body>,
        /// True while the connection may end as early as the one before. It is used only if there are no others.
        is_unstable: bool,
    },
    Failing(String),
}

impl Drop for ChannelMember {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl ChannelTask {
    pub(super) fn new(
        settings: ChannelSettings,
        registry: mpsc::Receiver<RegistryEvent>,
        table: watch::Sender<Arc<CallTable>>,
        random: Arc<RandomSequence>,
        epoch: Instant,
    ) -> Self {
        let (connection_events, connections) = mpsc::unbounded_channel();
        let dialer = Arc::new(Dialer::new(
            settings.keep_alive,
            #[cfg(feature = "tls")]
            settings.tls.clone(),
        ));
        let selection = InstanceSelection::new(settings.max_connections, random.next());
        Self {
            settings,
            registry,
            table,
            random,
            epoch,
            set: InstanceSet::default(),
            registry_error: None,
            members: HashMap::new(),
            dialer,
            connections,
            connection_events,
            selection,
            opened_connections: 0,
        }
    }

    /// Runs until the channel is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let mut changed = tokio::select! {
                () = self.table.closed() => return,
                event = self.registry.recv() => match event {
                    Some(event) => self.registry_changed(event),
                    None => return,
                },
                Some(event) = self.connections.recv() => self.connection_changed(event),
            };
            // All events that have arrived are one change.
            while let Ok(event) = self.registry.try_recv() {
                changed |= self.registry_changed(event);
            }
            while let Ok(event) = self.connections.try_recv() {
                changed |= self.connection_changed(event);
            }
            if changed {
                self.connect();
                self.table.send_replace(Arc::new(self.table()));
            }
        }
    }

    fn registry_changed(&mut self, event: RegistryEvent) -> bool {
        match event {
            RegistryEvent::Rejected(error) => self.registry_error = Some(error),
            RegistryEvent::Watch(WatchEvent::Disconnected { error, .. }) => {
                self.registry_error = Some(error.to_string());
            }
            RegistryEvent::Watch(WatchEvent::Reconnected { .. }) => self.registry_error = None,
            RegistryEvent::Watch(event) => {
                let recovered = self.registry_error.take().is_some();
                return self.set.apply(event) || recovered;
            }
        }
        true
    }

    fn connection_changed(&mut self, event: ConnectionEvent) -> bool {
        let ConnectionEvent { target, kind } = event;
        let member = self.members.values_mut().find(|member| Arc::ptr_eq(&member.target, &target));
        let Some(member) = member else {
            return false;
        };
        member.state = match kind {
            ConnectionEventKind::Connected { sender, is_unstable } => {
                self.opened_connections += 1;
                ChannelMemberState::Connected { number: self.opened_connections, sender, is_unstable }
            }
            ConnectionEventKind::Stable => {
                if let ChannelMemberState::Connected { is_unstable, .. } = &mut member.state {
                    *is_unstable = false;
                }
                return true;
            }
            ConnectionEventKind::Lost => ChannelMemberState::Connecting,
            ConnectionEventKind::Failed(error) => ChannelMemberState::Failing(error),
        };
        true
    }

    /// Opens the connections that are missing, and closes those to instances that are not to be called.
    fn connect(&mut self) {
        let locality = self.preferred_zone().then_some(&self.settings.locality);
        let name = self.settings.address_name.as_deref();
        let callable = self.set.instances();
        let callable = callable.filter(|instance| is_callable(instance) && endpoint(instance, name).is_some());
        let failing = |instance: &Instance| self.members.get(&instance.id).is_some_and(ChannelMember::is_failing);
        let selected = self.selection.select(callable, locality, failing);
        let selected: HashMap<_, _> = selected
            .into_iter()
            .filter_map(|instance| Some((instance.id.clone(), endpoint(instance, name)?)))
            .collect();
        self.members.retain(|id, member| {
            selected.get(id).is_some_and(|(host, port, _)| *host == member.target.host && *port == member.target.port)
        });
        for (id, (host, port, authority)) in selected {
            if let Entry::Vacant(entry) = self.members.entry(id) {
                let target = Arc::new(ConnectionTarget { host, port, authority, stats: Arc::default() });
                let keeping = Arc::clone(&self.dialer);
                let keeping = keeping.keep_connected(Arc::clone(&target), self.connection_events.clone());
                let keeper = tokio::spawn(keeping).abort_handle();
                entry.insert(ChannelMember { target, state: ChannelMemberState::Connecting, keeper });
            }
        }
    }

    /// Returns whether the channel prefers instances in its zone.
    fn preferred_zone(&self) -> bool {
        let of_policy = self.set.policy().is_some_and(|policy| policy.prefer_zone);
        self.settings.prefer_zone.unwrap_or(of_policy) && !self.settings.locality.zone.is_empty()
    }

    fn method(&self) -> BalancingMethod {
        let of_policy = || match self.set.policy().map(ClientPolicy::lb) {
            Some(LoadBalancing::LeastRequest) => BalancingMethod::LeastRequest,
            // The weights of the registry stand for those that clients of xDS compute, and for keys, which a channel does
            // not know.
            Some(
                LoadBalancing::RoundRobin
                | LoadBalancing::Weighted
                | LoadBalancing::RingHash
                | LoadBalancing::Unspecified,
            )
            | None => BalancingMethod::WeightedRoundRobin,
        };
        self.settings.method.unwrap_or_else(of_policy)
    }

    /// Returns the table of the present connections.
    fn table(&self) -> CallTable {
        let (prefers_zone, name) = (self.preferred_zone(), self.settings.address_name.as_deref());
        let now = crate::client::now() - self.epoch;
        let (mut connections, mut candidates, mut instances) = (Vec::new(), Vec::new(), Vec::new());
        let mut zone = LocalCapacity::default();
        let has_stable = self.members.values().any(ChannelMember::is_stable);
        for instance in self.set.instances() {
            let weight = self.set.weight(instance);
            let proximity = Proximity::between(&self.settings.locality, instance.locality.as_ref());
            let member = self.members.get(&instance.id);
            if proximity == Proximity::Zone {
                zone.registered += weight;
                let fails = member.is_some_and(ChannelMember::is_failing);
                if is_callable(instance) && endpoint(instance, name).is_some() && !fails {
                    zone.callable += weight;
                    zone.callable_count += 1;
                }
            }
            if let Some(connection) = member.and_then(|member| member.usable_connection(has_stable)) {
                candidates.push(PickCandidate { weight, stats: Arc::clone(&connection.target.stats), proximity });
                connections.push(connection);
            }
            instances.push(ChannelInstance {
                instance: Arc::clone(instance),
                weight,
                connection: member.map_or(ConnectionState::Unused, ChannelMember::connection),
                target: member.map(|member| Arc::clone(&member.target)),
                now,
            });
        }
        let method = self.method();
        let picker = Picker::new(method, &candidates, prefers_zone.then_some(zone), &self.random);
        let policy = self.set.policy();
        let policy_timeout = policy.and_then(|policy| policy.timeout).and_then(|timeout| timeout.try_into().ok());
        let timeout = self.settings.timeout.or(policy_timeout);
        let status = ChannelStatus {
            revision: self.set.revision(),
            registry_error: self.registry_error.clone(),
            policy_revision: policy.map_or(0, |policy| policy.revision),
            method: Some(method),
            timeout,
            local_share: prefers_zone.then(|| picker.local_share()),
        };
        CallTable { picker, connections, availability: self.availability(), timeout, status, instances }
    }

    fn availability(&self) -> ChannelAvailability {
        if self.set.revision().is_none() {
            return ChannelAvailability::Unknown(self.registry_error.clone());
        }
        let failing = self.members.values().filter_map(|member| match &member.state {
            ChannelMemberState::Failing(error) => Some((member, error)),
            ChannelMemberState::Connecting | ChannelMemberState::Connected { .. } => None,
        });
        let failing: Vec<_> = failing.collect();
        if failing.len() < self.members.len() {
            return ChannelAvailability::Available;
        }
        ChannelAvailability::Unavailable(match failing.first() {
            Some((member, error)) => {
                let count = failing.len();
                format!("no connection to any of {count} instances; {}: {error}", member.target.authority)
            }
            None => self.describe_empty_set(),
        })
    }

    /// Returns the reason for which no instance is called: the number of instances with each status.
    fn describe_empty_set(&self) -> String {
        let mut counts = BTreeMap::new();
        for instance in self.set.instances() {
            *counts.entry(instance.status().as_str_name()).or_insert(0_u32) += 1;
        }
        if counts.is_empty() {
            return "no instance is registered".to_owned();
        }
        if let Some(name) = self.settings.address_name.as_deref()
            && self.set.instances().all(|instance| endpoint(instance, Some(name)).is_none())
        {
            return format!("no instance has an address with the name \"{name}\"");
        }
        let prefix = InstanceStatus::Unspecified.as_str_name().trim_end_matches("UNSPECIFIED");
        let counts = counts.iter().map(|(status, count)| format!("{count} {}", status.trim_start_matches(prefix)));
        format!("no instance can be called: {}", counts.collect::<Vec<_>>().join(", "))
    }
}

impl ChannelMember {
    fn is_stable(&self) -> bool {
        matches!(self.state, ChannelMemberState::Connected { is_unstable: false, .. })
    }

    /// Returns whether other instances are to be called instead: it cannot be reached, or its connections come and go.
    fn is_failing(&self) -> bool {
        matches!(self.state, ChannelMemberState::Failing(_) | ChannelMemberState::Connected { is_unstable: true, .. })
    }

    /// Returns the connection, if calls can use it. One that may end at once is not used if the channel has a stable one.
    fn usable_connection(&self, has_stable: bool) -> Option<UsableConnection> {
        match &self.state {
            ChannelMemberState::Connected { number, sender, is_unstable } if !is_unstable || !has_stable => {
                let (target, sender) = (Arc::clone(&self.target), sender.clone());
                Some(UsableConnection { number: *number, target, sender })
            }
            ChannelMemberState::Connected { .. } | ChannelMemberState::Connecting | ChannelMemberState::Failing(_) => {
                None
            }
        }
    }

    fn connection(&self) -> ConnectionState {
        match &self.state {
            ChannelMemberState::Connecting => ConnectionState::Connecting,
            ChannelMemberState::Connected { .. } => ConnectionState::Connected,
            ChannelMemberState::Failing(error) => ConnectionState::Failing(error.clone()),
        }
    }
}
