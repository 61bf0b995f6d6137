//! What writers ask for, and what the registry answers.

use std::{sync::Arc, time::Duration};

use super::{event::Entry, lease::Lease};
use crate::model::{
    Address, BootId, CheckDefinition, CheckId, CheckStatus, ConsulRegistration, InstanceId, LeaseId, LeaseTerms,
    Locality, Metadata, Revision, ServiceName, Tags, Weight,
};

/// A wish to change one instance.
#[derive(Debug, Clone)]
pub enum Command {
    /// Sign in, or renew and update what this boot has.
    Register(Register),
    /// Sign in without a lease, or update what was signed in so.
    RegisterWithoutLease(Box<RegisterWithoutLease>),
    /// Sign out, or remove.
    Deregister {
        /// The service.
        service: ServiceName,
        /// The instance.
        id: InstanceId,
        /// For which registration this is meant.
        of: DeregisterGuard,
    },
    /// Change some fields.
    Update {
        /// The service.
        service: ServiceName,
        /// The instance.
        id: InstanceId,
        /// The lease of the instance that updates itself; `None`: an operator does.
        lease: Option<LeaseId>,
        /// What to change.
        patch: Patch,
    },
    /// Remove what a lease kept, after it ran out.
    Expire(Arc<Lease>),
    /// Mark what a lease keeps, though it ran out: protection does not believe it.
    Suspect(Arc<Lease>),
    /// Take that mark away: a heartbeat came.
    Recover(Arc<Lease>),
    /// Say what a check says.
    SetCheckStatus {
        /// The service.
        service: ServiceName,
        /// The instance.
        id: InstanceId,
        /// The check.
        check: CheckId,
        /// How the check was defined when that was found out: if it is another by now, this is not its verdict. `None`: whoever
        /// speaks for the check says so.
        of: Option<Arc<CheckDefinition>>,
        /// What it says.
        verdict: CheckStatus,
    },
    /// Add a check, or define it anew.
    AddCheck {
        /// The service.
        service: ServiceName,
        /// The instance.
        id: InstanceId,
        /// The check.
        check: NewCheck,
    },
    /// Take a check away.
    RemoveCheck {
        /// The service.
        service: ServiceName,
        /// The instance.
        id: InstanceId,
        /// The check.
        check: CheckId,
        /// The revision at which the instance got it: one that it has got anew stays. `None`: whatever check is there.
        created: Option<Revision>,
    },
    /// Remove what a check has found critical for too long, if it still does.
    Reap {
        /// The service.
        service: ServiceName,
        /// The instance.
        id: InstanceId,
        /// The check.
        check: Arc<CheckDefinition>,
    },
    /// Give an instance the state of its node: conditions, and the host if it names none. Both are looked up when this is decided.
    RefreshNodeStatus {
        /// The service.
        service: ServiceName,
        /// The instance.
        id: InstanceId,
    },
}

/// A registration without a lease, as asked for.
#[derive(Debug, Clone)]
pub struct RegisterWithoutLease {
    /// The service.
    pub service: ServiceName,
    /// The instance.
    pub id: InstanceId,
    /// What readers will see.
    pub description: InstanceDescription,
    /// What it says in Consul's words.
    pub listing: ConsulRegistration,
    /// Its checks.
    pub checks: Vec<NewCheck>,
    /// Whether checks that it had and does not name are taken away.
    pub replace_checks: bool,
}

/// A check as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCheck {
    /// What is checked, and how.
    pub definition: Arc<CheckDefinition>,
    /// What it says until it has been made. A check that was there before says what it said.
    pub verdict: CheckStatus,
}

