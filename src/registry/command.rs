//! Commands of writers, and the errors with which the registry rejects them.

use std::{slice, sync::Arc, time::Duration};

use super::{event::Entry, holder::SessionEpoch, lease::Lease};
use crate::model::{
    Address, BootId, CheckDefinition, CheckId, CheckStatus, ConsulRegistration, InstanceId, LeaseId, LeaseTerms,
    Locality, Metadata, Revision, ServiceName, Tags, Weight,
};

/// Request to change one instance.
#[derive(Debug, Clone)]
pub enum Command {
    /// Registers an instance with a lease, or renews and updates the registration of the same boot.
    Register(Register),
    /// Registers an instance without a lease, or updates such a registration.
    RegisterWithoutLease(Box<RegisterWithoutLease>),
    /// Removes an instance.
    Deregister {
        /// Service of the instance.
        service: ServiceName,
        /// Instance.
        id: InstanceId,
        /// Condition that the registration has to meet.
        guard: DeregisterGuard,
    },
    /// Changes some fields.
    Update {
        /// Service of the instance.
        service: ServiceName,
        /// Instance.
        id: InstanceId,
        /// Lease of the instance, which updates itself. `None`: an operator updates it.
        lease: Option<LeaseId>,
        /// Fields to change.
        patch: Patch,
    },
    /// Removes the instance of a lease that expired.
    Expire(Arc<Lease>),
    /// Marks the instance of an overdue lease as suspect: self-preservation holds it.
    Suspect(Arc<Lease>),
    /// Removes the suspect mark after a heartbeat.
    Recover(Arc<Lease>),
    /// Makes the replica that submits the command the holder of an instance, because a heartbeat for its lease or a report for its check
    /// has arrived there, or because its holder is gone. Only engines with several replicas submit it.
    Claim {
        /// Service of the instance.
        service: ServiceName,
        /// Instance.
        id: InstanceId,
        /// Lease of the instance. Another registration is not claimed.
        lease: Option<LeaseId>,
        /// Present holder. An instance that a further replica has claimed meanwhile is not claimed.
        from: SessionEpoch,
    },
    /// Makes another replica the holder of an instance whose heartbeat stream is broken, because another boot registers there. Only the
    /// holder submits it, in an engine with several replicas.
    Release {
        /// Service of the instance.
        service: ServiceName,
        /// Instance.
        id: InstanceId,
        /// Session of the other replica.
        to: SessionEpoch,
    },
    /// Sets the status of a check.
    SetCheckStatus {
        /// Service of the instance.
        service: ServiceName,
        /// Instance.
        id: InstanceId,
        /// Check.
        check: CheckId,
        /// Definition by which the status was found ([`Check::definition_revision`](crate::model::Check::definition_revision)):
        /// once the check is redefined, the status no longer applies. `None`: it applies to any definition.
        definition_revision: Option<Revision>,
        /// New status.
        status: CheckStatus,
    },
    /// Tells the replica that holds an instance of a report for a TTL check, so that the TTL starts again there, and sets the reported
    /// status. Only a replica that does not hold the instance submits it.
    AnnounceReport {
        /// Service of the instance.
        service: ServiceName,
        /// Instance.
        id: InstanceId,
        /// Check.
        check: CheckId,
        /// Reported status. `None`: the present status is the reported one.
        status: Option<CheckStatus>,
    },
    /// Adds a check, or replaces its definition.
    AddCheck {
        /// Service of the instance.
        service: ServiceName,
        /// Instance.
        id: InstanceId,
        /// Check.
        check: NewCheck,
    },
    /// Removes a check.
    RemoveCheck {
        /// Service of the instance.
        service: ServiceName,
        /// Instance.
        id: InstanceId,
        /// Check.
        check: CheckId,
        /// Revision at which the check was added. A check that was added again since is not removed. `None`: the check is
        /// removed in any case.
        created: Option<Revision>,
    },
    /// Removes an instance whose check has been critical for longer than its definition permits, if it still is.
    Reap {
        /// Service of the instance.
        service: ServiceName,
        /// Instance.
        id: InstanceId,
        /// Check.
        check: CheckId,
        /// Definition by which the check was found critical.
        definition_revision: Revision,
    },
    /// Gives an instance the state of its node: the conditions and, if the instance names no address, the host. Both are looked
    /// up when the command is decided.
    RefreshNodeStatus {
        /// Service of the instance.
        service: ServiceName,
        /// Instance.
        id: InstanceId,
    },
}

/// Registration without a lease, as requested.
#[derive(Debug, Clone)]
pub struct RegisterWithoutLease {
    /// Service of the instance.
    pub service: ServiceName,
    /// Instance.
    pub id: InstanceId,
    /// Description that readers see.
    pub description: InstanceDescription,
    /// Fields that only Consul's API has.
    pub consul_registration: ConsulRegistration,
    /// Checks to add, or whose definition to replace.
    pub checks: Vec<NewCheck>,
    /// Removes the checks that the instance has and the request does not name.
    pub replace_checks: bool,
}

/// Check as requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCheck {
    /// Definition of the check.
    pub definition: Arc<CheckDefinition>,
    /// Status until the check has run. A check that exists keeps its status, unless it is static.
    pub status: CheckStatus,
}

/// Registration with a lease, as requested.
#[derive(Debug, Clone)]
pub struct Register {
    /// Service of the instance.
    pub service: ServiceName,
    /// Instance.
    pub id: InstanceId,
    /// Boot of the program that registers.
    pub boot: BootId,
    /// Description that readers see.
    pub description: InstanceDescription,
    /// All checks of the instance: others that it has are removed.
    pub checks: Vec<NewCheck>,
    /// Terms of the lease.
    pub terms: LeaseTerms,
    /// The instance is not ready yet.
    pub starting: bool,
    /// Takes over even from a boot that is alive.
    pub replace: bool,
    /// Random id for a new lease, used if the registration needs one.
    pub lease: LeaseId,
}

