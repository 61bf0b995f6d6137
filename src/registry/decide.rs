//! What a command means for what is there: pure, so that every engine decides alike.

mod check;

use std::sync::Arc;

use super::{
    command::{Command, CommandError, DeregisterGuard, InstanceDescription, Patch, Register},
    context::DecisionContext,
    event::{ClockReading, Entry, RemovalReason},
    lease::{EndReason, Lease},
};
use crate::model::{
    CheckStatus, Conditions, Instance, InstanceChecks, InstanceId, LeaseId, LeaseTerms, Revision, ServiceName,
};
pub(super) use check::on_node;
use check::{change, decide_enroll, decide_reap, decide_restate, judge, merged, remove_check};

/// What to do.
#[derive(Debug)]
pub enum Decision {
    /// Nothing: what is there is what was asked for.
    NoOp,
    /// Apply the draft.
    Apply(ProposedChange),
}

/// An event that has no revision yet.
#[derive(Debug)]
pub enum ProposedChange {
    /// Put an entry in the place of what is there.
    Put {
        /// The instance. Its revisions are set when it is applied.
        instance: Instance,
        /// What keeps it registered.
        lease: Option<Arc<Lease>>,
        /// It begins a new life.
        is_new: bool,
        /// Terms that a lease which goes on is granted when the draft is applied. `None`: a new lease, or no sign of life.
        terms: Option<LeaseTerms>,
        /// How the lease of the entry before ends, when it is another one.
        ending: EndReason,
    },
    /// Remove what is there.
    Remove {
        /// Why, for readers.
        reason: RemovalReason,
        /// How, for the lease.
        ending: EndReason,
    },
}

/// A draft that has its revision: exactly what will be there. An engine that keeps a store writes this before it is applied.
#[derive(Debug)]
pub enum StampedChange {
    /// Put an entry in the place of what is there.
    Put {
        /// The instance, with its revisions.
        instance: Instance,
        /// What keeps it registered.
        lease: Option<Arc<Lease>>,
        /// How the lease of the entry before ends, when it is another one.
        ending: EndReason,
        /// Terms that the lease, which goes on, is granted with this. `None`: it keeps those that it has.
        terms: Option<LeaseTerms>,
        /// Whether readers see a difference.
        visible: bool,
    },
    /// Remove what is there.
    Remove {
        /// Why, for readers.
        reason: RemovalReason,
        /// How, for the lease.
        ending: EndReason,
    },
}

impl ProposedChange {
    /// What it comes to at this revision, in the place of what was there when it was decided.
    #[must_use]
    pub fn at(self, revision: Revision, present: Option<&Arc<Entry>>) -> StampedChange {
        match self {
            Self::Put { mut instance, lease, is_new: born, terms, ending } => {
                if born {
                    instance.registered_revision = revision;
                }
                let before = present.filter(|_| !born).map(|present| &present.instance.checks);
                instance.checks = instance.checks.stamped(before, revision);
                describe(&mut instance, present.filter(|_| !born).map(|present| &present.instance), revision);
                let visible = present.is_none_or(|present| !present.instance.same_visible_state(&instance));
                if visible {
                    instance.revision = revision;
                }
                StampedChange::Put { instance, lease, ending, terms, visible }
            }
            Self::Remove { reason, ending } => StampedChange::Remove { reason, ending },
        }
    }
}

/// Notes when an instance with a listing last described itself otherwise than `before`.
fn describe(instance: &mut Instance, before: Option<&Instance>, revision: Revision) {
    let Some(listing) = &instance.consul_registration else { return };
    let same = before.is_some_and(|before| {
        before.tags == instance.tags
            && before.metadata == instance.metadata
            && same_own_addresses(before, instance)
            && before.weight == instance.weight
            && before.locality == instance.locality
            && before.consul_registration.as_ref().is_some_and(|known| known.same_description(listing))
    });
    if !same && let Some(listing) = &mut instance.consul_registration {
        Arc::make_mut(listing).description_revision = revision;
    }
}

/// Returns whether two states of an instance name the same addresses. The host of one that names none is that of its node, and
/// changes with it.
fn same_own_addresses(before: &Instance, after: &Instance) -> bool {
    let of_node =
        |instance: &Instance| instance.consul_registration.as_ref().is_some_and(|listing| listing.address.is_empty());
    let (Some(old), Some(new)) = (before.addresses.split_first(), after.addresses.split_first()) else {
        return before.addresses == after.addresses;
    };
    let same_host = old.0.host == new.0.host || of_node(before) && of_node(after);
    same_host && (old.0.port, &old.0.name, old.1) == (new.0.port, &new.0.name, new.1)
}

impl Decision {
    /// Puts an instance in the place of an entry that stays what it is otherwise; nothing, if it is the same.
    fn alter(entry: &Entry, instance: Instance) -> Self {
        if instance == entry.instance {
            return Self::NoOp;
        }
        let lease = entry.lease.clone();
        Self::Apply(ProposedChange::Put { instance, lease, is_new: false, terms: None, ending: EndReason::Superseded })
    }

