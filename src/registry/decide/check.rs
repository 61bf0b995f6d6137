//! What commands mean that are about checks, nodes, and registrations without a lease.

use std::sync::Arc;

use super::{Decision, ProposedChange, described, proves};
use crate::{
    model::{
        Address, Check, CheckDefinition, CheckId, CheckStatus, Conditions, ConsulRegistration, Instance,
        InstanceChecks, InstanceId, Probe, Revision, ServiceName,
    },
    registry::{
        command::{CommandError, NewCheck, RegisterWithoutLease},
        context::{DecisionContext, NodeState},
        event::{ClockReading, Entry, RemovalReason},
        lease::EndReason,
    },
};

/// A registration without a lease. It takes the place of one with a lease only if that has run out. One whose id is
/// registered in another service goes on with the checks and the operator's word of that one.
pub(super) fn decide_enroll(
    present: Option<&Arc<Entry>>,
    asked: RegisterWithoutLease,
    context: &DecisionContext,
    now: ClockReading,
) -> Result<Decision, CommandError> {
    let RegisterWithoutLease { service, id, mut description, mut listing, checks, replace_checks } = asked;
    if let Some(lease) = present.and_then(|entry| entry.lease.as_ref())
        && lease.can_be_taken_over(now.lease).is_err()
    {
        return Err(CommandError::HeldByLease { service, id });
    }
    let moved = context.moved.as_ref().map(|entry| &entry.instance);
    // What is left here of an instance that had moved on is older than what comes back.
    let lives_on = present.filter(|entry| entry.lease.is_none() && moved.is_none()).map(|entry| &entry.instance);
    let before = moved.or(lives_on);
    let unchecked = InstanceChecks::default();
    let known = before.map_or(&unchecked, |instance| &instance.checks);
    let checks = merged(known, &context.taken, checks, replace_checks)?;
    let drained = [before, present.map(|entry| &entry.instance)]
        .into_iter()
        .flatten()
        .any(|known| known.conditions.operator_draining);
    let proved = before.is_some_and(|instance| instance.conditions.was_healthy);
    let conditions = Conditions { operator_draining: drained, was_healthy: proved, ..context.node.conditions };
    follow_host(&mut description.addresses, &listing, &context.node);
    if let Some(known) = before.and_then(|instance| instance.consul_registration.as_ref()) {
        listing.description_revision = known.description_revision;
        if drained {
            listing.maintenance.clone_from(&known.maintenance);
        }
    }
    let mut instance = described(service, id, description, (checks, conditions), lives_on, now);
    instance.consul_registration = Some(Arc::new(listing));
    if lives_on.is_some_and(|before| *before == instance) {
        return Ok(Decision::NoOp);
    }
    let born = lives_on.is_none();
    Ok(Decision::Apply(ProposedChange::Put {
        instance,
        lease: None,
        is_new: born,
        terms: None,
        ending: EndReason::Superseded,
    }))
}

/// The checks that are there once these are asked for. One that was known keeps its verdict, unless that is stated; so does
/// one that is taken from another instance, which begins here.
pub(super) fn merged(
    known: &InstanceChecks,
    taken: &[Check],
    asked: Vec<NewCheck>,
    replace: bool,
) -> Result<InstanceChecks, CommandError> {
    let mut checks: Vec<Check> = if replace { Vec::new() } else { known.iter().cloned().collect() };
    for NewCheck { definition, verdict } in asked {
        let stated = definition.probe == Probe::Static;
        let place = checks.iter().position(|check| *check.id() == definition.id);
        let taken = taken.iter().find(|check| *check.id() == definition.id);
        let check = match (taken, known.get(definition.id.as_str())) {
            (Some(taken), _) => Check::new(definition, if stated { verdict } else { taken.status }),
            (None, Some(known)) => defined_again(known, definition, stated.then_some(verdict)),
            (None, None) => Check::new(definition, verdict),
        };
        match place {
            Some(place) => checks[place] = check,
            None => checks.push(check),
        }
    }
    Ok(InstanceChecks::new(checks)?)
}

