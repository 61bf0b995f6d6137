//! Folding of events into differences.

use std::{collections::HashMap, sync::Arc};

use super::{Delta, DeltaKind, Entry, Event, filter::SubscriptionFilter};

/// Folds the events of each instance into one difference: from its state before the first to its state after the last. `old` and
/// `new`: filters of the reader before and after. The result is in the order of the revisions.
pub(super) fn fold(events: Vec<Arc<Event>>, old: &SubscriptionFilter, new: &SubscriptionFilter) -> Vec<Delta> {
    let delta = |before: Option<&Arc<Entry>>, last: Arc<Event>| {
        let was_known = before.is_some_and(|entry| old.matches(entry));
        let kind = match last.after() {
            Some(entry) if new.matches(entry) => DeltaKind::Updated,
            Some(_) if was_known => DeltaKind::NoLongerMatches,
            None if was_known => DeltaKind::Removed,
            Some(_) | None => return None,
        };
        Some(Delta { event: last, kind })
    };
    if events.len() <= 1 {
        return events.into_iter().filter_map(|event| delta(event.before().cloned().as_ref(), event)).collect();
    }
    // By instance: the entry before the first event, and the last event.
    let mut folded: HashMap<_, (Option<Arc<Entry>>, Arc<Event>)> = HashMap::new();
    for event in events {
        let instance = (event.service().clone(), event.id().clone());
        folded
            .entry(instance)
            .and_modify(|(_, last)| *last = Arc::clone(&event))
            .or_insert_with(|| (event.before().cloned(), event));
    }
    let mut deltas: Vec<Delta> =
        folded.into_values().filter_map(|(before, last)| delta(before.as_ref(), last)).collect();
    deltas.sort_unstable_by_key(|delta| delta.event.revision);
    deltas
}
