//! A reader's place in the order of changes, and what it is to be told next.
//!
//! A subscription is a cursor: it holds nothing of what it has not been told yet, however far behind it is.
//!
//! ```text
//!   no token ──────────────► Snapshot* ─► Synced ─► (Changes | Idle)*
//!   token that fits ───────► Changes* ──► Synced ─► (Changes | Idle)*
//!   token that does not ───► Reset ─► Snapshot* ─► Synced ─► …
//!     … of another life ───► Settling* ─► Reset ─► …            (while the registry settles)
//!   history fell out ──────► Reset ─► Snapshot* ─► Synced ─► …      (at any time later)
//! ```
//!
//! What is not here: when to look (the reader is woken from elsewhere), encoding, and bookmarks, which depend on time.

use std::{collections::HashMap, sync::Arc};

use super::{
    Registry,
    event::{Entry, Event},
    instance_map::Chunk,
    snapshot::Snapshot,
};
use crate::model::{InstanceFilter, ResumeToken, Revision, Selector};

/// What a reader is told next.
#[derive(Debug)]
pub enum Step {
    /// The reader's place is lost: a snapshot follows.
    Reset(ResetReason),
    /// A part of the snapshot.
    Snapshot(SnapshotChunk),
    /// The snapshot, or what was missed, is complete: the reader stands at this revision.
    Synced(Revision),
    /// The difference between where the reader stood and this revision. Not empty; each instance at most once.
    Changes(Vec<Delta>, Revision),
    /// Nothing, for now.
    Idle,
    /// Nothing before the registry has settled: the reader's token is of an earlier life, from which more may come back than
    /// is there yet.
    Settling,
}

/// A part of a snapshot.
#[derive(Debug)]
pub enum SnapshotChunk {
    /// A whole block.
    Block(Arc<Chunk>),
    /// Those of a block that match the filter.
    Matching(Vec<Arc<Entry>>),
}

/// One instance's difference.
#[derive(Debug)]
pub struct Delta {
    /// The last event of the instance in the step.
    pub event: Arc<Event>,
    /// What it means to this reader.
    pub effect: DeltaKind,
}

/// What an event means to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaKind {
    /// The instance is new to the reader, or different.
    Updated,
    /// It is gone.
    Removed,
    /// It no longer matches the reader's filter.
    NoLongerMatches,
}

/// Why a reader's place is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// The token is of another life of the registry.
    OtherIncarnation,
    /// The token was made for another selection or filter.
    OtherSelection,
    /// The history since then is no longer remembered.
    HistoryLost,
    /// The token is from a revision that has not been reached.
    FutureRevision,
}

/// A reader's place.
#[derive(Debug)]
pub struct Subscription {
    selection: Arc<Selector>,
    filter: Option<Arc<InstanceFilter>>,
    /// The digest of both, for tokens.
    digest: u64,
    /// The revision up to which the reader has been told everything.
    cursor: Revision,
    phase: SubscriptionPhase,
}

#[derive(Debug)]
enum SubscriptionPhase {
    /// Nothing was told yet.
    Fresh(Option<ResumeToken>),
    /// A snapshot is to be taken.
    Starting,
    /// In the middle of a snapshot.
    Snapshot(SnapshotCursor),
    /// What the token missed, up to this revision at least, is being told.
    CatchingUp(Revision),
    /// Complete.
    Live,
}

impl Subscription {
    /// A reader that has been told nothing, or everything up to the token.
    #[must_use]
    pub fn new(selection: Arc<Selector>, filter: Option<Arc<InstanceFilter>>, token: Option<ResumeToken>) -> Self {
        let digest = selection.digest(filter.as_ref().map_or("", |filter| filter.as_str()));
        Self { selection, filter, digest, cursor: Revision::default(), phase: SubscriptionPhase::Fresh(token) }
    }

    /// What it selects.
    #[must_use]
    pub fn selection(&self) -> &Arc<Selector> {
        &self.selection
    }

    /// Its filter.
    #[must_use]
    pub fn filter(&self) -> Option<&Arc<InstanceFilter>> {
        self.filter.as_ref()
    }

    /// The revision up to which it has been told everything.
    #[must_use]
    pub fn cursor(&self) -> Revision {
        self.cursor
    }

