//! Decisions: the change that a command makes to the present state. Decisions are pure functions, so that every engine
//! decides alike.

mod check;

use std::sync::Arc;

use super::{
    command::{Command, CommandError, DeregisterGuard, InstanceDescription, Patch, Register},
    context::DecisionContext,
    event::{ClockReading, Entry, RemovalReason},
    holder::SessionEpoch,
    lease::{EndReason, Lease},
};
use crate::model::{
    CheckStatus, Conditions, Instance, InstanceChecks, InstanceId, LeaseId, LeaseTerms, Revision, ServiceName,
};
use check::{
    announce_report, decide_change, decide_reap, decide_refresh_node_status, decide_register_without_lease,
    merge_checks, remove_check, set_check_status,
};

/// Decision about a command.
#[derive(Debug)]
pub enum Decision {
    /// Nothing changes: the present state is the requested one.
    NoOp,
    /// This change is to be applied.
    Apply(ProposedChange),
}

/// Change without a revision.
#[derive(Debug)]
pub enum ProposedChange {
    /// Puts an entry in the place of the present one.
    Put {
        /// Instance. Its revisions are set by [`ProposedChange::at`].
        instance: Instance,
        /// Lease that keeps it registered.
        lease: Option<Arc<Lease>>,
        /// A new registration begins.
        is_new: bool,
        /// Terms that the lease is granted when the change is applied. `None`: the lease is new, or is not renewed.
        terms: Option<LeaseTerms>,
        /// Reason for which the lease of the present entry ends, if it is another one.
        end_reason: EndReason,
    },
    /// Removes the present entry.
    Remove {
        /// Reason, for readers.
        reason: RemovalReason,
        /// Reason, for the holder of the lease.
        end_reason: EndReason,
    },
}

/// Change with its revision: exactly the state that it leads to. An engine with a store writes it before it is applied.
#[derive(Debug)]
pub enum StampedChange {
    /// Puts an entry in the place of the present one.
    Put {
        /// Instance, with its revisions.
        instance: Instance,
        /// Lease that keeps it registered.
        lease: Option<Arc<Lease>>,
        /// Reason for which the lease of the present entry ends, if it is another one.
        end_reason: EndReason,
        /// Terms that the lease is granted. `None`: it keeps its terms.
        terms: Option<LeaseTerms>,
        /// Set if readers see a difference.
        visible: bool,
        /// Session that holds the entry.
        holder: SessionEpoch,
    },
    /// Removes the present entry.
    Remove {
        /// Reason, for readers.
        reason: RemovalReason,
        /// Reason, for the holder of the lease.
        end_reason: EndReason,
    },
}

impl ProposedChange {
    /// Gives the change a revision. `present`: the entry that it was decided on.
    #[must_use]
    pub fn at(self, revision: Revision, present: Option<&Arc<Entry>>) -> StampedChange {
        match self {
            Self::Put { mut instance, lease, is_new, terms, end_reason } => {
                let present = present.map(|present| &present.instance);
                let continued = present.filter(|_| !is_new);
                if is_new {
                    instance.registered_revision = revision;
                }
                instance.checks = instance.checks.stamped(continued.map(|present| &present.checks), revision);
                let diff = present.map(|present| present.diff(&instance));
                let same_description = continued.is_some() && diff.is_some_and(|diff| !diff.changes_description());
                if !same_description && let Some(registration) = &mut instance.consul_registration {
                    Arc::make_mut(registration).description_revision = revision;
                }
                let visible = diff.is_none_or(crate::model::InstanceDiff::is_visible);
                if visible {
                    instance.revision = revision;
                }
                StampedChange::Put { instance, lease, end_reason, terms, visible, holder: SessionEpoch::default() }
            }
            Self::Remove { reason, end_reason } => StampedChange::Remove { reason, end_reason },
        }
    }
}

impl Decision {
    /// Puts an instance in the place of an entry whose lease stays. Nothing changes if the instance is the same.
    fn replace_instance(entry: &Entry, instance: Instance) -> Self {
        if instance == entry.instance {
            return Self::NoOp;
        }
        let (lease, end_reason) = (entry.lease.clone(), EndReason::Superseded);
        Self::Apply(ProposedChange::Put { instance, lease, is_new: false, terms: None, end_reason })
    }