/// A known check as it is asked for once more.
fn defined_again(known: &Check, asked: Arc<CheckDefinition>, stated: Option<CheckStatus>) -> Check {
    // The very definition that is there, if it says the same: the runner goes on with it.
    let definition = if known.definition == asked { Arc::clone(&known.definition) } else { asked };
    let verdict = stated.unwrap_or(known.status);
    let same = verdict == known.status && Arc::ptr_eq(&definition, &known.definition);
    Check { definition, status: verdict, revision: if same { known.revision } else { Revision::default() }, ..*known }
}

/// A change of what is there, unless it comes to nothing.
pub(super) fn change(
    present: Option<&Arc<Entry>>,
    service: ServiceName,
    id: InstanceId,
    alter: impl FnOnce(&mut Instance) -> Result<(), CommandError>,
) -> Result<Decision, CommandError> {
    let Some(entry) = present else {
        return Err(CommandError::NoSuchInstance { service, id });
    };
    let mut instance = entry.instance.clone();
    alter(&mut instance)?;
    instance.conditions.was_healthy |= proves(&instance.checks);
    Ok(Decision::alter(entry, instance))
}

pub(super) fn judge(
    instance: &mut Instance,
    check: CheckId,
    of: Option<&Arc<CheckDefinition>>,
    verdict: CheckStatus,
) -> Result<(), CommandError> {
    let mut checks: Vec<Check> = instance.checks.iter().cloned().collect();
    let Some(known) = checks.iter_mut().find(|known| *known.id() == check) else {
        // A probe that took longer than its check existed has nothing to say.
        let (service, id) = (instance.service.clone(), instance.id.clone());
        return if of.is_some() { Ok(()) } else { Err(CommandError::NoSuchCheck { service, id, check }) };
    };
    if of.is_none_or(|of| Arc::ptr_eq(of, &known.definition)) {
        known.status = verdict;
        instance.checks = InstanceChecks::new(checks)?;
    }
    Ok(())
}

pub(super) fn remove_check(
    instance: &mut Instance,
    check: CheckId,
    created: Option<Revision>,
) -> Result<(), CommandError> {
    let Some(known) = instance.checks.get(check.as_str()) else {
        let (service, id) = (instance.service.clone(), instance.id.clone());
        return Err(CommandError::NoSuchCheck { service, id, check });
    };
    if created.is_some_and(|created| created != known.created) {
        return Ok(());
    }
    let rest = instance.checks.iter().filter(|known| *known.id() != check).cloned().collect();
    instance.checks = InstanceChecks::new(rest)?;
    Ok(())
}

/// A check that says something else by now, or is another, removes nobody.
pub(super) fn decide_reap(present: Option<&Arc<Entry>>, check: &Arc<CheckDefinition>) -> Decision {
    let known = present.and_then(|entry| entry.instance.checks.get(check.id.as_str()));
    let still =
        known.is_some_and(|known| known.status == CheckStatus::Critical && Arc::ptr_eq(&known.definition, check));
    if !still {
        return Decision::NoOp;
    }
    Decision::Apply(ProposedChange::Remove { reason: RemovalReason::Reaped, ending: EndReason::Removed })
}

pub(super) fn decide_restate(present: Option<&Arc<Entry>>, node: &NodeState) -> Decision {
    present.map_or(Decision::NoOp, |entry| Decision::alter(entry, on_node(&entry.instance, node)))
}

/// Returns an instance with the state that its node gives it.
pub(in crate::registry) fn on_node(instance: &Instance, node: &NodeState) -> Instance {
    let mut instance = instance.clone();
    let Conditions { node_drained, node_critical, node_warning, .. } = node.conditions;
    instance.conditions = Conditions { node_drained, node_critical, node_warning, ..instance.conditions };
    if let Some(listing) = &instance.consul_registration {
        follow_host(&mut instance.addresses, listing, node);
    }
    instance
}

/// An instance that names no address is where its node is.
fn follow_host(addresses: &mut [Address], listing: &ConsulRegistration, node: &NodeState) {
    if let Some(host) = node.host.as_ref().filter(|_| listing.address.is_empty())
        && let Some(first) = addresses.first_mut()
        && first.host != *host
    {
        first.host.clone_from(host);
    }
}
