//! Calls to instances that clients report, until the next update of the effective weights takes them in.

use std::collections::HashMap;

use dashmap::DashMap;

use crate::{balancing::CallCounts, model::ServiceName};

/// Maximum number of instances of a service about which calls are kept until they are taken. Clients tell 256 instances apart.
const MAX_INSTANCES: usize = 1_024;

/// Calls of each service whose weights depend on them, by the hashes of the instances' ids.
#[derive(Debug, Default)]
pub(super) struct ReportedCalls {
    services: DashMap<ServiceName, HashMap<u32, CallCounts>>,
}

impl ReportedCalls {
    /// Adds calls to the instances of a service, if its weights depend on them.
    pub(super) fn add(&self, service: &ServiceName, calls: &[(u32, CallCounts)]) {
        let Some(mut known) = self.services.get_mut(service) else { return };
        for (instance, counts) in calls {
            if known.len() < MAX_INSTANCES || known.contains_key(instance) {
                known.entry(*instance).or_default().add(*counts);
            }
        }
    }

    /// Returns the calls since the call before, and begins to keep those of the service.
    pub(super) fn take(&self, service: &ServiceName) -> HashMap<u32, CallCounts> {
        match self.services.get_mut(service) {
            Some(mut known) => std::mem::take(&mut *known),
            None => self.services.insert(service.clone(), HashMap::new()).unwrap_or_default(),
        }
    }

    /// Ceases to keep the calls of a service.
    pub(super) fn forget(&self, service: &ServiceName) {
        self.services.remove(service);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(ended: u64, errors: u64) -> CallCounts {
        CallCounts { ended, errors }
    }

    #[test]
    fn calls_are_summed_for_services_that_need_them_until_they_are_taken() {
        let (calls, web) = (ReportedCalls::default(), ServiceName::parse("web").unwrap());
        calls.add(&web, &[(1, counts(10, 1))]);
        assert!(calls.take(&web).is_empty(), "they were not needed yet");
        calls.add(&web, &[(1, counts(10, 1)), (2, counts(1, 0))]);
        calls.add(&web, &[(1, counts(5, 5))]);
        assert_eq!(calls.take(&web), HashMap::from([(1, counts(15, 6)), (2, counts(1, 0))]));
        assert!(calls.take(&web).is_empty());
        calls.forget(&web);
        calls.add(&web, &[(1, counts(10, 1))]);
        assert!(calls.services.is_empty());
    }

    #[test]
    fn invented_instances_take_no_memory_beyond_the_limit() {
        let (calls, web) = (ReportedCalls::default(), ServiceName::parse("web").unwrap());
        calls.take(&web);
        calls.add(&web, &(0..5_000).map(|hash| (hash, counts(1, 0))).collect::<Vec<_>>());
        calls.add(&web, &[(3, counts(1, 0)), (4_999, counts(1, 0))]);
        let taken = calls.take(&web);
        assert_eq!((taken.len(), taken[&3], taken.get(&4_999)), (MAX_INSTANCES, counts(2, 0), None));
    }
}
