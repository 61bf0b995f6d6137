//! Subscriptions: a reader's position in the order of changes, and the next step to send it.
//!
//! A subscription is a cursor: it stores no unsent changes, even if it is far behind.
//!
//! ```text
//!   no token ──────────────► Snapshot* ─► Synced ─► (Changes | Idle)*
//!   token that fits ───────► Changes* ──► Synced ─► (Changes | Idle)*
//!   token that does not ───► Reset ─► Snapshot* ─► Synced ─► …
//!     … of an earlier incarnation ─► Settling* ─► Reset ─► …     (while the registry settles)
//!   history dropped ───────► Reset ─► Snapshot* ─► Synced ─► …      (at any time later)
//! ```
//!
//! Not here: when to take the next step (readers are woken from elsewhere), encoding, and bookmarks, which depend on time.

use std::{collections::HashMap, sync::Arc};

use super::{
    Registry,
    event::{Entry, Event},
    instance_map::Chunk,
    snapshot::Snapshot,
};
use crate::model::{InstanceFilter, ResumeToken, Revision, Selector};

/// Next step of a reader.
#[derive(Debug)]
pub enum Step {
    /// The reader's position is lost: a snapshot follows.
    Reset(ResetReason),
    /// Part of the snapshot.
    Snapshot(SnapshotChunk),
    /// The snapshot, or the changes since the token, are complete: the reader is at this revision.
    Synced(Revision),
    /// Differences between the reader's revision and this one. Not empty; each instance at most once.
    Changes(Vec<Delta>, Revision),
    /// Nothing for now.
    Idle,
    /// Nothing until the registry has settled: the token is of an earlier incarnation, whose instances may still register
    /// again.
    Settling,
}

/// Part of a snapshot.
#[derive(Debug)]
pub enum SnapshotChunk {
    /// All entries of a chunk.
    Chunk(Arc<Chunk>),
    /// Entries of a chunk that match the filter.
    Matching(Vec<Arc<Entry>>),
}

/// Difference of one instance.
#[derive(Debug)]
pub struct Delta {
    /// Last event of the instance in the step.
    pub event: Arc<Event>,
    /// Meaning for this reader.
    pub kind: DeltaKind,
}

/// Meaning of an event for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaKind {
    /// The instance is new to the reader, or has changed.
    Updated,
    /// The instance was removed.
    Removed,
    /// The instance no longer matches the reader's filter.
    NoLongerMatches,
}

/// Reason for which a reader's position is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// The token is of another incarnation of the registry.
    OtherIncarnation,
    /// The token was made for another selector or filter.
    OtherSelector,
    /// Events since the token or the cursor have been dropped from the logs.
    Compacted,
    /// The token is of a revision that the registry has not reached.
    FutureRevision,
}

/// Position of a reader.
#[derive(Debug)]
pub struct Subscription {
    selector: Arc<Selector>,
    filter: Option<Arc<InstanceFilter>>,
    /// Digest of the selector and the filter, for tokens.
    digest: u64,
    /// Revision up to which the reader has been sent everything.
    cursor: Revision,
    phase: SubscriptionPhase,
}

#[derive(Debug)]
enum SubscriptionPhase {
    /// Nothing was sent yet.
    New(Option<ResumeToken>),
    /// A snapshot is to be taken.
    Starting,
    /// A snapshot is being sent.
    Snapshot(SnapshotCursor),
    /// Changes since the token are being sent, up to this revision at least.
    CatchingUp(Revision),
    /// Everything was sent once.
    Live,
}

impl Subscription {
    /// Creates a subscription for a reader that has been sent nothing, or everything up to the token.
    #[must_use]
    pub fn new(selector: Arc<Selector>, filter: Option<Arc<InstanceFilter>>, token: Option<ResumeToken>) -> Self {
        let digest = selector.digest(filter.as_ref().map_or("", |filter| filter.as_str()));
        Self { selector, filter, digest, cursor: Revision::default(), phase: SubscriptionPhase::New(token) }
    }

    /// Selector.
    #[must_use]
    pub fn selector(&self) -> &Arc<Selector> {
        &self.selector
    }

    /// Filter.
    #[must_use]
    pub fn filter(&self) -> Option<&Arc<InstanceFilter>> {
        self.filter.as_ref()
    }

    /// Revision up to which the reader has been sent everything.
    #[must_use]
    pub fn cursor(&self) -> Revision {
        self.cursor
    }

