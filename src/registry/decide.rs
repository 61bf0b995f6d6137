//! What a command means for what is there: pure, so that every engine decides alike.

use std::sync::Arc;

use super::{
    command::{Command, Description, Holder, Patch, Refusal, Register},
    event::{Entry, Now, RemovalReason},
    lease::{Ending, Lease},
};
use crate::model::{Instance, InstanceId, LeaseId, Marks, Revision, ServiceName, Terms};

/// What to do.
#[derive(Debug)]
pub enum Decision {
    /// Nothing: what is there is what was asked for.
    Keep,
    /// Renew the lease on these terms, and apply the draft, if any.
    Renew(Arc<Lease>, Terms, Option<Draft>),
    /// Apply the draft.
    Apply(Draft),
}

/// An event that has no revision yet.
#[derive(Debug)]
pub enum Draft {
    /// Put an entry in the place of what is there.
    Put {
        /// The instance. Its revisions are set when it is applied.
        instance: Instance,
        /// What keeps it registered.
        lease: Option<Arc<Lease>>,
        /// It begins a new life.
        born: bool,
        /// How the lease of the entry before ends, when it is another one.
        ending: Ending,
    },
    /// Remove what is there.
    Remove {
        /// The service.
        service: ServiceName,
        /// The instance.
        id: InstanceId,
        /// Why, for readers.
        reason: RemovalReason,
        /// How, for the lease.
        ending: Ending,
    },
}

/// Says what to do, given what is there under the command's service and id.
///
/// # Errors
///
/// When it cannot be done; nothing changes then.
pub fn decide(present: Option<&Arc<Entry>>, command: &Command, now: Now) -> Result<Decision, Refusal> {
    match command {
        Command::Register(register) => decide_register(present, register, now),
        Command::Deregister { service, id, of } => decide_deregister(present, service, id, of),
        Command::Update { service, id, lease, patch } => decide_update(present, service, id, *lease, patch),
        Command::Expire(lease) => Ok(decide_expire(present, lease)),
    }
}

fn decide_register(present: Option<&Arc<Entry>>, asked: &Register, now: Now) -> Result<Decision, Refusal> {
    let Some(entry) = present else {
        return Ok(Decision::Apply(put(None, asked, now)));
    };
    match &entry.lease {
        Some(lease) if lease.boot == asked.boot => {
            let draft = put(Some((entry, Some(lease))), asked, now);
            if !lease.is_alive() {
                // It ran out a moment ago and its removal is under way: the same life goes on under a new lease.
                return Ok(Decision::Apply(put(Some((entry, None)), asked, now)));
            }
            let draft = (!same(&draft, entry)).then_some(draft);
            Ok(Decision::Renew(Arc::clone(lease), asked.terms, draft))
        }
        Some(lease) => match lease.yields(now.lease) {
            Err(retry) if !asked.replace => {
                let (service, id) = (asked.service.clone(), asked.id.clone());
                Err(Refusal::HeldByOther { service, id, retry })
            }
            _ => Ok(Decision::Apply(take_over(entry, asked, now))),
        },
        None => Ok(Decision::Apply(take_over(entry, asked, now))),
    }
}

/// The entry that a registration makes. `over`: what the same boot has, and the lease that goes on.
fn put(over: Option<(&Arc<Entry>, Option<&Arc<Lease>>)>, asked: &Register, now: Now) -> Draft {
    let before = over.map(|(entry, _)| &entry.instance);
    let marks = Marks { starting: asked.starting, ..before.map(|instance| instance.marks).unwrap_or_default() };
    let lease = over.and_then(|(_, lease)| lease).cloned().unwrap_or_else(|| Arc::new(new_lease(asked, now)));
    Draft::Put {
        instance: instance(asked, marks, before, now),
        lease: Some(lease),
        born: before.is_none(),
        ending: Ending::Expired,
    }
}

/// A new life under an old id. What an operator said of the old one holds for the new one.
fn take_over(entry: &Arc<Entry>, asked: &Register, now: Now) -> Draft {
    let marks = Marks { starting: asked.starting, leaving: false, drained: entry.instance.marks.drained };
    Draft::Put {
        instance: instance(asked, marks, None, now),
        lease: Some(Arc::new(new_lease(asked, now))),
        born: true,
        ending: Ending::Superseded,
    }
}

