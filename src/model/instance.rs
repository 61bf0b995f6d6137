//! Instance of a service, its conditions and its status.

use std::{fmt, sync::Arc};

use super::{
    Address, CheckStatus, ConsulRegistration, FieldError, InstanceChecks, InstanceId, Locality, Metadata, Revision,
    ServiceName, Tags, UnixMillis,
};

/// Running copy of a service at one revision. It is immutable: a change makes another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Service of the instance.
    pub service: ServiceName,
    /// Id, unique within the service.
    pub id: InstanceId,
    /// Addresses at which the instance listens: at least one, the primary first.
    pub addresses: Box<[Address]>,
    /// Tags.
    pub tags: Tags,
    /// Metadata.
    pub metadata: Metadata,
    /// Weight in load balancing.
    pub weight: Weight,
    /// Place where the instance runs.
    pub locality: Option<Arc<Locality>>,
    /// Checks, with their statuses.
    pub checks: InstanceChecks,
    /// Conditions that make up the status, together with the checks.
    pub conditions: Conditions,
    /// Part that only a registration through the Consul API has. `None` for a native registration.
    pub consul_registration: Option<Arc<ConsulRegistration>>,
    /// Time of the registration.
    pub registered_at: UnixMillis,
    /// Revision of the registration.
    pub registered_revision: Revision,
    /// Revision of the last change.
    pub revision: Revision,
}

impl Instance {
    /// Returns the instance as a registration without a history: its revisions are 0, and the next change sets them.
    #[must_use]
    pub fn without_revisions(mut self) -> Self {
        self.checks = self.checks.without_revisions();
        if let Some(registration) = &mut self.consul_registration {
            Arc::make_mut(registration).description_revision = Revision::default();
        }
        (self.registered_revision, self.revision) = Default::default();
        self
    }

    /// Returns the first status that applies. An instance whose checks were never healthy is starting, not unhealthy, and a starting
    /// instance does not become routable by being suspect.
    #[must_use]
    pub fn status(&self) -> Status {
        let Conditions {
            starting,
            self_draining,
            operator_draining,
            suspect,
            was_healthy,
            node_drained,
            node_critical,
            node_warning: _,
        } = self.conditions;
        let critical = self.checks.aggregate_status() == CheckStatus::Critical;
        if self_draining || operator_draining || node_drained {
            Status::Draining
        } else if node_critical || critical && was_healthy {
            Status::Unhealthy
        } else if starting || critical {
            Status::Starting
        } else if suspect {
            Status::Suspect
        } else {
            Status::Serving
        }
    }

    /// Returns the weight for the present status of the checks: the warning weight of a Consul registration while a check is warning.
    #[must_use]
    pub fn effective_weight(&self) -> Weight {
        match &self.consul_registration {
            Some(registration) if self.checks.aggregate_status() == CheckStatus::Warning => {
                Weight(registration.warning_weight.max(1))
            }
            Some(_) | None => self.weight,
        }
    }
}

/// Conditions that make up the status of an instance, together with its checks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each condition is set and cleared independently of the others")]
pub struct Conditions {
    /// The instance reported that it is not ready yet.
    pub starting: bool,
    /// The instance reported that it is draining. Cleared by the next registration.
    pub self_draining: bool,
    /// An operator drains the instance. Kept by the next registration.
    pub operator_draining: bool,
    /// The lease is overdue, and self-preservation holds the instance.
    pub suspect: bool,
    /// At some time since the registration, no check was critical.
    pub was_healthy: bool,
    /// An operator drains the node of the instance.
    pub node_drained: bool,
    /// A check of the node is critical.
    pub node_critical: bool,
    /// A check of the node is warning.
    pub node_warning: bool,
}

/// Status of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The instance is ready.
    Serving,
    /// The lease is overdue, but self-preservation holds the instance. It is still routable.
    Suspect,
    /// The instance is not ready yet.
    Starting,
    /// The instance gets no new work: an operator or the instance itself drains it.
    Draining,
    /// A check is critical.
    Unhealthy,
}

impl Status {
    /// Name of the status in every protocol: `SERVING`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "SERVING",
            Self::Suspect => "SUSPECT",
            Self::Starting => "STARTING",
            Self::Draining => "DRAINING",
            Self::Unhealthy => "UNHEALTHY",
        }
    }

    /// Returns whether clients should call the instance. Only routable instances count for the health of their service.
    #[must_use]
    pub fn is_routable(self) -> bool {
        matches!(self, Self::Serving | Self::Suspect)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Weight in load balancing: 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight(u16);

impl Weight {
    /// Weight of an instance that was registered without one.
    pub const DEFAULT: Self = Self(1);

    /// Parses a weight.
    ///
    /// # Errors
    ///
    /// When the weight is 0 or above 65535.
    pub fn parse(weight: u32) -> Result<Self, FieldError> {
        u16::try_from(weight).ok().filter(|weight| *weight > 0).map(Self).ok_or_else(|| {
            let hint = "give 1 to 65535; to send an instance no calls, drain it";
            FieldError::new("weight", &weight.to_string(), "is out of range", hint)
        })
    }

    /// Weight as a number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Check, CheckDefinition, CheckId, Probe},
        registry::test_support::entry,
    };

    #[test]
    fn status_is_the_first_that_applies() {
        let mut instance = entry("web", "a", 1).instance.clone();
        assert_eq!(instance.status(), Status::Serving);
        instance.conditions.suspect = true;
        assert_eq!(instance.status(), Status::Suspect);
        assert!(instance.status().is_routable(), "a suspect instance is called");
        instance.conditions.starting = true;
        assert_eq!(instance.status(), Status::Starting);
        instance.conditions.node_critical = true;
        assert_eq!(instance.status(), Status::Unhealthy);
        instance.conditions.self_draining = true;
        assert_eq!(instance.status(), Status::Draining);
        for conditions in [
            Conditions { operator_draining: true, ..Conditions::default() },
            Conditions { node_drained: true, ..Conditions::default() },
        ] {
            assert_eq!(Instance { conditions, ..instance.clone() }.status(), Status::Draining);
        }
    }

    #[test]
    fn status_and_effective_weight_follow_the_checks() {
        let mut instance = entry("web", "a", 5).instance.clone();
        let mut with_check = |status, was_healthy| {
            let definition = CheckDefinition::new(CheckId::parse("c").unwrap(), "c", Probe::Ttl);
            instance.checks = InstanceChecks::new(vec![Check::new(definition.into(), status)]).unwrap();
            instance.conditions.was_healthy = was_healthy;
            instance.consul_registration =
                Some(ConsulRegistration { warning_weight: 2, ..ConsulRegistration::default() }.into());
            (instance.status(), instance.effective_weight().get())
        };
        assert_eq!(with_check(CheckStatus::Critical, false), (Status::Starting, 5));
        assert_eq!(with_check(CheckStatus::Passing, true), (Status::Serving, 5));
        assert_eq!(with_check(CheckStatus::Warning, true), (Status::Serving, 2));
        assert_eq!(with_check(CheckStatus::Critical, true), (Status::Unhealthy, 5));
    }

    #[test]
    fn weight_out_of_range_is_rejected() {
        assert!(Weight::parse(0).is_err());
        assert!(Weight::parse(65_536).is_err());
        assert_eq!(Weight::parse(65_535).unwrap().get(), 65_535);
    }
}