    /// Returns whether the reader has been sent everything once. From then on, each step is about changes that have
    /// just happened.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.phase, SubscriptionPhase::Live)
    }

    /// Returns the token with which another stream can resume from a revision of this one.
    #[must_use]
    pub fn token(&self, registry: &Registry, revision: Revision) -> ResumeToken {
        ResumeToken { incarnation: registry.incarnation(), revision, selector_digest: self.digest }
    }

    /// Returns whether the reader is sent nothing until the registry has settled.
    #[must_use]
    pub fn awaits_settling(&self, registry: &Registry) -> bool {
        matches!(self.phase, SubscriptionPhase::New(Some(token)) if registry.must_settle(token.incarnation))
    }

    /// Returns the next step of the reader.
    pub fn next(&mut self, registry: &Registry) -> Step {
        if self.awaits_settling(registry) {
            return Step::Settling;
        }
        loop {
            let step = match &mut self.phase {
                SubscriptionPhase::New(token) => {
                    let token = token.take();
                    self.phase = SubscriptionPhase::Starting;
                    token.and_then(|token| self.resume(token, registry))
                }
                SubscriptionPhase::Starting => {
                    let snapshot = registry.snapshot(&self.selector);
                    self.phase = SubscriptionPhase::Snapshot(SnapshotCursor::new(snapshot));
                    None
                }
                SubscriptionPhase::Snapshot(position) => {
                    if let Some(chunk) = position.next() {
                        filtered(chunk, self.filter.as_deref()).map(Step::Snapshot)
                    } else {
                        self.cursor = position.snapshot.revision;
                        self.phase = SubscriptionPhase::Live;
                        Some(Step::Synced(self.cursor))
                    }
                }
                SubscriptionPhase::CatchingUp(_) | SubscriptionPhase::Live => self.follow(registry),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    /// Starts at the token if it fits, and resets the reader otherwise.
    fn resume(&mut self, token: ResumeToken, registry: &Registry) -> Option<Step> {
        if let Some(reason) = mismatch(token, self.digest, registry) {
            return Some(self.reset(reason));
        }
        self.cursor = token.revision;
        self.phase = SubscriptionPhase::CatchingUp(registry.applied());
        None
    }

    /// Reads events after the cursor. `None`: there was nothing for this reader among them, but there are more.
    fn follow(&mut self, registry: &Registry) -> Option<Step> {
        if let SubscriptionPhase::CatchingUp(goal) = self.phase
            && self.cursor >= goal
        {
            self.phase = SubscriptionPhase::Live;
            return Some(Step::Synced(self.cursor));
        }
        let newest = registry.applied();
        if newest <= self.cursor {
            return Some(Step::Idle);
        }
        let Some((events, until)) = registry.since(&self.selector, self.cursor) else {
            return Some(self.reset(ResetReason::Compacted));
        };
        self.cursor = until;
        // The step has the revision of its last event. A later revision would differ between readers of the same selection. An
        // earlier one would be wrong even where folding leaves only an earlier event, because the step covers all of them.
        let last = events.last().map_or(until, |event| event.revision);
        let changes = fold(events, self.filter.as_deref());
        if !changes.is_empty() {
            return Some(Step::Changes(changes, last));
        }
        (until >= newest && self.is_live()).then_some(Step::Idle)
    }

    fn reset(&mut self, reason: ResetReason) -> Step {
        self.phase = SubscriptionPhase::Starting;
        Step::Reset(reason)
    }
}

/// Returns the reason for which a token does not fit, apart from dropped history.
fn mismatch(token: ResumeToken, digest: u64, registry: &Registry) -> Option<ResetReason> {
    if token.incarnation != registry.incarnation() {
        Some(ResetReason::OtherIncarnation)
    } else if token.selector_digest != digest {
        Some(ResetReason::OtherSelector)
    } else if token.revision > registry.applied() {
        Some(ResetReason::FutureRevision)
    } else {
        None
    }
}

/// Position in a snapshot. Services that were sent are dropped.
#[derive(Debug)]
struct SnapshotCursor {
    snapshot: Snapshot,
    /// Index of the next chunk, in the last service.
    chunk: usize,
}

impl SnapshotCursor {
    fn new(mut snapshot: Snapshot) -> Self {
        snapshot.services.reverse();
        Self { snapshot, chunk: 0 }
    }

    fn next(&mut self) -> Option<Arc<Chunk>> {
        while let Some(chunks) = self.snapshot.services.last() {
            if let Some(chunk) = chunks.get(self.chunk) {
                self.chunk += 1;
                return Some(Arc::clone(chunk));
            }
            self.snapshot.services.pop();
            self.chunk = 0;
        }
        None
    }
}

/// Returns the part of a chunk that matches a filter. `None`: nothing matches.
fn filtered(chunk: Arc<Chunk>, filter: Option<&InstanceFilter>) -> Option<SnapshotChunk> {
    let Some(filter) = filter else {
        return Some(SnapshotChunk::Chunk(chunk));
    };
    let matching: Vec<_> = chunk.entries().iter().filter(|entry| filter.matches(&entry.instance)).cloned().collect();
    (!matching.is_empty()).then_some(SnapshotChunk::Matching(matching))
}

/// Folds the events of each instance into one difference: from its state before the first to its state after the last.
fn fold(events: Vec<Arc<Event>>, filter: Option<&InstanceFilter>) -> Vec<Delta> {
    let matches = |entry: &Arc<Entry>| filter.is_none_or(|filter| filter.matches(&entry.instance));
    let delta = |before: Option<&Arc<Entry>>, last: Arc<Event>| {
        let was_known = before.is_some_and(matches);
        let kind = match last.after() {
            Some(entry) if matches(entry) => DeltaKind::Updated,
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