    /// Returns the lease that the entry keeps with this decision about a registration.
    pub(super) fn continued_lease<'a>(&self, entry: &'a Entry) -> Option<&'a Arc<Lease>> {
        match self {
            Self::NoOp | Self::Apply(ProposedChange::Put { terms: Some(_), .. }) => entry.lease.as_ref(),
            Self::Apply(ProposedChange::Put { terms: None, .. } | ProposedChange::Remove { .. }) => None,
        }
    }

    /// Replaces the lease of a continued registration by a new one: the old lease has just expired.
    pub(super) fn with_new_lease(self, entry: &Entry, lease: Arc<Lease>) -> Self {
        let instance = match self {
            Self::Apply(ProposedChange::Put { instance, .. }) => instance,
            Self::NoOp | Self::Apply(ProposedChange::Remove { .. }) => entry.instance.clone(),
        };
        let end_reason = EndReason::Expired;
        Self::Apply(ProposedChange::Put { instance, lease: Some(lease), is_new: false, terms: None, end_reason })
    }
}

/// Decides a command, given the entry under its service and id. Changes nothing, so that a rejected command has no effect:
/// [`super::WriteGuard::decide`] renews the lease of a registration that is accepted. `context`: the other state that the
/// command depends on.
///
/// # Errors
///
/// When the command cannot be carried out.
pub fn decide(
    present: Option<&Arc<Entry>>,
    command: Command,
    context: &DecisionContext,
    now: ClockReading,
) -> Result<Decision, CommandError> {
    match command {
        Command::RegisterWithoutLease(register) => decide_register_without_lease(present, *register, context, now),
        Command::SetCheckStatus { service, id, check, definition_revision, status } => {
            decide_change(present, service, id, |instance| {
                set_check_status(instance, check, definition_revision, status)
            })
        }
        Command::AnnounceReport { service, id, check, status } => {
            decide_change(present, service, id, |instance| announce_report(instance, check, status))
        }
        Command::AddCheck { service, id, check } => decide_change(present, service, id, |instance| {
            instance.checks = merge_checks(&instance.checks, &context.taken, vec![check], false)?;
            Ok(())
        }),
        Command::RemoveCheck { service, id, check, created } => {
            decide_change(present, service, id, |instance| remove_check(instance, check, created))
        }
        Command::Reap { check, definition_revision, .. } => Ok(decide_reap(present, &check, definition_revision)),
        Command::RefreshNodeStatus { .. } => Ok(decide_refresh_node_status(present, &context.node)),
        Command::Register(register) => decide_register(present, register, now),
        Command::Deregister { service, id, guard } => decide_deregister(present, service, id, &guard),
        Command::Update { service, id, lease, patch } => decide_update(present, service, id, lease, patch),
        Command::Expire(lease) => Ok(decide_expire(present, &lease)),
        Command::Suspect(lease) => Ok(decide_suspect(present, &lease, now)),
        Command::Recover(lease) => Ok(decide_recover(present, &lease)),
        Command::Claim { lease, from, .. } => Ok(decide_claim(present, lease, from)),
        Command::Release { .. } => Ok(decide_release(present, now)),
    }
}

fn decide_register(
    present: Option<&Arc<Entry>>,
    register: Register,
    now: ClockReading,
) -> Result<Decision, CommandError> {
    let Some(entry) = present else {
        return Ok(Decision::Apply(put(None, None, register, now)?));
    };
    match &entry.lease {
        Some(lease) if lease.boot == register.boot => {
            // If the lease has just expired, its removal is under way: the registration continues with a new lease.
            let continued = lease.is_alive().then_some(lease);
            let same_terms = continued.is_some_and(|lease| lease.terms() == register.terms);
            let change = put(Some(&entry.instance), continued, register, now)?;
            let same =
                same_terms && matches!(&change, ProposedChange::Put { instance, .. } if *instance == entry.instance);
            Ok(if same { Decision::NoOp } else { Decision::Apply(change) })
        }
        Some(lease) => match lease.can_be_taken_over(now.lease) {
            Err(retry) if !register.replace => {
                Err(CommandError::HeldByOther { service: register.service, id: register.id, retry })
            }
            Ok(()) | Err(_) => Ok(Decision::Apply(take_over(entry, register, now)?)),
        },
        None if !register.replace => Err(CommandError::HeldWithoutLease { service: register.service, id: register.id }),
        None => Ok(Decision::Apply(take_over(entry, register, now)?)),
    }
}

