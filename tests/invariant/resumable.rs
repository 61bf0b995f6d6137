//! Resumable: a token continues without a gap or a repeat, or the stream sends `reset` and a snapshot.

use callboard::pb::callboard::v1::watch_response::Message;

use crate::harness::{Record, What};

/// Violation of the invariant.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum NotResumable {
    #[error("a snapshot without a reset, to a reader that has a set")]
    Unannounced,
    #[error("{0} before the stream was synced")]
    TooEarly(&'static str),
    #[error("a second synced on one stream, without a reset between")]
    SyncedTwice,
    #[error("another message before a step or a snapshot was complete")]
    Unfinished,
    #[error("a revision without a token to resume from it")]
    NoToken,
    #[error("a message before a stream was open")]
    NotOpen,
}

/// Phase of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    /// A snapshot follows, or is incomplete.
    Snapshot,
    /// Changes since the token follow.
    CatchingUp,
    Live,
}

/// Checks the record of one reader: each stream goes through the phases of the contract.
pub fn check(record: &Record) -> Result<(), NotResumable> {
    let (mut phase, mut step) = (Phase::Closed, false);
    for observation in &record.observations {
        let message = match &observation.what {
            What::Opened { resumes } => {
                (phase, step) = (if *resumes { Phase::CatchingUp } else { Phase::Snapshot }, false);
                continue;
            }
            What::Ended(_) => {
                phase = Phase::Closed;
                continue;
            }
            What::Message(message) => message.message.as_ref(),
        };
        if phase == Phase::Closed {
            return Err(NotResumable::NotOpen);
        }
        if step && !matches!(message, Some(Message::Changes(_) | Message::Notice(_) | Message::Balancing(_))) {
            return Err(NotResumable::Unfinished);
        }
        let token = match message {
            Some(Message::Reset(_)) if phase == Phase::Snapshot => return Err(NotResumable::Unfinished),
            Some(Message::Reset(_)) => {
                phase = Phase::Snapshot;
                None
            }
            Some(Message::Snapshot(_)) if phase != Phase::Snapshot => return Err(NotResumable::Unannounced),
            Some(Message::Synced(_)) if phase == Phase::Live => return Err(NotResumable::SyncedTwice),
            Some(Message::Synced(synced)) => {
                phase = Phase::Live;
                Some(&synced.resume_token)
            }
            Some(Message::Changes(_)) if phase == Phase::Snapshot => return Err(NotResumable::TooEarly("a change")),
            Some(Message::Changes(changes)) => {
                step = changes.revision == 0;
                (!step).then_some(&changes.resume_token)
            }
            Some(Message::Bookmark(_)) if phase != Phase::Live => return Err(NotResumable::TooEarly("a bookmark")),
            Some(Message::Bookmark(bookmark)) => Some(&bookmark.resume_token),
            Some(Message::Snapshot(_) | Message::Notice(_) | Message::Balancing(_)) | None => None,
        };
        if token.is_some_and(bytes::Bytes::is_empty) {
            return Err(NotResumable::NoToken);
        }
    }
    Ok(())
}

mod tests {
    use super::*;
    use crate::harness::{Filter, Observation, Scope, message::*};

    fn checked(observations: Vec<Observation>) -> Result<(), NotResumable> {
        check(&Record { observations, ..Record::new("r", Scope::Everything, Filter::NONE) })
    }

    #[test]
    fn streams_by_the_contract_pass() {
        let first = vec![opened(), snapshot(&[("a", 3)]), synced(5), changes(&[updated("a", 6)], 6)];
        let second = vec![resumed(), changes(&[updated("a", 7)], 0), changes(&[], 7), synced(7), bookmark(9)];
        let third = vec![resumed(), reset(), snapshot(&[("a", 20)]), synced(20), reset(), synced(30)];
        assert_eq!(checked([first, second, third].concat()), Ok(()));
    }

    #[test]
    fn each_violation_is_found() {
        let snapshot = || snapshot(&[("a", 3)]);
        let cases = [
            (vec![opened(), synced(5), resumed(), snapshot()], NotResumable::Unannounced),
            (vec![opened(), synced(5), snapshot()], NotResumable::Unannounced),
            (vec![opened(), snapshot(), changes(&[updated("a", 6)], 6)], NotResumable::TooEarly("a change")),
            (vec![resumed(), bookmark(6)], NotResumable::TooEarly("a bookmark")),
            (vec![opened(), synced(5), synced(6)], NotResumable::SyncedTwice),
            (vec![resumed(), changes(&[updated("a", 6)], 0), synced(6)], NotResumable::Unfinished),
            (vec![synced(6)], NotResumable::NotOpen),
        ];
        for (observation, breach) in cases {
            assert_eq!(checked(observation), Err(breach));
        }
    }

    #[test]
    fn revision_without_token_is_found() {
        let mut lost = synced(5);
        let What::Message(message) = &mut lost.what else { panic!("synced is a message") };
        let Some(Message::Synced(synced)) = &mut message.message else { panic!("it is synced") };
        synced.resume_token.clear();
        assert_eq!(checked(vec![opened(), lost]), Err(NotResumable::NoToken));
    }
}
