//! Subscriptions: a reader's position in the order of changes, and the next step to send it.
//!
//! A subscription is a cursor: it stores no unsent changes, even if it is far behind.
//!
//! ```text
//!   no token ──────────────► Snapshot* ─► Synced ─► (Changes | Idle)*
//!   token that fits ───────► Changes* ──► Synced ─► (Changes | Idle)*
//!   token that does not ───► Reset ─► Snapshot* ─► Synced ─► …
//!     … of an earlier incarnation ─► Settling* ─► Reset ─► …     (while the registry settles)
//!   token of a replica ahead ──► Behind* ─► Changes* ─► Synced ─► …
//!   history dropped ───────► Reset ─► Snapshot* ─► Synced ─► …      (at any time later)
//!   other incarnation ─────► Settling* ─► Reset ─► Snapshot* ─► Synced ─► …      (at any time later)
//!   other subset filter ───► Changes                                (at any time later)
//! ```
//!
//! Not here: when to take the next step (readers are woken from elsewhere), encoding, and bookmarks, which depend on time.

mod filter;
mod filter_change;
mod fold;

use std::sync::Arc;

use super::{
    ClockReading, Registry,
    event::{Entry, Event},
    instance_map::Chunk,
    snapshot::Snapshot,
};
use crate::model::{Incarnation, InstanceFilter, ResumeToken, Revision, Selector, SubsetName};
use filter::SubscriptionFilter;
use fold::fold;

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
    /// The reader waits until the registry has applied this revision, which another replica has sent to it.
    Behind(Revision),
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
    /// The token is of a revision that the registry has not reached, and no replica has.
    FutureRevision,
}

/// Position of a reader.
#[derive(Debug)]
pub struct Subscription {
    selector: Arc<Selector>,
    filter: SubscriptionFilter,
    /// Digest of the selector and the filter, for tokens.
    digest: u64,
    /// Filter that replaces the present one once everything was sent, and the time at which it was set.
    next_filter: Option<(SubscriptionFilter, ClockReading)>,
    /// Revision up to which the reader has been sent everything.
    cursor: Revision,
    /// Incarnation of the registry that the cursor belongs to. `None`: nothing was sent yet.
    incarnation: Option<Incarnation>,
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
        let filter = SubscriptionFilter::new(filter);
        let (digest, cursor, phase) = (filter.digest(&selector), Revision::default(), SubscriptionPhase::New(token));
        Self { selector, filter, digest, next_filter: None, cursor, incarnation: None, phase }
    }

    /// Restricts the subscription to a subset, which the filter of a policy selects. Called again when that filter changes: the reader
    /// is then sent the differences, and tokens are those of the new filter. `now`: time of the call.
    pub fn set_subset(&mut self, subset: SubsetName, filter: InstanceFilter, now: ClockReading) {
        let filter = self.filter.with_subset(subset, filter);
        if matches!(self.phase, SubscriptionPhase::New(_) | SubscriptionPhase::Starting) {
            self.use_filter(filter);
        } else {
            self.next_filter = Some((filter, now));
        }
    }

    fn use_filter(&mut self, filter: SubscriptionFilter) {
        self.digest = filter.digest(&self.selector);
        self.filter = filter;
        self.next_filter = None;
    }

    /// Selector.
    #[must_use]
    pub fn selector(&self) -> &Arc<Selector> {
        &self.selector
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
        let incarnation = self.incarnation.unwrap_or_else(|| registry.incarnation());
        ResumeToken { incarnation, revision, selector_digest: self.digest }
    }

    /// Returns whether the reader is sent nothing until the registry has settled.
    #[must_use]
    pub fn awaits_settling(&self, registry: &Registry) -> bool {
        match self.phase {
            SubscriptionPhase::New(token) => token.is_some_and(|token| registry.must_settle(token.incarnation)),
            SubscriptionPhase::Starting
            | SubscriptionPhase::Snapshot(_)
            | SubscriptionPhase::CatchingUp(_)
            | SubscriptionPhase::Live => self.incarnation.is_some_and(|incarnation| registry.must_settle(incarnation)),
        }
    }

    /// Returns the revision of the token if another replica is ahead of this one. Where there are no replicas, a revision that was not
    /// reached is lost.
    fn awaits_revision(&self, registry: &Registry) -> Option<Revision> {
        let SubscriptionPhase::New(Some(token)) = self.phase else { return None };
        let is_ahead = mismatch(token, self.digest, registry) == Some(ResetReason::FutureRevision);
        (is_ahead && registry.has_replicas()).then_some(token.revision)
    }

    /// Returns the next step of the reader.
    pub fn next(&mut self, registry: &Registry) -> Step {
        loop {
            if self.awaits_settling(registry) {
                return Step::Settling;
            }
            if self.incarnation.is_some_and(|incarnation| incarnation != registry.incarnation()) {
                return self.reset(ResetReason::OtherIncarnation);
            }
            if let Some(revision) = self.awaits_revision(registry) {
                return Step::Behind(revision);
            }
            let step = match &mut self.phase {
                SubscriptionPhase::New(token) => {
                    let token = token.take();
                    self.phase = SubscriptionPhase::Starting;
                    token.and_then(|token| self.resume(token, registry))
                }
                SubscriptionPhase::Starting => {
                    if let Some((filter, _)) = self.next_filter.take() {
                        self.use_filter(filter);
                    }
                    self.incarnation = Some(registry.incarnation());
                    let snapshot = registry.snapshot(&self.selector);
                    self.phase = SubscriptionPhase::Snapshot(SnapshotCursor::new(snapshot));
                    None
                }
                SubscriptionPhase::Snapshot(position) => {
                    if let Some(chunk) = position.next() {
                        filtered(chunk, &self.filter).map(Step::Snapshot)
                    } else {
                        self.cursor = position.snapshot.revision;
                        self.phase = SubscriptionPhase::Live;
                        Some(Step::Synced(self.cursor))
                    }
                }
                SubscriptionPhase::Live if self.next_filter.is_some() => self.change_filter(registry),
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
        self.incarnation = Some(token.incarnation);
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
        if self.incarnation != Some(registry.incarnation()) {
            return None; // it began before these events
        }
        self.cursor = until;
        // The step has the revision of its last event. A later revision would differ between readers of the same selection. An
        // earlier one would be wrong even where folding leaves only an earlier event, because the step covers all of them.
        let last = events.last().map_or(until, |event| event.revision);
        let changes = fold(events, &self.filter, &self.filter);
        if !changes.is_empty() {
            return Some(Step::Changes(changes, last));
        }
        (until >= newest && self.is_live()).then_some(Step::Idle)
    }

    fn reset(&mut self, reason: ResetReason) -> Step {
        self.phase = SubscriptionPhase::Starting;
        self.incarnation = None;
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
fn filtered(chunk: Arc<Chunk>, filter: &SubscriptionFilter) -> Option<SnapshotChunk> {
    if filter.is_empty() {
        return Some(SnapshotChunk::Chunk(chunk));
    }
    let matching: Vec<_> = chunk.entries().iter().filter(|entry| filter.matches(entry)).cloned().collect();
    (!matching.is_empty()).then_some(SnapshotChunk::Matching(matching))
}

#[cfg(test)]
#[path = "subscription/tests.rs"]
mod tests;
