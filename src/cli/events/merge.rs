//! Merge of the event logs of several replicas.

use std::{
    collections::{BTreeMap, VecDeque},
    iter::from_fn,
};

use super::{EventLogView, EventView};
use crate::cli::replicas::ReplicaItem;

/// Merges the logs of replicas, each with the newest event last. Replicas of one registry have the same incarnation, so their
/// events of one revision are one event: it is listed once, with the names of all replicas that have it.
///
/// Events of one incarnation are in the order of their revisions, others in that of their times.
pub(super) fn merged(logs: Vec<(String, EventLogView)>) -> Vec<ReplicaItem<EventView>> {
    let mut registries: BTreeMap<u64, BTreeMap<u64, ReplicaItem<EventView>>> = BTreeMap::new();
    for (replica, EventLogView { incarnation, events }) in logs {
        let registry = registries.entry(incarnation).or_default();
        for item in events {
            if let Some(known) = registry.get_mut(&item.revision) {
                known.replica = format!("{},{replica}", known.replica);
            } else {
                registry.insert(item.revision, ReplicaItem { replica: replica.clone(), item });
            }
        }
    }
    let mut logs: Vec<VecDeque<_>> =
        registries.into_values().map(|registry| registry.into_values().collect()).collect();
    let oldest = from_fn(|| {
        let log = logs.iter_mut().filter(|log| !log.is_empty());
        // RFC 3339 in UTC: the order of the texts is that of the times.
        let log = log.min_by(|one, other| {
            let time = |log: &VecDeque<ReplicaItem<EventView>>| log.front().and_then(|event| event.item.time.clone());
            time(one).cmp(&time(other))
        });
        log?.pop_front()
    });
    oldest.collect()
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;
    use crate::pb::callboard::v1::Event;

    /// Name of a replica, its incarnation, and the revisions and times of its events.
    type LogOf<'a> = (&'a str, u64, &'a [(u64, i64)]);

    fn log(incarnation: u64, events: &[(u64, i64)]) -> EventLogView {
        let event = |(revision, seconds): &(u64, i64)| {
            let time = Some(Timestamp { seconds: *seconds, nanos: 0 });
            EventView::from(Event { revision: *revision, time, ..Event::default() })
        };
        EventLogView { incarnation, events: events.iter().map(event).collect() }
    }

    fn shown(logs: &[LogOf<'_>]) -> Vec<String> {
        let logs = logs.iter().map(|(replica, incarnation, events)| ((*replica).to_owned(), log(*incarnation, events)));
        merged(logs.collect()).iter().map(|event| format!("{} {}", event.replica, event.item.revision)).collect()
    }

    #[test]
    fn event_of_several_replicas_of_one_registry_is_listed_once() {
        let listed =
            shown(&[("a", 7, &[(1, 10), (2, 11)]), ("b", 7, &[(1, 10), (2, 11), (3, 12)]), ("c", 7, &[(2, 11)])]);
        assert_eq!(listed, ["a,b 1", "a,b,c 2", "b 3"]);
    }

    #[test]
    fn events_of_separate_registries_are_all_listed_in_the_order_of_their_times() {
        let listed = shown(&[("a", 7, &[(1, 10), (2, 13)]), ("b", 8, &[(1, 11), (2, 12)])]);
        assert_eq!(listed, ["a 1", "b 1", "b 2", "a 2"]);
    }

    #[test]
    fn events_of_one_registry_stay_in_the_order_of_their_revisions_after_the_clock_went_back() {
        assert_eq!(shown(&[("a", 7, &[(1, 20), (2, 5)]), ("b", 8, &[(9, 10)])]), ["b 9", "a 1", "a 2"]);
    }
}
