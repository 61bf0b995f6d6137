//! Requests to the writer, through their stages: sent, decided, applied.

use std::sync::Arc;

use super::super::RecordChange;
use crate::{
    engine::{OutcomeSender, record::StoredLease, write_request::WriteRequest},
    model::{Caller, Revision},
    registry::{CommandOutcome, Entry, PolicyChange, PolicyOutcome, StampedChange},
};

/// Message to the writer.
#[derive(Debug)]
pub enum WriterMessage {
    /// Commands to execute.
    Request(WriteRequest),
    /// Notice of unsaved check states.
    Save,
}

/// Request whose changes are decided, and which is answered once they are on the disk and applied.
#[derive(Debug)]
pub enum DecidedRequest {
    One(DecidedCommand, OutcomeSender),
    Together(Vec<DecidedCommand>, OutcomeSender<Vec<CommandOutcome>>),
    Policy(PolicyChange, OutcomeSender<PolicyOutcome>),
}

impl DecidedRequest {
    /// Changes of records.
    pub fn record_changes(&self) -> Vec<RecordChange<'_>> {
        match self {
            Self::One(decided, _) => decided.record_change().into_iter().collect(),
            Self::Together(decided, _) => decided.iter().filter_map(DecidedCommand::record_change).collect(),
            Self::Policy(change, _) => {
                let forgotten = change.forgotten.iter().map(|scope| RecordChange::Policy(scope, &[]));
                forgotten.chain([RecordChange::Policy(&change.scope, &change.revisions)]).collect()
            }
        }
    }

    /// Number of changes.
    pub fn change_count(&self) -> usize {
        match self {
            Self::One(decided, _) => usize::from(decided.is_change()),
            Self::Together(decided, _) => decided.iter().filter(|command| command.is_change()).count(),
            Self::Policy(..) => 1,
        }
    }
}

/// Decision on one command.
#[derive(Debug)]
pub enum DecidedCommand {
    /// The command changes nothing.
    NoOp(Option<Arc<Entry>>),
    /// The command makes this change of the present entry at this revision, for this caller.
    Change { change: StampedChange, present: Option<Arc<Entry>>, revision: Revision, caller: Arc<Caller> },
}

impl DecidedCommand {
    pub fn is_change(&self) -> bool {
        matches!(self, Self::Change { .. })
    }

    /// Outcome, at this revision, of a request that changes nothing.
    pub fn into_unchanged(self, revision: Revision) -> CommandOutcome {
        match self {
            Self::NoOp(entry) | Self::Change { present: entry, .. } => {
                CommandOutcome { entry, revision, changed: false }
            }
        }
    }

    /// Change of the record of the instance.
    pub fn record_change(&self) -> Option<RecordChange<'_>> {
        match self {
            Self::Change { change: StampedChange::Put { instance, lease, terms, .. }, .. } => {
                let stored = lease.as_deref().map(StoredLease::of);
                Some(RecordChange::Put(instance, stored.map(|stored| stored.with_terms(*terms))))
            }
            Self::Change { change: StampedChange::Remove { .. }, present: Some(before), .. } => {
                Some(RecordChange::Remove(&before.instance.service, &before.instance.id))
            }
            Self::Change { change: StampedChange::Remove { .. }, present: None, .. } | Self::NoOp(_) => None,
        }
    }
}

/// Request that is applied, with its outcome.
pub enum AppliedRequest {
    One(CommandOutcome, OutcomeSender),
    Together(Vec<CommandOutcome>, OutcomeSender<Vec<CommandOutcome>>),
    Policy(PolicyChange, OutcomeSender<PolicyOutcome>),
}

impl AppliedRequest {
    /// Returns the change of a policy, if the request is one.
    pub fn policy_change(&self) -> Option<&PolicyChange> {
        match self {
            Self::Policy(change, _) => Some(change),
            Self::One(..) | Self::Together(..) => None,
        }
    }

    /// Sends the outcome.
    pub fn answer(self) {
        // A caller that no longer waits has dropped the receiver.
        match self {
            Self::One(outcome, sender) => drop(sender.send(Ok(outcome))),
            Self::Together(outcomes, sender) => drop(sender.send(Ok(outcomes))),
            Self::Policy(change, sender) => drop(sender.send(Ok(change.into_outcome()))),
        }
    }
}
