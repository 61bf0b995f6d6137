//! Policy of a service: how its clients balance and limit calls, its subsets, and the routes to them.
//!
//! A policy says how calls travel; it has no influence on the instances that are registered. Each service has at most one, and the
//! policy of all services ([`PolicyScope::Defaults`]) holds for the fields that a service leaves open.
//!
//! | file | holds |
//! |---|---|
//! | `settings` | the fields that services and defaults have, and their values |
//! | `subset` | named parts of a service, and splits of calls between them |
//! | `route` | conditions under which calls take another split |
//! | `effective` | the policy of a service with the defaults merged in |
//! | `document` | the form in which policies are written and stored |
//! | `read`, `read_…` | the validation of a document, field by field |
//! | `table_reader` | values of a document, and errors that name their place |
//! | `header_pattern` | regular expressions that mean the same to all clients |
//! | `write` | the shortest document of a policy, and the one with all fields |
//! | `warning` | effects of valid policies that are probably not intended |
//!
//! Not here: its place in the order of changes (`registry`), its form for clients (protocols).

mod document;
mod effective;
mod header_pattern;
mod read;
mod read_route;
mod read_settings;
mod read_subset;
mod route;
mod settings;
mod subset;
mod table_reader;
mod warning;
mod write;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

pub use document::{DocumentTable, DocumentValue, PolicyDocument};
pub use effective::EffectivePolicy;
pub use route::{HeaderCondition, HeaderMatch, MethodMatch, PolicyRoute};
use settings::PolicyName;
pub use settings::{
    LoadBalancing, OutlierDetection, PolicySettings, RetryPolicy, RetryableCode, WeightSource, ZoneMode,
};
pub use subset::{EmptySubset, Split, Subset, SubsetName};
pub use warning::PolicyWarning;

use super::ServiceName;

/// Services that a policy holds for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyScope {
    /// All services, as far as they leave a field open.
    Defaults,
    /// One service.
    Service(ServiceName),
}

impl fmt::Display for PolicyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Defaults => f.write_str("the defaults"),
            Self::Service(service) => write!(f, "service {:?}", service.as_str()),
        }
    }
}

/// Policy of a service, or of all services. Valid by construction, except for what depends on other policies (fallbacks).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServicePolicy {
    /// Fields that the defaults have, too. Those that are `None` are open.
    pub settings: PolicySettings,
    /// Named parts of the service, at most 16. Empty for the defaults.
    pub subsets: BTreeMap<SubsetName, Subset>,
    /// Split of the calls that no route matches. `None`: they go to the whole service. `None` for the defaults.
    pub default_split: Option<Split>,
    /// Services whose instances take the calls once this service has no routable instance, in this order. Empty for the defaults.
    pub fallback: Vec<ServiceName>,
    /// Routes in order, at most 32: the first that matches a call decides. Empty for the defaults.
    pub routes: Vec<PolicyRoute>,
}

impl ServicePolicy {
    /// Returns whether the policy says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
