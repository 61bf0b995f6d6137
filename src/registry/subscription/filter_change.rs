//! Change of the filter of a subscription while it is open.

use std::{collections::HashSet, sync::Arc};

use super::{Delta, DeltaKind, Event, ResetReason, Step, Subscription, fold::fold};
use crate::{
    model::ServerActor,
    registry::{Attachment, Change, Registry},
};

impl Subscription {
    /// Replaces the filter by the next one, and returns the differences up to the newest revision. `None`: there was nothing for this
    /// reader in a part of the log.
    pub(super) fn change_filter(&mut self, registry: &Registry) -> Option<Step> {
        let (next, at) = self.next_filter.clone()?;
        let snapshot = registry.snapshot(&self.selector);
        let Some((mut events, until)) = registry.since(&self.selector, self.cursor) else {
            return Some(self.reset(ResetReason::Compacted));
        };
        if until < snapshot.revision {
            // The rest of the log is read first, with the present filter.
            self.cursor = until;
            let last = events.last().map_or(until, |event| event.revision);
            let deltas = fold(events, &self.filter, &self.filter);
            return (!deltas.is_empty()).then_some(Step::Changes(deltas, last));
        }
        events.retain(|event| event.revision <= snapshot.revision);
        let changed: HashSet<_> = events.iter().map(|event| (event.service().clone(), event.id().clone())).collect();
        let chunks = snapshot.services.iter().flat_map(|chunks| chunks.iter());
        let unchanged = chunks
            .flat_map(|chunk| chunk.entries())
            .filter(|entry| !changed.contains(&(entry.instance.service.clone(), entry.instance.id.clone())));
        let moved = unchanged.filter_map(|entry| {
            let kind = match (self.filter.matches(entry), next.matches(entry)) {
                (false, true) => DeltaKind::Updated,
                (true, false) => DeltaKind::NoLongerMatches,
                (true, true) | (false, false) => return None,
            };
            // No event of the registry: the instance itself has not changed.
            let event = Event {
                revision: snapshot.revision,
                at,
                change: Change::Changed(Arc::clone(entry), Arc::clone(entry)),
                caller: Arc::clone(ServerActor::InProcess.caller()),
                attachment: Attachment::new(),
            };
            Some(Delta { event: Arc::new(event), kind })
        });
        let moved: Vec<_> = moved.collect();
        let mut deltas = fold(events, &self.filter, &next);
        deltas.extend(moved);
        self.cursor = snapshot.revision;
        self.use_filter(next);
        (!deltas.is_empty()).then_some(Step::Changes(deltas, snapshot.revision))
    }
}
