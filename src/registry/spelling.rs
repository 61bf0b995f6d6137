//! Services by their names in lower case, for protocols that do not tell the cases apart.

use std::collections::{BTreeMap, BTreeSet};

use crate::{model::ServiceName, sync::RwLock};

/// The names that are not all in lower case, by what they are in lower case. The others are that themselves, so that in most
/// registries there is nothing here. Changes with the map, under the order lock.
#[derive(Debug, Default)]
pub(super) struct Spellings(RwLock<BTreeMap<Box<str>, BTreeSet<ServiceName>>>);

impl Spellings {
    pub(super) fn add(&self, name: &ServiceName) {
        if let Some(folded) = folded(name) {
            self.0.write().entry(folded).or_default().insert(name.clone());
        }
    }

    pub(super) fn remove(&self, name: &ServiceName) {
        let Some(folded) = folded(name) else { return };
        let mut all = self.0.write();
        if let Some(names) = all.get_mut(&folded) {
            names.remove(name);
            if names.is_empty() {
                all.remove(&folded);
            }
        }
    }

    /// Names that are this one in lower case, and not that themselves, in order.
    pub(super) fn all(&self, folded: &str) -> Vec<ServiceName> {
        self.0.read().get(folded).map(|names| names.iter().cloned().collect()).unwrap_or_default()
    }
}

fn folded(name: &ServiceName) -> Option<Box<str>> {
    let upper = name.as_str().bytes().any(|byte| byte.is_ascii_uppercase());
    upper.then(|| name.as_str().to_ascii_lowercase().into())
}
