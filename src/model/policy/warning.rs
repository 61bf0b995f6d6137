//! Warnings about valid policies: effects on the present instances that are probably not intended.

use super::{EffectivePolicy, EmptySubset, HeaderCondition, HeaderMatch, MethodMatch, PolicyRoute, Split};
use crate::model::{Instance, ServiceName};

/// Warning about a field of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyWarning {
    /// Place of the field in the document: `subsets.v2`.
    pub field: String,
    /// Problem: `matches none of the 12 instances`.
    pub problem: String,
    /// Remedy.
    pub hint: String,
}

impl PolicyWarning {
    fn new(field: impl Into<String>, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into(), hint: hint.into() }
    }
}

impl EffectivePolicy {
    /// Returns the warnings about the policy of a service with these instances. `is_routable`: whether a service has a routable
    /// instance, for the fallbacks.
    #[must_use]
    pub fn warnings(&self, instances: &[&Instance], is_routable: impl Fn(&ServiceName) -> bool) -> Vec<PolicyWarning> {
        let members = SubsetMembers::new(self, instances);
        let mut warnings = Vec::new();
        if instances.is_empty() && !self.subsets.is_empty() {
            let hint = "register instances, or correct the name of the service";
            warnings.push(PolicyWarning::new("subsets", "match nothing: the service has no instances", hint));
        } else {
            warnings.extend(self.subset_warnings(&members));
            warnings.extend(self.split_warnings(&members));
            warnings.extend(self.unreached_instances(&members));
        }
        warnings.extend(self.unreached_routes());
        let empty = self.fallback.iter().enumerate().filter(|(_, service)| !is_routable(service));
        warnings.extend(empty.map(|(at, service)| {
            let problem = format!("names {:?}, which has no routable instance", service.as_str());
            PolicyWarning::new(format!("fallback[{at}]"), problem, "register instances of it, or remove it")
        }));
        warnings.extend(self.outlier_warning(members.count_routable(|_| true)));
        warnings
    }

    fn subset_warnings(&self, members: &SubsetMembers) -> Vec<PolicyWarning> {
        let mut warnings = Vec::new();
        let names: Vec<_> = self.subsets.keys().collect();
        for (at, name) in names.iter().enumerate() {
            let field = format!("subsets.{name}");
            if members.count(|mask| mask & 1 << at != 0) == 0 {
                let problem = format!("matches none of the {}", instance_count(members.instances.len()));
                let hint = "change the filter, or register instances that it matches";
                warnings.push(PolicyWarning::new(field, problem, hint));
                continue;
            }
            let overlap = |other: usize| members.count(|mask| mask & 1 << at != 0 && mask & 1 << other != 0);
            let others: Vec<_> =
                (0..at).filter(|other| overlap(*other) > 0).map(|other| names[other].as_str()).collect();
            if !others.is_empty() {
                let before = (1 << at) - 1;
                let shared = members.count(|mask| mask & 1 << at != 0 && mask & before != 0);
                let problem = format!("has {} in common with {}", instance_count(shared), others.join(", "));
                let hint =
                    "let the filters exclude each other: most clients connect once for each subset of an instance";
                warnings.push(PolicyWarning::new(field, problem, hint));
            }
        }
        warnings
    }

    /// Returns the splits of the policy with their places. `None`: the whole service.
    fn placed_splits(&self) -> impl Iterator<Item = (String, Option<&Split>)> {
        let routes = self.routes.iter().enumerate();
        let routes = routes.map(|(at, route)| (format!("route[{at}].to"), route.split.as_ref()));
        let all = self.routes.iter().any(PolicyRoute::matches_all);
        routes.chain((!all).then(|| ("default".to_owned(), self.default_split.as_ref())))
    }

