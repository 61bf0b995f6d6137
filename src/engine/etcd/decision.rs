//! Decisions about requests: the changes that they make to keys, given the map of this replica.

use std::{slice, sync::Arc, time::Duration};

use super::{
    batch_note::NotedCommand,
    instance_value::{InstanceValue, SessionHolder},
    keys::RegistryKey,
    policy_value::PolicyValue,
    position::CommitSlot,
    stored_keys::StoredKeys,
};
use crate::{
    engine::{EngineError, record::StoredLease, write_request::WriteRequest},
    model::{Caller, Revision, ServiceName},
    registry::{
        ClockReading, Command, Decision, EndReason, Entry, PolicyChange, PolicyCommand, PolicyDecision, PolicyOutcome,
        ProposedChange, Registry, StampedChange,
    },
};

/// Maximum number of commands that are executed together. Of more, each part is executed as a whole.
const MAX_TOGETHER: usize = 120;
/// Time after which a caller should try again.
pub const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Revision in a record that is being written: the revision that its batch will have.
const THIS_REVISION: Revision = Revision(0);

/// Change of one key.
#[derive(Debug)]
pub struct KeyChange {
    /// Key.
    pub key: RegistryKey,
    /// Revision of etcd at which the key was last changed; 0 if it does not exist.
    pub guard: u64,
    /// New value. `None` removes the key.
    pub value: Option<Vec<u8>>,
    /// Description of the change for all replicas.
    pub note: NotedCommand,
}

/// Effect of one command.
#[derive(Debug)]
pub enum CommandEffect {
    /// This key changes.
    Changes(RegistryKey),
    /// The command changes nothing. This is the present entry.
    NoOp(Option<Arc<Entry>>),
}

/// Decision about a request.
#[derive(Debug, Default)]
pub struct RequestDecision {
    /// Effect of each command, in their order.
    pub commands: Vec<CommandEffect>,
    /// Keys that the decision depends on and that do not change, with their guards.
    pub compares: Vec<(RegistryKey, u64)>,
    /// Changes of keys.
    pub changes: Vec<KeyChange>,
    /// Revision of etcd at which a policy was last changed, if the decision depends on all policies.
    pub newest_policy: Option<u64>,
    /// Service whose budget of self-preservation an expiration uses.
    pub expiring: Option<ServiceName>,
    /// Outcome of a policy that does not change.
    pub unchanged_policy: Option<PolicyOutcome>,
}

impl RequestDecision {
    /// Size of the new values in bytes.
    pub fn size(&self) -> usize {
        self.changes.iter().filter_map(|change| change.value.as_ref()).map(Vec::len).sum()
    }
}

/// State that requests are decided against, and the next slot of their batch.
#[derive(Debug)]
pub struct Decider<'a> {
    registry: &'a Registry,
    stored: &'a StoredKeys,
    /// This replica, as the holder of what it registers or claims.
    replica: SessionHolder,
    now: ClockReading,
    /// `None` once all slots are used.
    slot: Option<CommitSlot>,
}

impl<'a> Decider<'a> {
    /// Begins the decisions of a batch.
    pub fn new(registry: &'a Registry, stored: &'a StoredKeys, replica: SessionHolder, now: ClockReading) -> Self {
        Self { registry, stored, replica, now, slot: Some(CommitSlot::FIRST) }
    }

    /// Time of the decisions, since the start of the process.
    pub fn now(&self) -> Duration {
        Duration::from_micros(self.now.monotonic_us)
    }

    /// Decides a request.
    ///
    /// # Errors
    ///
    /// When a command is rejected: then nothing of the request is done.
    pub fn decide(&mut self, request: &WriteRequest) -> Result<RequestDecision, EngineError> {
        let mut decision = RequestDecision::default();
        match request {
            WriteRequest::One(command, caller, _) => {
                self.decide_commands(slice::from_ref(command), caller, &mut decision)?;
            }
            WriteRequest::Together(commands, caller, _) => {
                let part = &commands[..commands.len().min(MAX_TOGETHER)];
                self.decide_commands(part, caller, &mut decision)?;
            }
            WriteRequest::Policy(command, caller, _) => self.decide_policy(command, caller, &mut decision)?,
        }
        Ok(decision)
    }

    fn decide_commands(
        &mut self,
        commands: &[Command],
        caller: &Arc<Caller>,
        decided: &mut RequestDecision,
    ) -> Result<(), EngineError> {
        for command in commands {
            let registers = matches!(command, Command::Register(_) | Command::RegisterWithoutLease(_));
            let claims = registers || matches!(command, Command::Claim { .. });
            let (service, id) = command.target();
            let key = RegistryKey::Instance(service.clone(), id.clone());
            let (decision, present) = self.registry.order().decide(command.clone(), self.now)?;
            // A registration that changes nothing proves that its program reaches this replica.
            let is_held = present.as_ref().is_none_or(|present| self.registry.holds(present));
            let proposed = match (decision, &present) {
                (Decision::Apply(proposed), _) if self.may_apply(command, present.as_deref()) => proposed,
                (Decision::NoOp, Some(present)) if registers && !is_held => ProposedChange::Put {
                    instance: present.instance.clone(),
                    lease: present.lease.clone(),
                    is_new: false,
                    terms: None,
                    end_reason: EndReason::Superseded,
                },
                (Decision::NoOp | Decision::Apply(_), _) => {
                    decided.commands.push(CommandEffect::NoOp(present));
                    continue;
                }
            };
            if let (Command::Expire(lease), Some(present)) = (command, &present) {
                if self.registry.is_outdated_expiration(lease) {
                    self.registry.order().judge_again(present, self.now);
                    decided.commands.push(CommandEffect::NoOp(Some(Arc::clone(present))));
                    continue;
                }
                if lease.counts_as_expiration() {
                    let counted = RegistryKey::Expirations(service.clone());
                    decided.compares.push((counted, self.stored.expirations_guard(service)));
                    decided.expiring = Some(service.clone());
                }
            }
            let guard = self.stored.guard(&key, present.as_deref());
            let slot = self.next_slot()?;
            let change = proposed.at(THIS_REVISION, present.as_ref());
            let holder = match (command, &present) {
                (Command::Release { to, .. }, _) => self.stored.session_holder(*to),
                (_, Some(present)) if !claims => self.stored.session_holder(present.holder),
                (_, Some(_) | None) => self.replica.clone(),
            };
            let change = self.key_change(change, (key.clone(), guard), &holder, slot, caller);
            decided.commands.push(CommandEffect::Changes(key));
            decided.changes.push(change);
        }
        Ok(())
    }