/// Returns the change for a registration of an unregistered instance, or one of the same boot. `lease`: the lease that
/// continues.
fn put(
    before: Option<&Instance>,
    lease: Option<&Arc<Lease>>,
    register: Register,
    now: ClockReading,
) -> Result<ProposedChange, CommandError> {
    let before_conditions = before.map(|instance| instance.conditions).unwrap_or_default();
    // Registering proves that the program is alive, so the instance is no longer suspect.
    let conditions = Conditions { starting: register.starting, suspect: false, ..before_conditions };
    let terms = lease.map(|_| register.terms);
    let lease = lease.cloned().unwrap_or_else(|| new_lease(&register, now));
    Ok(ProposedChange::Put {
        instance: instance(register, conditions, before, now)?,
        lease: Some(lease),
        is_new: before.is_none(),
        terms,
        end_reason: EndReason::Expired,
    })
}

/// Returns the change for a new registration under an id that is in use. A drain by an operator holds for the new one, too.
fn take_over(entry: &Arc<Entry>, register: Register, now: ClockReading) -> Result<ProposedChange, CommandError> {
    let conditions = Conditions {
        starting: register.starting,
        operator_draining: entry.instance.conditions.operator_draining,
        ..Conditions::default()
    };
    let lease = Some(new_lease(&register, now));
    let instance = instance(register, conditions, None, now)?;
    Ok(ProposedChange::Put { instance, lease, is_new: true, terms: None, end_reason: EndReason::Superseded })
}

fn new_lease(register: &Register, now: ClockReading) -> Arc<Lease> {
    let (service, id, boot) = (register.service.clone(), register.id.clone(), register.boot);
    Arc::new(Lease::new(register.lease, service, id, boot, register.terms, now.lease))
}

fn instance(
    register: Register,
    conditions: Conditions,
    before: Option<&Instance>,
    now: ClockReading,
) -> Result<Instance, CommandError> {
    let none = InstanceChecks::default();
    let checks = merge_checks(before.map_or(&none, |instance| &instance.checks), &[], register.checks, true)?;
    Ok(describe(register.service, register.id, register.description, (checks, conditions), before, now))
}

/// Builds an instance from its description. Fields that the description does not have are those of `before`.
fn describe(
    service: ServiceName,
    id: InstanceId,
    description: InstanceDescription,
    (checks, mut conditions): (InstanceChecks, Conditions),
    before: Option<&Instance>,
    now: ClockReading,
) -> Instance {
    let InstanceDescription { addresses, tags, metadata, weight, locality } = description;
    conditions.was_healthy |= are_healthy(&checks);
    Instance {
        service,
        id,
        addresses,
        tags,
        metadata,
        weight,
        locality,
        checks,
        conditions,
        consul_registration: None,
        registered_at: before.map_or(now.wall, |instance| instance.registered_at),
        registered_revision: before.map_or(Revision::default(), |instance| instance.registered_revision),
        revision: before.map_or(Revision::default(), |instance| instance.revision),
    }
}

/// Returns whether there are checks, and none of them is critical.
fn are_healthy(checks: &InstanceChecks) -> bool {
    !checks.is_empty() && checks.aggregate_status() < CheckStatus::Critical
}

fn decide_deregister(
    present: Option<&Arc<Entry>>,
    service: ServiceName,
    id: InstanceId,
    guard: &DeregisterGuard,
) -> Result<Decision, CommandError> {
    let end_reason = match (guard, present) {
        (DeregisterGuard::Any, Some(_)) => EndReason::Removed,
        (DeregisterGuard::Any, None) => return Err(CommandError::NoSuchInstance { service, id }),
        (DeregisterGuard::Holder { lease, boot }, Some(entry)) => {
            let holds = entry.lease.as_ref().is_some_and(|held| {
                lease.is_none_or(|lease| lease == held.id) && boot.as_ref().is_none_or(|boot| *boot == held.boot)
            });
            if !holds {
                return Ok(Decision::NoOp); // a late deregistration must not remove the next registration
            }
            EndReason::Deregistered
        }
        (DeregisterGuard::Consul, Some(entry)) if entry.instance.consul_registration.is_some() => EndReason::Removed,
        (DeregisterGuard::Holder { .. }, None) | (DeregisterGuard::Consul, _) => return Ok(Decision::NoOp),
    };
    Ok(Decision::Apply(ProposedChange::Remove { reason: RemovalReason::Deregistered, end_reason }))
}