/// Part of an instance that the instance itself describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceDescription {
    /// Addresses; at least one.
    pub addresses: Box<[Address]>,
    /// Tags.
    pub tags: Tags,
    /// Metadata.
    pub metadata: Metadata,
    /// Weight for load balancing.
    pub weight: Weight,
    /// Region, zone and sub-zone.
    pub locality: Option<Arc<Locality>>,
}

/// Condition of a deregistration: the registrations that it may remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeregisterGuard {
    /// Any registration, on behalf of an operator.
    Any,
    /// The registration with this lease and this boot, as far as given. At least one is given.
    Holder {
        /// Its lease.
        lease: Option<LeaseId>,
        /// Its boot.
        boot: Option<BootId>,
    },
    /// A registration through Consul's API. If there is none, nothing changes.
    Consul,
}

/// Fields to change; the others stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patch {
    /// Weight for load balancing.
    pub weight: Option<Weight>,
    /// Draining state. A draining instance gets no new calls.
    pub draining: Option<bool>,
    /// Starting state. A starting instance is not ready yet.
    pub starting: Option<bool>,
    /// All tags.
    pub tags: Option<Tags>,
    /// All metadata.
    pub metadata: Option<Metadata>,
    /// Reason for draining the instance, shown by Consul's API.
    pub reason: Option<Box<str>>,
}

/// Result of a command.
#[derive(Debug, Clone)]
pub struct CommandOutcome {
    /// Entry after the command. `None`: the instance is not registered.
    pub entry: Option<Arc<Entry>>,
    /// Revision of the change; the newest revision if nothing changed.
    pub revision: Revision,
    /// Set if the command changed anything.
    pub changed: bool,
}

/// Error of a command that the registry rejects. A rejected command changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The instance is not registered.
    #[error("instance \"{service}/{id}\" is not registered: list the service to see its instances")]
    NoSuchInstance {
        /// Service of the instance.
        service: ServiceName,
        /// Instance.
        id: InstanceId,
    },
    /// Another boot holds the id and is alive.
    #[error(
        "instance \"{service}/{id}\" is held by another boot that is alive: use another id, retry in {}, or set replace",
        humantime::format_duration(*retry)
    )]
    HeldByOther {
        /// Service of the instance.
        service: ServiceName,
        /// Instance.
        id: InstanceId,
        /// Time after which a missing heartbeat would let another boot take over.
        retry: Duration,
    },
    /// The id to register without a lease is held by a lease.
    #[error(
        "instance \"{service}/{id}\" is registered natively, with a lease that is alive: deregister it there, or use another id"
    )]
    HeldByLease {
        /// Service of the instance.
        service: ServiceName,
        /// Instance.
        id: InstanceId,
    },
    /// The id to register with a lease is held by a registration without one.
    #[error(
        "instance \"{service}/{id}\" is registered without a lease, through Consul's API or by an import: deregister it there, use another id, or set replace"
    )]
    HeldWithoutLease {
        /// Service of the instance.
        service: ServiceName,
        /// Instance.
        id: InstanceId,
    },
    /// The instance has no such check.
    #[error("instance \"{service}/{id}\" has no check \"{check}\": list its checks to see their ids")]
    NoSuchCheck {
        /// Service of the instance.
        service: ServiceName,
        /// Instance.
        id: InstanceId,
        /// Check.
        check: CheckId,
    },
    /// The instance would have too many checks, or two with one id.
    #[error(transparent)]
    Invalid(#[from] crate::model::FieldError),
    /// The lease that the request names no longer holds the instance.
    #[error("the lease no longer holds instance \"{service}/{id}\": another registration does; register again or stop")]
    LeaseLost {
        /// Service of the instance.
        service: ServiceName,
        /// Instance.
        id: InstanceId,
    },
}

impl Command {
    /// Service and id of the instance that the command changes.
    #[must_use]
    pub fn target(&self) -> (&ServiceName, &InstanceId) {
        match self {
            Self::Register(register) => (&register.service, &register.id),
            Self::RegisterWithoutLease(register) => (&register.service, &register.id),
            Self::Deregister { service, id, .. }
            | Self::Update { service, id, .. }
            | Self::Claim { service, id, .. }
            | Self::Release { service, id, .. }
            | Self::SetCheckStatus { service, id, .. }
            | Self::AnnounceReport { service, id, .. }
            | Self::AddCheck { service, id, .. }
            | Self::RemoveCheck { service, id, .. }
            | Self::Reap { service, id, .. }
            | Self::RefreshNodeStatus { service, id } => (service, id),
            Self::Expire(lease) | Self::Suspect(lease) | Self::Recover(lease) => (&lease.service, &lease.instance),
        }
    }

    /// Ids of the checks that the command adds or redefines, as far as they may be taken from other instances.
    pub fn requested_checks(&self) -> impl Iterator<Item = &CheckId> {
        let requested: &[NewCheck] = match self {
            Self::RegisterWithoutLease(register) => &register.checks,
            Self::AddCheck { check, .. } => slice::from_ref(check),
            Self::Register(_)
            | Self::Deregister { .. }
            | Self::Update { .. }
            | Self::Expire(_)
            | Self::Suspect(_)
            | Self::Recover(_)
            | Self::Claim { .. }
            | Self::Release { .. }
            | Self::SetCheckStatus { .. }
            | Self::AnnounceReport { .. }
            | Self::RemoveCheck { .. }
            | Self::Reap { .. }
            | Self::RefreshNodeStatus { .. } => &[],
        };
        requested.iter().map(|check| &check.definition.id)
    }
}