    /// Returns the lease that the entry keeps with this decision about a registration.
    pub(super) fn goes_on<'a>(&self, entry: &'a Entry) -> Option<&'a Arc<Lease>> {
        match self {
            Self::NoOp | Self::Apply(ProposedChange::Put { terms: Some(_), .. }) => entry.lease.as_ref(),
            Self::Apply(ProposedChange::Put { terms: None, .. } | ProposedChange::Remove { .. }) => None,
        }
    }

    /// Replaces the lease of a registration that goes on by a new one: the old lease has just run out.
    pub(super) fn with_new_lease(self, entry: &Entry, lease: Arc<Lease>) -> Self {
        let instance = match self {
            Self::Apply(ProposedChange::Put { instance, .. }) => instance,
            Self::NoOp | Self::Apply(ProposedChange::Remove { .. }) => entry.instance.clone(),
        };
        let ending = EndReason::Expired;
        Self::Apply(ProposedChange::Put { instance, lease: Some(lease), is_new: false, terms: None, ending })
    }
}

/// Says what to do, given what is there under the command's service and id. Changes nothing, so a command that is refused has no
/// effect: [`super::WriteGuard::decide`] renews the lease of a registration that is accepted. `context`: what else it depends on.
///
/// # Errors
///
/// When it cannot be done; nothing changes then.
pub fn decide(
    present: Option<&Arc<Entry>>,
    command: Command,
    context: &DecisionContext,
    now: ClockReading,
) -> Result<Decision, CommandError> {
    match command {
        Command::RegisterWithoutLease(asked) => decide_enroll(present, *asked, context, now),
        Command::SetCheckStatus { service, id, check, of, verdict } => {
            change(present, service, id, |instance| judge(instance, check, of.as_ref(), verdict))
        }
        Command::AddCheck { service, id, check } => change(present, service, id, |instance| {
            instance.checks = merged(&instance.checks, &context.taken, vec![check], false)?;
            Ok(())
        }),
        Command::RemoveCheck { service, id, check, created } => {
            change(present, service, id, |instance| remove_check(instance, check, created))
        }
        Command::Reap { check, .. } => Ok(decide_reap(present, &check)),
        Command::RefreshNodeStatus { .. } => Ok(decide_restate(present, &context.node)),
        Command::Register(register) => decide_register(present, register, now),
        Command::Deregister { service, id, of } => decide_deregister(present, service, id, &of),
        Command::Update { service, id, lease, patch } => decide_update(present, service, id, lease, patch),
        Command::Expire(lease) => Ok(decide_expire(present, &lease)),
        Command::Suspect(lease) => Ok(decide_suspicion(present, &lease, lease.is_overdue(now.lease))),
        Command::Recover(lease) => Ok(decide_suspicion(present, &lease, false)),
    }
}

fn decide_register(present: Option<&Arc<Entry>>, asked: Register, now: ClockReading) -> Result<Decision, CommandError> {
    let Some(entry) = present else {
        return Ok(Decision::Apply(put(None, None, asked, now)?));
    };
    match &entry.lease {
        Some(lease) if lease.boot == asked.boot => {
            // If the lease ran out a moment ago, its removal is under way: the same life goes on under a new one.
            let goes_on = lease.is_alive().then_some(lease);
            let same_terms = goes_on.is_some_and(|lease| lease.terms() == asked.terms);
            let draft = put(Some(&entry.instance), goes_on, asked, now)?;
            let same =
                same_terms && matches!(&draft, ProposedChange::Put { instance, .. } if *instance == entry.instance);
            Ok(if same { Decision::NoOp } else { Decision::Apply(draft) })
        }
        Some(lease) => match lease.can_be_taken_over(now.lease) {
            Err(retry) if !asked.replace => {
                Err(CommandError::HeldByOther { service: asked.service, id: asked.id, retry })
            }
            _ => Ok(Decision::Apply(take_over(entry, asked, now)?)),
        },
        None if !asked.replace => Err(CommandError::HeldWithoutLease { service: asked.service, id: asked.id }),
        None => Ok(Decision::Apply(take_over(entry, asked, now)?)),
    }
}

/// The entry that a registration makes, where there was none or the same boot's. `lease`: the one that goes on.
fn put(
    before: Option<&Instance>,
    lease: Option<&Arc<Lease>>,
    asked: Register,
    now: ClockReading,
) -> Result<ProposedChange, CommandError> {
    // A sign of life: nobody suspects it any more.
    let before_marks = before.map(|instance| instance.conditions).unwrap_or_default();
    let conditions = Conditions { starting: asked.starting, suspect: false, ..before_marks };
    let terms = lease.map(|_| asked.terms);
    let lease = lease.cloned().unwrap_or_else(|| new_lease(&asked, now));
    Ok(ProposedChange::Put {
        instance: instance(asked, conditions, before, now)?,
        lease: Some(lease),
        is_new: before.is_none(),
        terms,
        ending: EndReason::Expired,
    })
}