    fn split_warnings(&self, members: &SubsetMembers) -> Vec<PolicyWarning> {
        let mut warnings = Vec::new();
        for (place, split) in self.placed_splits() {
            let Some(split) = split else { continue };
            for (subset, share) in &split.shares {
                let at = self.subsets.keys().position(|name| name == subset);
                if members.count_routable(|mask| at.is_some_and(|at| mask & 1 << at != 0)) > 0 {
                    continue;
                }
                let problem = format!("sends {share} % of its calls to a subset without routable instances");
                let hint = match split.empty {
                    EmptySubset::Spill => {
                        "register instances of it; until then, the rest of the service takes the calls"
                    }
                    EmptySubset::Fail => "register instances of it; until then, the calls fail",
                };
                warnings.push(PolicyWarning::new(format!("{place}.{subset}"), problem, hint));
            }
        }
        warnings
    }

    /// Returns a warning if no split reaches instances that are in no subset. Those of a subset without calls are meant to get none.
    fn unreached_instances(&self, members: &SubsetMembers) -> Option<PolicyWarning> {
        let mut last = String::new();
        for (place, split) in self.placed_splits() {
            split?;
            last = place;
        }
        let unreached = members.count_routable(|mask| mask == 0);
        (unreached > 0).then(|| {
            let of = members.count_routable(|_| true);
            let problem = format!("leaves {unreached} of {of} routable instances without calls: they are in no subset");
            PolicyWarning::new(last, problem, "add a subset for them, or change a filter")
        })
    }

    fn unreached_routes(&self) -> impl Iterator<Item = PolicyWarning> {
        self.routes.iter().enumerate().filter_map(|(at, route)| {
            let earlier = self.routes[..at].iter().position(|earlier| earlier.covers(route))?;
            let problem = format!("is never reached: route[{earlier}] matches all of its calls");
            Some(PolicyWarning::new(format!("route[{at}]"), problem, format!("move it before route[{earlier}]")))
        })
    }

    fn outlier_warning(&self, routable: usize) -> Option<PolicyWarning> {
        let hosts = self.outlier?.hosts;
        let is_too_many = routable > 0 && usize::try_from(hosts).map_or(true, |hosts| hosts > routable);
        is_too_many.then(|| {
            let problem = format!("is {hosts}: with {routable} routable, no instance is ever ejected");
            PolicyWarning::new(
                "outlier.hosts",
                problem,
                format!("write at most {routable}, or register more instances"),
            )
        })
    }
}

/// Returns a number of instances in words.
fn instance_count(count: usize) -> String {
    if count == 1 { "1 instance".to_owned() } else { format!("{count} instances") }
}

/// Subsets of each instance, as bits in the order of their names.
struct SubsetMembers {
    /// Bits, and whether the instance is routable.
    instances: Vec<(u32, bool)>,
}

impl SubsetMembers {
    fn new(policy: &EffectivePolicy, instances: &[&Instance]) -> Self {
        let mask = |instance: &Instance| {
            let subsets = policy.subsets.values().enumerate();
            subsets.fold(0, |mask, (at, subset)| mask | u32::from(subset.filter.matches(instance)) << at)
        };
        let instances = instances.iter().map(|instance| (mask(instance), instance.status().is_routable()));
        Self { instances: instances.collect() }
    }

    fn count(&self, has: impl Fn(u32) -> bool) -> usize {
        self.instances.iter().filter(|(mask, _)| has(*mask)).count()
    }

    fn count_routable(&self, has: impl Fn(u32) -> bool) -> usize {
        self.instances.iter().filter(|(mask, routable)| *routable && has(*mask)).count()
    }
}

impl PolicyRoute {
    /// Returns whether the route certainly matches all calls that the other one matches.
    fn covers(&self, other: &Self) -> bool {
        let implied = |condition: &HeaderCondition| {
            other.headers.iter().any(|stricter| {
                let is_present = !matches!(stricter.matches, HeaderMatch::Absent);
                stricter.name == condition.name
                    && (stricter.matches == condition.matches
                        || condition.matches == HeaderMatch::Present && is_present)
            })
        };
        let method = match (&self.method, &other.method) {
            (None, _) => true,
            (Some(MethodMatch::Service(prefix)), Some(MethodMatch::Exact(path))) => path.starts_with(&**prefix),
            (Some(own), Some(other)) => own == other,
            (Some(_), None) => false,
        };
        method && self.headers.iter().all(implied)
    }
}