/// A registration as asked for.
#[derive(Debug, Clone)]
pub struct Register {
    /// The service.
    pub service: ServiceName,
    /// The instance.
    pub id: InstanceId,
    /// Who asks.
    pub boot: BootId,
    /// What readers will see.
    pub description: InstanceDescription,
    /// Its checks: these, and no others.
    pub checks: Vec<NewCheck>,
    /// The terms of its lease.
    pub terms: LeaseTerms,
    /// It is not ready yet.
    pub starting: bool,
    /// Take over even from a boot that is alive.
    pub replace: bool,
    /// The name of its lease, should it need a new one. Fresh and random.
    pub lease: LeaseId,
}

/// What an instance says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceDescription {
    /// Where it listens; at least one.
    pub addresses: Box<[Address]>,
    /// Labels without a value.
    pub tags: Tags,
    /// Labels with a value.
    pub metadata: Metadata,
    /// Its share of the load.
    pub weight: Weight,
    /// Where it runs.
    pub locality: Option<Arc<Locality>>,
}

/// Which registration a goodbye is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeregisterGuard {
    /// Whatever is there: an operator asks.
    Anyone,
    /// The one that holds this lease and is this boot, as far as given. At least one is.
    This {
        /// Its lease.
        lease: Option<LeaseId>,
        /// Its boot.
        boot: Option<BootId>,
    },
    /// One in Consul's words. Where there is none, nothing changes.
    Listed,
}

/// Fields to change; the others stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patch {
    /// Its share of the load.
    pub weight: Option<Weight>,
    /// Whether to send it no new calls.
    pub draining: Option<bool>,
    /// Whether it is not ready yet.
    pub starting: Option<bool>,
    /// All tags.
    pub tags: Option<Tags>,
    /// All metadata.
    pub metadata: Option<Metadata>,
    /// Why it is to be sent no new calls, for those who are told.
    pub reason: Option<Box<str>>,
}

/// What became of a command.
#[derive(Debug, Clone)]
pub struct CommandOutcome {
    /// The entry as it is now. `None`: it is not there.
    pub entry: Option<Arc<Entry>>,
    /// The revision of the change; where nothing changed, the newest revision.
    pub revision: Revision,
    /// Whether anything changed.
    pub changed: bool,
}

/// Why the registry does not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such instance.
    #[error("instance \"{service}/{id}\" is not registered: list the service to see who is")]
    NoSuchInstance {
        /// The service.
        service: ServiceName,
        /// The instance.
        id: InstanceId,
    },
    /// Another boot holds the id and is alive.
    #[error(
        "instance \"{service}/{id}\" is held by another boot that is alive: use another id, retry in {}, or set replace",
        humantime::format_duration(*retry)
    )]
    HeldByOther {
        /// The service.
        service: ServiceName,
        /// The instance.
        id: InstanceId,
        /// When a missing heartbeat would let another boot in.
        retry: Duration,
    },
    /// A lease keeps what is to be registered without one.
    #[error(
        "instance \"{service}/{id}\" is registered natively, with a lease that is alive: deregister it there, or use another id"
    )]
    HeldByLease {
        /// The service.
        service: ServiceName,
        /// The instance.
        id: InstanceId,
    },
    /// A registration without a lease holds what is to be registered with one.
    #[error(
        "instance \"{service}/{id}\" is registered without a lease, through Consul's API or by an import: deregister it there, use another id, or set replace"
    )]
    HeldWithoutLease {
        /// The service.
        service: ServiceName,
        /// The instance.
        id: InstanceId,
    },
    /// No such check.
    #[error("instance \"{service}/{id}\" has no check \"{check}\": list its checks to see which it has")]
    NoSuchCheck {
        /// The service.
        service: ServiceName,
        /// The instance.
        id: InstanceId,
        /// The check.
        check: CheckId,
    },
    /// Its checks would be too many, or two of one id.
    #[error(transparent)]
    Invalid(#[from] crate::model::FieldError),
    /// The lease that was named no longer holds the instance.
    #[error("the lease no longer holds instance \"{service}/{id}\": another registration does; register again or stop")]
    LeaseLost {
        /// The service.
        service: ServiceName,
        /// The instance.
        id: InstanceId,
    },
}
