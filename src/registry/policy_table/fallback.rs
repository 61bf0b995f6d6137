//! Graph of fallbacks: which services take the calls of which other ones.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::model::{FieldError, ServiceName};

/// Maximum number of fallbacks that lead from one service to the next.
pub(super) const MAX_FALLBACK_DEPTH: usize = 4;
/// Maximum number of services that take over from one service. Each is a priority of its own for clients.
const MAX_FALLBACKS: usize = 16;

/// Fallbacks of all services, in both directions.
#[derive(Debug, Default)]
pub(super) struct FallbackGraph {
    /// Fallbacks of each service that has some.
    fallbacks: BTreeMap<ServiceName, Vec<ServiceName>>,
    /// Services that name a service as a fallback.
    named_by: BTreeMap<ServiceName, BTreeSet<ServiceName>>,
}

impl FallbackGraph {
    /// Sets the fallbacks of a service.
    pub(super) fn replace(&mut self, service: &ServiceName, fallback: &[ServiceName]) {
        for old in self.fallbacks.remove(service).unwrap_or_default() {
            if let Some(names) = self.named_by.get_mut(&old) {
                names.remove(service);
                if names.is_empty() {
                    self.named_by.remove(&old);
                }
            }
        }
        for new in fallback {
            self.named_by.entry(new.clone()).or_default().insert(service.clone());
        }
        if !fallback.is_empty() {
            self.fallbacks.insert(service.clone(), fallback.to_vec());
        }
    }

    /// Returns the services that reach this one through at most [`MAX_FALLBACK_DEPTH`] fallbacks, by name.
    pub(super) fn dependents_of(&self, service: &ServiceName) -> Vec<ServiceName> {
        let (mut found, mut newest) = (BTreeSet::new(), BTreeSet::from([service]));
        for _ in 0..MAX_FALLBACK_DEPTH {
            let next = newest.iter().filter_map(|name| self.named_by.get(*name)).flatten();
            newest = next.filter(|name| *name != service && found.insert((*name).clone())).collect();
        }
        found.into_iter().collect()
    }

    /// Verifies that a service may have these fallbacks.
    ///
    /// # Errors
    ///
    /// When the service would take its own calls, when more than [`MAX_FALLBACK_DEPTH`] fallbacks would lead from one service to the
    /// next, or when more than [`MAX_FALLBACKS`] services would take over from one.
    pub(super) fn validate(&self, service: &ServiceName, fallback: &[ServiceName]) -> Result<(), FieldError> {
        if fallback.is_empty() {
            return Ok(());
        }
        if let Some(cycle) = self.path_back(service, fallback) {
            let problem = format!("leads back to the service ({})", chain(&cycle));
            let hint = "leave out one of these fallbacks";
            return Err(FieldError::new("fallback", cycle[1].as_str(), problem, hint));
        }
        let below = |name: &ServiceName| if name == service { fallback } else { self.fallbacks_of(name) }.iter();
        let above = |name: &ServiceName| self.named_by.get(name).into_iter().flatten();
        let mut longest = longest_chain(service, &above, MAX_FALLBACK_DEPTH + 1, &mut HashMap::new());
        longest.reverse();
        let rest = longest_chain(service, &below, MAX_FALLBACK_DEPTH + 1, &mut HashMap::new());
        longest.extend(rest.into_iter().skip(1));
        if longest.len() - 1 > MAX_FALLBACK_DEPTH {
            let problem = format!("makes a chain of {} fallbacks ({})", longest.len() - 1, chain(&longest));
            let hint = format!("leave out one of these fallbacks: {MAX_FALLBACK_DEPTH} may follow each other");
            return Err(FieldError::without_value("fallback", problem, hint));
        }
        let dependents = self.dependents_of(service);
        let mut growing = [service].into_iter().chain(&dependents);
        growing.find(|name| reached_from(name, &below).len() > MAX_FALLBACKS).map_or(Ok(()), |name| {
            let problem = format!("lets more than {MAX_FALLBACKS} services take over from {:?}", name.as_str());
            let hint = "leave out some, here or in the policies of the fallbacks";
            Err(FieldError::without_value("fallback", problem, hint))
        })
    }

    fn fallbacks_of(&self, service: &ServiceName) -> &[ServiceName] {
        self.fallbacks.get(service).map(|fallback| &**fallback).unwrap_or_default()
    }

    /// Returns the shortest way from a service over these fallbacks back to itself.
    fn path_back(&self, service: &ServiceName, fallback: &[ServiceName]) -> Option<Vec<ServiceName>> {
        let mut came_from: HashMap<&ServiceName, &ServiceName> = HashMap::new();
        let mut queue: VecDeque<(&ServiceName, &ServiceName)> = fallback.iter().map(|name| (name, service)).collect();
        while let Some((name, from)) = queue.pop_front() {
            if came_from.contains_key(name) {
                continue;
            }
            came_from.insert(name, from);
            if name == service {
                let mut path = vec![service.clone()];
                let mut at = from;
                while at != service {
                    path.push(at.clone());
                    at = came_from.get(at)?;
                }
                path.push(service.clone());
                path.reverse();
                return Some(path);
            }
            queue.extend(self.fallbacks_of(name).iter().map(|next| (next, name)));
        }
        None
    }
}

/// Returns the longest chain of up to `depth` services after a service, which it begins with. `next`: the services that can follow one.
/// `known`: chains that are known, by their first service and their depth.
fn longest_chain<'a, I: Iterator<Item = &'a ServiceName>>(
    service: &ServiceName,
    next: &impl Fn(&ServiceName) -> I,
    depth: usize,
    known: &mut HashMap<(ServiceName, usize), Vec<ServiceName>>,
) -> Vec<ServiceName> {
    if let Some(chain) = known.get(&(service.clone(), depth)) {
        return chain.clone();
    }
    let rest = match depth.checked_sub(1) {
        Some(rest) => next(service).map(|name| longest_chain(name, next, rest, known)).max_by_key(Vec::len),
        None => None,
    };
    let chain: Vec<_> = [service.clone()].into_iter().chain(rest.unwrap_or_default()).collect();
    known.insert((service.clone(), depth), chain.clone());
    chain
}

/// Returns the services that take over from a service. `next`: the fallbacks of a service.
fn reached_from<'a, I: Iterator<Item = &'a ServiceName>>(
    service: &ServiceName,
    next: &impl Fn(&ServiceName) -> I,
) -> BTreeSet<&'a ServiceName> {
    let (mut found, mut newest) = (BTreeSet::new(), next(service).collect::<Vec<_>>());
    while let Some(name) = newest.pop() {
        if found.insert(name) {
            newest.extend(next(name));
        }
    }
    found
}

fn chain(services: &[ServiceName]) -> String {
    let names: Vec<_> = services.iter().map(ServiceName::as_str).collect();
    names.join(" -> ")
}