    /// Whether it has been told everything once: from then on, what it is told has just happened.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.phase, SubscriptionPhase::Live)
    }

    /// The token with which another stream can go on from a revision of this one.
    #[must_use]
    pub fn token(&self, registry: &Registry, revision: Revision) -> ResumeToken {
        ResumeToken { incarnation: registry.incarnation(), revision, selection: self.digest }
    }

    /// Whether it is told nothing before the registry has settled.
    #[must_use]
    pub fn waits(&self, registry: &Registry) -> bool {
        matches!(self.phase, SubscriptionPhase::Fresh(Some(token)) if token.incarnation != registry.incarnation())
            && registry.is_settling()
    }

    /// What the reader is told next.
    pub fn next(&mut self, registry: &Registry) -> Step {
        if self.waits(registry) {
            return Step::Settling;
        }
        loop {
            let step = match &mut self.phase {
                SubscriptionPhase::Fresh(token) => {
                    let token = token.take();
                    self.phase = SubscriptionPhase::Starting;
                    token.and_then(|token| self.begin(token, registry))
                }
                SubscriptionPhase::Starting => {
                    self.phase = SubscriptionPhase::Snapshot(SnapshotCursor::new(registry.cut(&self.selection)));
                    None
                }
                SubscriptionPhase::Snapshot(walk) => {
                    if let Some(block) = walk.next() {
                        part(block, self.filter.as_deref()).map(Step::Snapshot)
                    } else {
                        self.cursor = walk.cut.revision;
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

    /// Where a new reader begins: at its token, if that fits.
    fn begin(&mut self, token: ResumeToken, registry: &Registry) -> Option<Step> {
        if let Some(reason) = misfit(token, self.digest, registry) {
            return Some(self.reset(reason));
        }
        self.cursor = token.revision;
        self.phase = SubscriptionPhase::CatchingUp(registry.applied());
        None
    }

    /// What came after the cursor. `None`: so far nothing for this reader, but there is more to look at.
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
        let Some((events, until)) = registry.since(&self.selection, self.cursor) else {
            return Some(self.reset(ResetReason::HistoryLost));
        };
        self.cursor = until;
        // As of the last event that went into it, not a later revision: so all who watch the same are told the same. Nor an
        // earlier one, even where folding left only an earlier event to tell: the step holds what came after it, too.
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

/// Why a token cannot be gone on from, apart from history.
fn misfit(token: ResumeToken, digest: u64, registry: &Registry) -> Option<ResetReason> {
    if token.incarnation != registry.incarnation() {
        Some(ResetReason::OtherIncarnation)
    } else if token.selection != digest {
        Some(ResetReason::OtherSelection)
    } else if token.revision > registry.applied() {
        Some(ResetReason::FutureRevision)
    } else {
        None
    }
}

/// The blocks of a cut, one after the other. What was told is let go of.
#[derive(Debug)]
struct SnapshotCursor {
    cut: Snapshot,
    block: usize,
}

impl SnapshotCursor {
    fn new(mut cut: Snapshot) -> Self {
        cut.services.reverse();
        Self { cut, block: 0 }
    }

    fn next(&mut self) -> Option<Arc<Chunk>> {
        while let Some(blocks) = self.cut.services.last() {
            if let Some(block) = blocks.get(self.block) {
                self.block += 1;
                return Some(Arc::clone(block));
            }
            self.cut.services.pop();
            self.block = 0;
        }
        None
    }
}

fn part(block: Arc<Chunk>, filter: Option<&InstanceFilter>) -> Option<SnapshotChunk> {
    let Some(filter) = filter else {
        return Some(SnapshotChunk::Block(block));
    };
    let matching: Vec<_> = block.entries().iter().filter(|entry| filter.matches(&entry.instance)).cloned().collect();
    (!matching.is_empty()).then_some(SnapshotChunk::Matching(matching))
}

/// Makes one difference an instance of many events: what it was before the first, and what it is after the last.
fn fold(events: Vec<Arc<Event>>, filter: Option<&InstanceFilter>) -> Vec<Delta> {
    let matches = |entry: &Arc<Entry>| filter.is_none_or(|filter| filter.matches(&entry.instance));
    let delta = |before: Option<&Arc<Entry>>, last: Arc<Event>| {
        let knew = before.is_some_and(matches);
        let effect = match last.after() {
            Some(entry) if matches(entry) => DeltaKind::Updated,
            Some(_) if knew => DeltaKind::NoLongerMatches,
            None if knew => DeltaKind::Removed,
            Some(_) | None => return None,
        };
        Some(Delta { event: last, effect })
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
