//! Decisions about checks, node status, and registrations without a lease.

use std::sync::Arc;

use super::{Decision, ProposedChange, are_healthy, describe};
use crate::{
    model::{
        Check, CheckDefinition, CheckId, CheckStatus, Conditions, Instance, InstanceChecks, InstanceId, Probe,
        Revision, ServiceName,
    },
    registry::{
        command::{CommandError, NewCheck, RegisterWithoutLease},
        context::{DecisionContext, NodeState},
        event::{ClockReading, Entry, RemovalReason},
        lease::EndReason,
    },
};

/// Decides a registration without a lease. It takes the place of one with a lease only if that lease can be taken over. If its
/// id is registered in another service, it continues with the checks and the operator's drain of that instance.
pub(super) fn decide_register_without_lease(
    present: Option<&Arc<Entry>>,
    register: RegisterWithoutLease,
    context: &DecisionContext,
    now: ClockReading,
) -> Result<Decision, CommandError> {
    let RegisterWithoutLease {
        service,
        id,
        mut description,
        consul_registration: mut registration,
        checks,
        replace_checks,
    } = register;
    if let Some(lease) = present.and_then(|entry| entry.lease.as_ref())
        && lease.can_be_taken_over(now.lease).is_err()
    {
        return Err(CommandError::HeldByLease { service, id });
    }
    let moved = context.moved.as_ref().map(|entry| &entry.instance);
    // If the instance moves back here, the entry that its first move left behind is outdated.
    let continued = present.filter(|entry| entry.lease.is_none() && moved.is_none()).map(|entry| &entry.instance);
    let before = moved.or(continued);
    let unchecked = InstanceChecks::default();
    let known = before.map_or(&unchecked, |instance| &instance.checks);
    let checks = merge_checks(known, &context.taken, checks, replace_checks)?;
    let operator_draining = [before, present.map(|entry| &entry.instance)]
        .into_iter()
        .flatten()
        .any(|known| known.conditions.operator_draining);
    let was_healthy = before.is_some_and(|instance| instance.conditions.was_healthy);
    let conditions = Conditions { operator_draining, was_healthy, ..context.node.conditions };
    context.node.set_host(&mut description.addresses, &registration);
    if let Some(known) = before.and_then(|instance| instance.consul_registration.as_ref()) {
        registration.description_revision = known.description_revision;
        if operator_draining {
            registration.maintenance.clone_from(&known.maintenance);
        }
    }
    let mut instance = describe(service, id, description, (checks, conditions), continued, now);
    instance.consul_registration = Some(Arc::new(registration));
    if continued.is_some_and(|before| *before == instance) {
        return Ok(Decision::NoOp);
    }
    Ok(Decision::Apply(ProposedChange::Put {
        instance,
        lease: None,
        is_new: continued.is_none(),
        terms: None,
        end_reason: EndReason::Superseded,
    }))
}

/// Returns the checks of an instance after a request for some. A check that the instance has keeps its status, unless the
/// request states it; so does a check that is taken from another instance, which counts as added now.
pub(super) fn merge_checks(
    known: &InstanceChecks,
    taken: &[Check],
    requested: Vec<NewCheck>,
    replace: bool,
) -> Result<InstanceChecks, CommandError> {
    let mut checks: Vec<Check> = if replace { Vec::new() } else { known.iter().cloned().collect() };
    for NewCheck { definition, status } in requested {
        let is_static = definition.probe == Probe::Static;
        let index = checks.iter().position(|check| *check.id() == definition.id);
        let taken = taken.iter().find(|check| *check.id() == definition.id);
        let check = match (taken, known.get(definition.id.as_str())) {
            (Some(taken), _) => Check::new(definition, if is_static { status } else { taken.status }),
            (None, Some(known)) => redefine(known, definition, is_static.then_some(status)),
            (None, None) => Check::new(definition, status),
        };
        match index {
            Some(index) => checks[index] = check,
            None => checks.push(check),
        }
    }
    Ok(InstanceChecks::new(checks)?)
}

/// Returns a known check with the requested definition. Its revisions are reset where it changes, to be stamped.
fn redefine(known: &Check, definition: Arc<CheckDefinition>, stated: Option<CheckStatus>) -> Check {
    let status = stated.unwrap_or(known.status);
    if known.definition != definition {
        let (revision, definition_revision) = (Revision::default(), Revision::default());
        return Check { definition, status, revision, definition_revision, ..*known };
    }
    let revision = if status == known.status { known.revision } else { Revision::default() };
    Check { status, revision, ..known.clone() }
}

/// Decides a change of a registered instance.
pub(super) fn decide_change(
    present: Option<&Arc<Entry>>,
    service: ServiceName,
    id: InstanceId,
    change: impl FnOnce(&mut Instance) -> Result<(), CommandError>,
) -> Result<Decision, CommandError> {
    let Some(entry) = present else {
        return Err(CommandError::NoSuchInstance { service, id });
    };
    let mut instance = entry.instance.clone();
    change(&mut instance)?;
    instance.conditions.was_healthy |= are_healthy(&instance.checks);
    Ok(Decision::replace_instance(entry, instance))
}

pub(super) fn set_check_status(
    instance: &mut Instance,
    check: CheckId,
    definition_revision: Option<Revision>,
    status: CheckStatus,
) -> Result<(), CommandError> {
    let mut checks: Vec<Check> = instance.checks.iter().cloned().collect();
    let Some(known) = checks.iter_mut().find(|known| *known.id() == check) else {
        // The result of a probe may arrive after its check was removed.
        let (service, id) = (instance.service.clone(), instance.id.clone());
        let is_result = definition_revision.is_some();
        return if is_result { Ok(()) } else { Err(CommandError::NoSuchCheck { service, id, check }) };
    };
    if definition_revision.is_none_or(|revision| revision == known.definition_revision) {
        known.status = status;
        instance.checks = InstanceChecks::new(checks)?;
    }
    Ok(())
}

/// Counts a report that arrived at a replica which does not hold the instance, and sets the reported status.
pub(super) fn announce_report(
    instance: &mut Instance,
    check: CheckId,
    status: Option<CheckStatus>,
) -> Result<(), CommandError> {
    let mut checks: Vec<Check> = instance.checks.iter().cloned().collect();
    let Some(known) = checks.iter_mut().find(|known| *known.id() == check) else {
        let (service, id) = (instance.service.clone(), instance.id.clone());
        return Err(CommandError::NoSuchCheck { service, id, check });
    };
    known.announced_reports = known.announced_reports.wrapping_add(1);
    known.status = status.unwrap_or(known.status);
    instance.checks = InstanceChecks::new(checks)?;
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

/// Removes an instance, if the check is still critical and was not redefined.
pub(super) fn decide_reap(present: Option<&Arc<Entry>>, check: &CheckId, definition_revision: Revision) -> Decision {
    let known = present.and_then(|entry| entry.instance.checks.get(check.as_str()));
    let is_due = known
        .is_some_and(|known| known.status == CheckStatus::Critical && known.definition_revision == definition_revision);
    if !is_due {
        return Decision::NoOp;
    }
    Decision::Apply(ProposedChange::Remove { reason: RemovalReason::Reaped, end_reason: EndReason::Removed })
}

pub(super) fn decide_refresh_node_status(present: Option<&Arc<Entry>>, node: &NodeState) -> Decision {
    present.map_or(Decision::NoOp, |entry| Decision::replace_instance(entry, node.applied_to(&entry.instance)))
}
