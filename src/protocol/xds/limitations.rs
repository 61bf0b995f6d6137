//! Fields of a policy that a family of clients ignores or approximates.

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::client_family::{ClientFamily, ClientFeature, ClientLibrary, LibraryVersion};
use crate::model::{EffectivePolicy, EmptySubset, LoadBalancing, RetryPolicy, WeightSource, ZoneMode};

/// Behaviour of clients that may or may not follow a field, because their library is unknown.
const UNKNOWN_LIBRARY: &str = "may ignore it: the library is not known";

/// Field of a policy that a family of clients ignores or approximates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limitation {
    /// Field, as errors name it: `route[0].timeout`.
    pub(super) field: String,
    /// Behaviour of the clients.
    pub(super) behaviour: &'static str,
    /// First version of the library that follows the field. `None`: no version does.
    pub(super) since: Option<LibraryVersion>,
}

/// Returns the fields that a family ignores or approximates. Fields with their default value are followed by every client.
pub(super) fn limitations(policy: &EffectivePolicy, family: ClientFamily) -> Vec<Limitation> {
    let mut found = LimitationList { family, found: Vec::new() };
    found.balancing(policy.lb);
    found.calls("", policy.timeout, policy.retry.as_ref());
    for (at, route) in policy.routes.iter().enumerate() {
        found.calls(&format!("route[{at}]."), route.timeout.unwrap_or_default(), route.retry.as_ref());
    }
    let uses = [
        (policy.max_requests.is_some(), "max_requests", ClientFeature::CircuitBreaker, "does not limit open calls"),
        (policy.outlier.is_some(), "outlier", ClientFeature::OutlierDetection, "ejects no instances"),
        (policy.weights == WeightSource::ResponseTime, "weights", ClientFeature::Localities, "ignores weights"),
        (!policy.slow_start.is_zero(), "slow_start", ClientFeature::Localities, "ignores weights"),
        (
            policy.zone == ZoneMode::Prefer,
            "zone",
            ClientFeature::Localities,
            "calls the instances of its own zone and of the zones that take its excess alike",
        ),
        (policy.shed > 0, "shed", ClientFeature::Drops, "drops no calls"),
        (
            spills(policy),
            "empty",
            ClientFeature::Priorities,
            "leaves a subset only if the registry finds no routable instance, not if it cannot connect to any",
        ),
        (
            !policy.fallback.is_empty(),
            "fallback",
            ClientFeature::Priorities,
            "calls a fallback only if the registry finds no routable instance, not if it cannot connect to any",
        ),
    ];
    for (_, field, feature, behaviour) in uses.into_iter().filter(|(is_used, ..)| *is_used) {
        found.require(feature, field.to_owned(), behaviour);
    }
    found.found
}

/// Returns whether the calls of some subset go to the rest of the service while it has no instances.
fn spills(policy: &EffectivePolicy) -> bool {
    policy.splits().flatten().any(|split| split.empty == EmptySubset::Spill)
}

/// Limitations of a family that have been found.
struct LimitationList {
    family: ClientFamily,
    found: Vec<Limitation>,
}

impl LimitationList {
    /// Adds a limitation if the family lacks a feature. It gets all the same what the feature would use.
    fn require(&mut self, feature: ClientFeature, field: String, behaviour: &'static str) {
        if self.family.has(feature) {
            return;
        }
        let is_unknown = self.family.library() == ClientLibrary::Unknown;
        let behaviour = if is_unknown { UNKNOWN_LIBRARY } else { behaviour };
        self.found.push(Limitation { field, behaviour, since: feature.since(self.family.library()) });
    }

    fn balancing(&mut self, lb: LoadBalancing) {
        let feature = match lb {
            LoadBalancing::RoundRobin => return,
            LoadBalancing::LeastRequest => ClientFeature::LeastRequest,
            LoadBalancing::RingHash => ClientFeature::RingHash,
            LoadBalancing::Weighted => ClientFeature::ClientSideWeights,
        };
        let library = self.family.library();
        let behaviour = match (lb, library) {
            (LoadBalancing::RingHash, ClientLibrary::Envoy) => "takes a random instance for calls without a key",
            _ if self.family.has(feature) => return,
            (_, ClientLibrary::Tonic) => "takes the instance with fewer open calls, of two random ones",
            _ => "uses round robin",
        };
        let since = feature.since(library).filter(|_| !self.family.has(feature));
        self.found.push(Limitation { field: "lb".to_owned(), behaviour, since });
    }

    /// Adds the limitations of what the policy and its routes have.
    fn calls(&mut self, place: &str, timeout: Duration, retry: Option<&RetryPolicy>) {
        if !timeout.is_zero() {
            let behaviour = "limits calls by the caller's deadline only";
            self.require(ClientFeature::StreamDuration, format!("{place}timeout"), behaviour);
            let is_core = matches!(self.family.library(), ClientLibrary::Core | ClientLibrary::Php);
            if is_core && self.family.has(ClientFeature::StreamDuration) {
                let behaviour = "ends calls up to a second late";
                self.found.push(Limitation { field: format!("{place}timeout"), behaviour, since: None });
            }
        }
        if retry.is_some_and(|retry| retry.attempts > 0) {
            self.require(ClientFeature::Retries, format!("{place}retry"), "does not retry failed calls");
        }
    }
}