fn new_lease(asked: &Register, now: Now) -> Lease {
    let (service, id, boot) = (asked.service.clone(), asked.id.clone(), asked.boot.clone());
    Lease::new(asked.lease, service, id, boot, asked.terms, now.lease)
}

fn instance(asked: &Register, marks: Marks, before: Option<&Instance>, now: Now) -> Instance {
    let Description { addresses, tags, metadata, weight, locality } = asked.description.clone();
    Instance {
        service: asked.service.clone(),
        id: asked.id.clone(),
        addresses,
        tags,
        metadata,
        weight,
        locality,
        marks,
        registered_at: before.map_or(now.wall, |instance| instance.registered_at),
        registered_revision: before.map_or(Revision::default(), |instance| instance.registered_revision),
        revision: before.map_or(Revision::default(), |instance| instance.revision),
    }
}

fn same(draft: &Draft, entry: &Entry) -> bool {
    matches!(draft, Draft::Put { instance, .. } if *instance == entry.instance)
}

fn decide_deregister(
    present: Option<&Arc<Entry>>,
    service: &ServiceName,
    id: &InstanceId,
    of: &Holder,
) -> Result<Decision, Refusal> {
    let remove = |ending| Draft::Remove {
        service: service.clone(),
        id: id.clone(),
        reason: RemovalReason::Deregistered,
        ending,
    };
    match (of, present) {
        (Holder::Anyone, Some(_)) => Ok(Decision::Apply(remove(Ending::Removed))),
        (Holder::Anyone, None) => Err(Refusal::NoSuchInstance { service: service.clone(), id: id.clone() }),
        (Holder::This { lease, boot }, Some(entry)) => {
            let holds = entry.lease.as_ref().is_some_and(|held| {
                lease.is_none_or(|lease| lease == held.id) && boot.as_ref().is_none_or(|boot| *boot == held.boot)
            });
            // A late goodbye must not remove the successor.
            Ok(if holds { Decision::Apply(remove(Ending::Deregistered)) } else { Decision::Keep })
        }
        (Holder::This { .. }, None) => Ok(Decision::Keep),
    }
}

fn decide_update(
    present: Option<&Arc<Entry>>,
    service: &ServiceName,
    id: &InstanceId,
    lease: Option<LeaseId>,
    patch: &Patch,
) -> Result<Decision, Refusal> {
    let Some(entry) = present else {
        return Err(Refusal::NoSuchInstance { service: service.clone(), id: id.clone() });
    };
    if lease.is_some() && lease != entry.lease.as_ref().map(|held| held.id) {
        return Err(Refusal::LeaseLost { service: service.clone(), id: id.clone() });
    }
    let mut instance = entry.instance.clone();
    if let Some(weight) = patch.weight {
        instance.weight = weight;
    }
    if let Some(tags) = &patch.tags {
        instance.tags = tags.clone();
    }
    if let Some(metadata) = &patch.metadata {
        instance.metadata = metadata.clone();
    }
    if let Some(starting) = patch.starting {
        instance.marks.starting = starting;
    }
    match (patch.draining, lease) {
        (Some(leaving), Some(_)) => instance.marks.leaving = leaving,
        // An operator who wants it back overrules what it said itself.
        (Some(drained), None) => instance.marks = Marks { drained, leaving: false, ..instance.marks },
        (None, _) => {}
    }
    if instance == entry.instance {
        return Ok(Decision::Keep);
    }
    Ok(Decision::Apply(Draft::Put { instance, lease: entry.lease.clone(), born: false, ending: Ending::Superseded }))
}

fn decide_expire(present: Option<&Arc<Entry>>, lease: &Arc<Lease>) -> Decision {
    let holds = |entry: &Arc<Entry>| entry.lease.as_ref().is_some_and(|held| Arc::ptr_eq(held, lease));
    if !present.is_some_and(holds) {
        return Decision::Keep;
    }
    Decision::Apply(Draft::Remove {
        service: lease.service.clone(),
        id: lease.instance.clone(),
        reason: RemovalReason::Expired,
        ending: Ending::Expired,
    })
}

#[cfg(test)]
#[path = "decide/tests.rs"]
mod tests;
