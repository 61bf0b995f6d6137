//! Policy of a service with the defaults merged in.

use std::{collections::BTreeMap, time::Duration};

use super::{
    LoadBalancing, OutlierDetection, PolicyRoute, RetryPolicy, ServicePolicy, Split, Subset, SubsetName, WeightSource,
    ZoneMode,
};
use crate::model::{FieldError, Revision, ServiceName};

/// Policy of a service with the defaults merged in: each field has a value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EffectivePolicy {
    /// Revision of the last change of the service's policy or of the defaults. 0: neither exists.
    pub revision: Revision,
    /// Balancing of calls between instances.
    pub lb: LoadBalancing,
    /// Maximum time of a call. Zero: the caller's deadline only.
    pub timeout: Duration,
    /// Maximum number of open calls of a client process to each cluster. `None`: unlimited.
    pub max_requests: Option<u32>,
    /// Retries of failed calls. `None`: no retries.
    pub retry: Option<RetryPolicy>,
    /// Outlier detection. `None`: off.
    pub outlier: Option<OutlierDetection>,
    /// Source of the weights.
    pub weights: WeightSource,
    /// Time in which the weight of a new instance rises to its full value. Zero: no slow start.
    pub slow_start: Duration,
    /// Preference for instances in the client's zone.
    pub zone: ZoneMode,
    /// Percentage of calls that clients drop.
    pub shed: u8,
    /// Named parts of the service.
    pub subsets: BTreeMap<SubsetName, Subset>,
    /// Split of the calls that no route matches. `None`: they go to the whole service.
    pub default_split: Option<Split>,
    /// Services whose instances take the calls once this service has no routable instance, in this order.
    pub fallback: Vec<ServiceName>,
    /// Routes in order: the first that matches a call decides.
    pub routes: Vec<PolicyRoute>,
}

impl EffectivePolicy {
    /// Splits of the routes in order, then that of the calls which no route matches. `None`: the whole service.
    pub fn splits(&self) -> impl Iterator<Item = Option<&Split>> {
        self.routes.iter().map(|route| route.split.as_ref()).chain([self.default_split.as_ref()])
    }

    /// Merges the policy of a service with the defaults, field by field. `revision`: that of the later change of both.
    #[must_use]
    pub fn merge(service: Option<&ServicePolicy>, defaults: Option<&ServicePolicy>, revision: Revision) -> Self {
        let none = ServicePolicy::default();
        let (own, common) = (service.unwrap_or(&none), defaults.unwrap_or(&none));
        let (set, base) = (&own.settings, &common.settings);
        Self {
            revision,
            lb: set.lb.or(base.lb).unwrap_or_default(),
            timeout: set.timeout.or(base.timeout).unwrap_or_default(),
            max_requests: set.max_requests.or(base.max_requests).filter(|limit| *limit > 0),
            retry: set.retry.as_ref().or(base.retry.as_ref()).filter(|retry| retry.attempts > 0).cloned(),
            outlier: set.outlier.or(base.outlier).flatten(),
            weights: set.weights.or(base.weights).unwrap_or_default(),
            slow_start: set.slow_start.or(base.slow_start).unwrap_or_default(),
            zone: set.zone.or(base.zone).unwrap_or_default(),
            shed: set.shed.or(base.shed).unwrap_or_default(),
            subsets: own.subsets.clone(),
            default_split: own.default_split.clone(),
            fallback: own.fallback.clone(),
            routes: own.routes.clone(),
        }
    }

    /// Validates fields together of which some may come from the service and others from the defaults.
    ///
    /// # Errors
    ///
    /// When ring hash is combined with weights that change by themselves, or a route has a `hash_header` without ring hash.
    pub fn validate(&self) -> Result<(), FieldError> {
        if self.lb == LoadBalancing::RingHash {
            return self.validate_ring_hash();
        }
        match self.routes.iter().enumerate().find_map(|(at, route)| route.hash_header.as_deref().map(|name| (at, name)))
        {
            None => Ok(()),
            Some((at, name)) => {
                let problem = format!("has no effect with lb = \"{}\"", self.lb);
                let hint = "remove it, or set lb = \"ring_hash\"";
                Err(FieldError::new(format!("route[{at}].hash_header"), name, problem, hint))
            }
        }
    }

    /// Returns an error if weights change by themselves: each change of a weight would move keys to other instances.
    fn validate_ring_hash(&self) -> Result<(), FieldError> {
        if self.weights != WeightSource::Configured {
            let hint = "set weights = \"configured\", or another lb";
            return Err(FieldError::new("weights", self.weights.as_str(), "does not go with lb = \"ring_hash\"", hint));
        }
        if !self.slow_start.is_zero() {
            let shown = humantime::format_duration(self.slow_start).to_string();
            let hint = "set slow_start = \"0s\", or another lb";
            return Err(FieldError::new("slow_start", &shown, "does not go with lb = \"ring_hash\"", hint));
        }
        Ok(())
    }
}