/// A new life under an old id. What an operator said of the old one holds for the new one.
fn take_over(entry: &Arc<Entry>, asked: Register, now: ClockReading) -> Result<ProposedChange, CommandError> {
    let conditions = Conditions {
        starting: asked.starting,
        operator_draining: entry.instance.conditions.operator_draining,
        ..Conditions::default()
    };
    let lease = Some(new_lease(&asked, now));
    let instance = instance(asked, conditions, None, now)?;
    Ok(ProposedChange::Put { instance, lease, is_new: true, terms: None, ending: EndReason::Superseded })
}

fn new_lease(asked: &Register, now: ClockReading) -> Arc<Lease> {
    let (service, id, boot) = (asked.service.clone(), asked.id.clone(), asked.boot);
    Arc::new(Lease::new(asked.lease, service, id, boot, asked.terms, now.lease))
}

fn instance(
    asked: Register,
    conditions: Conditions,
    before: Option<&Instance>,
    now: ClockReading,
) -> Result<Instance, CommandError> {
    let none = InstanceChecks::default();
    let checks = merged(before.map_or(&none, |instance| &instance.checks), &[], asked.checks, true)?;
    Ok(described(asked.service, asked.id, asked.description, (checks, conditions), before, now))
}

/// An instance that says this of itself. What else there is of it is as it was before.
fn described(
    service: ServiceName,
    id: InstanceId,
    description: InstanceDescription,
    (checks, mut conditions): (InstanceChecks, Conditions),
    before: Option<&Instance>,
    now: ClockReading,
) -> Instance {
    let InstanceDescription { addresses, tags, metadata, weight, locality } = description;
    conditions.was_healthy |= proves(&checks);
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

/// Whether an instance with these checks has shown that it works.
fn proves(checks: &InstanceChecks) -> bool {
    !checks.is_empty() && checks.aggregate_status() < CheckStatus::Critical
}

fn decide_deregister(
    present: Option<&Arc<Entry>>,
    service: ServiceName,
    id: InstanceId,
    of: &DeregisterGuard,
) -> Result<Decision, CommandError> {
    let ending = match (of, present) {
        (DeregisterGuard::Anyone, Some(_)) => EndReason::Removed,
        (DeregisterGuard::Anyone, None) => return Err(CommandError::NoSuchInstance { service, id }),
        (DeregisterGuard::This { lease, boot }, Some(entry)) => {
            let holds = entry.lease.as_ref().is_some_and(|held| {
                lease.is_none_or(|lease| lease == held.id) && boot.as_ref().is_none_or(|boot| *boot == held.boot)
            });
            if !holds {
                return Ok(Decision::NoOp); // a late goodbye must not remove the successor
            }
            EndReason::Deregistered
        }
        (DeregisterGuard::Listed, Some(entry)) if entry.instance.consul_registration.is_some() => EndReason::Removed,
        (DeregisterGuard::This { .. }, None) | (DeregisterGuard::Listed, _) => return Ok(Decision::NoOp),
    };
    Ok(Decision::Apply(ProposedChange::Remove { reason: RemovalReason::Deregistered, ending }))
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
        (Some(leaving), Some(_)) => instance.conditions.self_draining = leaving,
        // An operator who wants it back overrules what it said itself.
        (Some(drained), None) => {
            instance.conditions = Conditions { operator_draining: drained, self_draining: false, ..instance.conditions }
        }
        (None, _) => {}
    }
    if lease.is_none()
        && draining.is_some()
        && let Some(listing) = &mut instance.consul_registration
    {
        let known = entry.instance.conditions.operator_draining;
        // Whoever was first has said why.
        if known != instance.conditions.operator_draining {
            Arc::make_mut(listing).maintenance = reason.unwrap_or_default();
        }
    }
    Ok(Decision::alter(entry, instance))
}

fn decide_expire(present: Option<&Arc<Entry>>, lease: &Arc<Lease>) -> Decision {
    if held_by(present, lease).is_none() {
        return Decision::NoOp;
    }
    Decision::Apply(ProposedChange::Remove { reason: RemovalReason::Expired, ending: EndReason::Expired })
}

/// A suspicion that a heartbeat has refuted meanwhile is none.
fn decide_suspicion(present: Option<&Arc<Entry>>, lease: &Arc<Lease>, suspect: bool) -> Decision {
    let Some(entry) = held_by(present, lease).filter(|entry| entry.instance.conditions.suspect != suspect) else {
        return Decision::NoOp;
    };
    let mut instance = entry.instance.clone();
    instance.conditions.suspect = suspect;
    Decision::alter(entry, instance)
}

/// The entry, if it is this lease that keeps it registered.
fn held_by<'a>(present: Option<&'a Arc<Entry>>, lease: &Arc<Lease>) -> Option<&'a Arc<Entry>> {
    present.filter(|entry| entry.lease.as_ref().is_some_and(|held| Arc::ptr_eq(held, lease)))
}

#[cfg(test)]
#[path = "decide/tests.rs"]
mod tests;