fn decide_update(
    present: Option<&Arc<Entry>>,
    service: ServiceName,
    id: InstanceId,
    lease: Option<LeaseId>,
    patch: Patch,
) -> Result<Decision, CommandError> {
    let Some(entry) = present else {
        return Err(CommandError::NoSuchInstance { service, id });
    };
    if lease.is_some() && lease != entry.lease.as_ref().map(|held| held.id) {
        return Err(CommandError::LeaseLost { service, id });
    }
    let mut instance = entry.instance.clone();
    let Patch { weight, draining, starting, tags, metadata, reason } = patch;
    instance.weight = weight.unwrap_or(instance.weight);
    instance.tags = tags.unwrap_or(instance.tags);
    instance.metadata = metadata.unwrap_or(instance.metadata);
    instance.conditions.starting = starting.unwrap_or(instance.conditions.starting);
    match (draining, lease) {
        (Some(draining), Some(_)) => instance.conditions.self_draining = draining,
        // An operator overrules what the instance reported.
        (Some(draining), None) => {
            let conditions = instance.conditions;
            instance.conditions = Conditions { operator_draining: draining, self_draining: false, ..conditions };
        }
        (None, _) => {}
    }
    if lease.is_none()
        && draining.is_some()
        && let Some(registration) = &mut instance.consul_registration
    {
        let was_draining = entry.instance.conditions.operator_draining;
        // The first reason stays.
        if was_draining != instance.conditions.operator_draining {
            Arc::make_mut(registration).maintenance = reason.unwrap_or_default();
        }
    }
    Ok(Decision::replace_instance(entry, instance))
}

/// Removes the instance of a lease, unless the registration has been renewed under the same lease since it expired.
fn decide_expire(present: Option<&Arc<Entry>>, lease: &Lease) -> Decision {
    if held_by(present, lease).is_none_or(|(_, held)| held.is_alive()) {
        return Decision::NoOp;
    }
    Decision::Apply(ProposedChange::Remove { reason: RemovalReason::Expired, end_reason: EndReason::Expired })
}

/// Marks the instance of a lease as suspect, unless a heartbeat has arrived since the lease was found overdue.
fn decide_suspect(present: Option<&Arc<Entry>>, lease: &Lease, now: ClockReading) -> Decision {
    held_by(present, lease).map_or(Decision::NoOp, |(entry, held)| set_suspect(entry, held.is_overdue(now.lease)))
}

fn decide_recover(present: Option<&Arc<Entry>>, lease: &Lease) -> Decision {
    held_by(present, lease).map_or(Decision::NoOp, |(entry, _)| set_suspect(entry, false))
}

/// Puts the instance as it is, for the engine to set the holder. A heartbeat has arrived for the lease, so it is no longer suspect.
fn decide_claim(present: Option<&Arc<Entry>>, lease: Option<LeaseId>, from: SessionEpoch) -> Decision {
    let is_same = |entry: &&Arc<Entry>| entry.lease.as_ref().map(|held| held.id) == lease && entry.holder == from;
    let Some(entry) = present.filter(is_same) else { return Decision::NoOp };
    let mut instance = entry.instance.clone();
    instance.conditions.suspect = false;
    let (lease, end_reason) = (entry.lease.clone(), EndReason::Superseded);
    Decision::Apply(ProposedChange::Put { instance, lease, is_new: false, terms: None, end_reason })
}

/// Puts the instance as it is, for the engine to set the holder, unless the program that holds the lease is alive.
fn decide_release(present: Option<&Arc<Entry>>, now: ClockReading) -> Decision {
    let can_be_taken_over = |lease: &Arc<Lease>| lease.can_be_taken_over(now.lease).is_ok();
    let Some(entry) = present.filter(|entry| entry.lease.as_ref().is_some_and(can_be_taken_over)) else {
        return Decision::NoOp;
    };
    let (instance, lease, end_reason) = (entry.instance.clone(), entry.lease.clone(), EndReason::Superseded);
    Decision::Apply(ProposedChange::Put { instance, lease, is_new: false, terms: None, end_reason })
}

fn set_suspect(entry: &Entry, suspect: bool) -> Decision {
    if entry.instance.conditions.suspect == suspect {
        return Decision::NoOp;
    }
    let mut instance = entry.instance.clone();
    instance.conditions.suspect = suspect;
    Decision::replace_instance(entry, instance)
}

/// Returns the entry and its lease, if that is the given one. Leases are compared by id, because a registry that was loaded from
/// a store has other objects for the same leases.
fn held_by<'a>(present: Option<&'a Arc<Entry>>, lease: &Lease) -> Option<(&'a Arc<Entry>, &'a Lease)> {
    let entry = present?;
    entry.lease.as_deref().filter(|held| held.id == lease.id).map(|held| (entry, held))
}

#[cfg(test)]
#[path = "decide/tests.rs"]
mod tests;
