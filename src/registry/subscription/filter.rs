//! Filter of a subscription: that of the request, and that of a subset, which changes with the policy.

use std::sync::Arc;

use super::Entry;
use crate::model::{InstanceFilter, Selector, SubsetName};

/// Filter of a subscription. An instance must match both parts.
#[derive(Debug, Clone)]
pub(super) struct SubscriptionFilter {
    request: Option<Arc<InstanceFilter>>,
    subset: Option<Arc<(SubsetName, InstanceFilter)>>,
}

impl SubscriptionFilter {
    /// Creates the filter of a request.
    pub(super) fn new(request: Option<Arc<InstanceFilter>>) -> Self {
        Self { request, subset: None }
    }

    /// Returns the filter with another subset.
    pub(super) fn with_subset(&self, name: SubsetName, filter: InstanceFilter) -> Self {
        Self { request: self.request.clone(), subset: Some(Arc::new((name, filter))) }
    }

    /// Returns whether every instance matches.
    pub(super) fn is_empty(&self) -> bool {
        self.request.is_none() && self.subset.is_none()
    }

    pub(super) fn matches(&self, entry: &Entry) -> bool {
        let instance = &entry.instance;
        self.request.as_ref().is_none_or(|filter| filter.matches(instance))
            && self.subset.as_ref().is_none_or(|subset| subset.1.matches(instance))
    }

    /// Digest of a selector with this filter, for tokens.
    pub(super) fn digest(&self, selector: &Selector) -> u64 {
        let request = self.request.as_ref().map_or("", |filter| filter.as_str());
        match self.subset.as_deref() {
            None => selector.digest(request),
            Some((name, filter)) => selector.digest(&format!("{name}\0{}\0{request}", filter.as_str())),
        }
    }
}