    fn key_change(
        &self,
        change: StampedChange,
        (key, guard): (RegistryKey, u64),
        holder: &SessionHolder,
        slot: CommitSlot,
        caller: &Arc<Caller>,
    ) -> KeyChange {
        let caller = Some(Arc::clone(caller));
        let note = |removal, lease_end| NotedCommand { slot, key: key.clone(), removal, lease_end, caller };
        let (value, note) = match change {
            StampedChange::Put { instance, lease, terms, end_reason, .. } => {
                let lease = lease.as_deref().map(|lease| StoredLease::of(lease).with_terms(terms));
                let unknown = self.stored.unknown_fields(&key);
                let value = InstanceValue::encode(&instance, lease, holder, slot, &unknown);
                (Some(value), note(None, Some(end_reason)))
            }
            StampedChange::Remove { reason, end_reason } => (None, note(Some(reason), Some(end_reason))),
        };
        KeyChange { key, guard, value, note }
    }

    fn decide_policy(
        &mut self,
        command: &PolicyCommand,
        caller: &Arc<Caller>,
        decided: &mut RequestDecision,
    ) -> Result<(), EngineError> {
        match self.registry.order().decide_policy(command.clone())? {
            PolicyDecision::NoOp(unchanged) => {
                decided.unchanged_policy = Some(unchanged);
                Ok(())
            }
            PolicyDecision::Apply(proposed) => {
                let change = proposed.at(THIS_REVISION, self.now.wall, Arc::clone(caller));
                self.change_policy(&change, caller, decided)
            }
        }
    }

    fn change_policy(
        &mut self,
        change: &PolicyChange,
        caller: &Arc<Caller>,
        decided: &mut RequestDecision,
    ) -> Result<(), EngineError> {
        let stored = self.stored;
        let forgotten = if change.forgotten.is_empty() { stored.forgotten_policies() } else { Some(THIS_REVISION) };
        // The next change forgets what is more than a transaction can remove.
        let removed = change.forgotten.iter().take(MAX_TOGETHER).map(|scope| (scope, None));
        for (scope, revisions) in [(&change.scope, Some(&change.revisions))].into_iter().chain(removed) {
            let slot = self.next_slot()?;
            let key = RegistryKey::Policy(scope.clone());
            let value = revisions
                .map(|revisions| PolicyValue::encode(revisions, forgotten, slot, &stored.unknown_fields(&key)));
            let caller = Some(Arc::clone(caller));
            let note = NotedCommand { slot, key: key.clone(), removal: None, lease_end: None, caller };
            let guard = stored.guard(&key, None);
            decided.changes.push(KeyChange { key, guard, value, note });
        }
        // A policy is decided against the defaults, and against those that fall back to its service.
        decided.newest_policy = Some(stored.newest_policy());
        Ok(())
    }

    /// Takes the next slot. A batch has fewer commands than slots.
    fn next_slot(&mut self) -> Result<CommitSlot, EngineError> {
        let slot = self.slot.ok_or_else(|| {
            let reason = "a batch has no room for another change".to_owned();
            EngineError::Unavailable { reason, retry: RETRY_DELAY }
        })?;
        self.slot = slot.next();
        Ok(slot)
    }

    /// Returns whether this replica may carry out a decision. Only a lease that expires here may be removed or marked as suspect, and only
    /// the holder of an instance may release it.
    fn may_apply(&self, command: &Command, present: Option<&Entry>) -> bool {
        let lease = present.and_then(|present| present.lease.as_ref());
        match command {
            Command::Expire(_) | Command::Suspect(_) | Command::Recover(_) => {
                lease.is_some_and(|lease| lease.expires_here())
            }
            Command::Release { to, .. } => {
                present.is_some_and(|present| self.registry.holds(present)) && self.stored.sessions.is_live(*to)
            }
            Command::Register(_)
            | Command::RegisterWithoutLease(_)
            | Command::Deregister { .. }
            | Command::Update { .. }
            | Command::Claim { .. }
            | Command::SetCheckStatus { .. }
            | Command::AnnounceReport { .. }
            | Command::AddCheck { .. }
            | Command::RemoveCheck { .. }
            | Command::Reap { .. }
            | Command::RefreshNodeStatus { .. } => true,
        }
    }
}
