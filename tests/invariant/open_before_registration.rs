//! `OpenBeforeRegistration`: a watch of an unknown service is open, and gets its first registration.

use callboard::pb::callboard::v1::{EventKind, watch_response::Message};
use tonic::Code;

use super::ReferenceHistory;
use crate::harness::{Key, Record, View, What, key};

/// Violation of the invariant.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum NotOpen {
    #[error("the stream ended with {0:?} before it was synced")]
    Refused(Code),
    #[error("at revision {at} nothing was registered, and the reader was sent {shown}")]
    NotEmpty { at: u64, shown: usize },
    #[error("{instance:?} was registered first, at revision {came}, and at {at} the reader does not have it")]
    Unheard { instance: Key, came: u64, at: u64 },
    #[error("the stream was reset before the first registration")]
    StartedOver,
}

/// Checks the record of one reader that watched before anything was registered.
pub fn check(record: &Record, history: &ReferenceHistory) -> Result<(), NotOpen> {
    let mut view = View::default();
    let mut empty_since: Option<u64> = None;
    let mut synced = false;
    for observation in &record.observations {
        match &observation.what {
            What::Opened { .. } => {
                view.open();
                (empty_since, synced) = (None, false);
            }
            What::Ended(Some(code)) if !synced && *code != Code::Unavailable => return Err(NotOpen::Refused(*code)),
            What::Ended(_) => {}
            What::Message(message) => {
                let is_synced = matches!(message.message, Some(Message::Synced(_)));
                if matches!(message.message, Some(Message::Reset(_))) && empty_since.is_some() {
                    return Err(NotOpen::StartedOver);
                }
                if !view.receive(message) {
                    continue;
                }
                if is_synced && !synced && history.replay(record.scope.clone()).at(view.revision).is_empty() {
                    if !view.set.is_empty() {
                        return Err(NotOpen::NotEmpty { at: view.revision, shown: view.set.len() });
                    }
                    empty_since = Some(view.revision);
                }
                synced |= is_synced;
                empty_since = still_empty(record, history, &view, empty_since)?;
            }
        }
    }
    Ok(())
}

/// Returns the revision from which the reader waits for a first registration, if it still waits.
fn still_empty(
    record: &Record,
    history: &ReferenceHistory,
    view: &View,
    since: Option<u64>,
) -> Result<Option<u64>, NotOpen> {
    let Some(since) = since else { return Ok(None) };
    let at = view.revision;
    let first = history
        .events
        .iter()
        .find(|event| event.revision > since && event.revision <= at && record.scope.includes(&event.service));
    let Some(first) = first else { return Ok(Some(since)) };
    let instance = key(&first.service, &first.instance_id);
    let left = history
        .of(&first.service, &first.instance_id)
        .any(|event| event.kind() == EventKind::Removed && event.revision > first.revision && event.revision <= at);
    if record.filter.text.is_empty() && !left && !view.set.contains_key(&instance) {
        return Err(NotOpen::Unheard { instance, came: first.revision, at });
    }
    Ok(None)
}

mod tests {
    use super::*;
    use crate::harness::{Filter, Observation, Scope, message::*};
    use crate::invariant::reference_history::made_up;

    fn checked(observations: Vec<Observation>) -> Result<(), NotOpen> {
        let history = made_up::reference(&[(6, "a", true), (8, "a", false), (9, "b", true)]);
        check(&Record { observations, ..Record::new("r", Scope::names(&["web"]), Filter::NONE) }, &history)
    }

    #[test]
    fn reader_that_got_the_first_registration_passes() {
        assert_eq!(checked(vec![opened(), synced(5), changes(&[updated("a", 6)], 6)]), Ok(()));
        assert_eq!(checked(vec![opened(), synced(5), bookmark(8)]), Ok(()), "registered and removed");
        assert_eq!(checked(vec![opened(), snapshot(&[("a", 6)]), synced(7), bookmark(8)]), Ok(()), "it did not wait");
    }

    #[test]
    fn each_violation_is_found() {
        let refused = Observation { at: 0, what: What::Ended(Some(Code::NotFound)) };
        assert_eq!(checked(vec![opened(), refused]), Err(NotOpen::Refused(Code::NotFound)));
        let shown = vec![opened(), snapshot(&[("a", 6)]), synced(5)];
        assert_eq!(checked(shown), Err(NotOpen::NotEmpty { at: 5, shown: 1 }));
        let unheard = NotOpen::Unheard { instance: key("web", "a"), came: 6, at: 7 };
        assert_eq!(checked(vec![opened(), synced(5), bookmark(7)]), Err(unheard));
        assert_eq!(checked(vec![opened(), synced(5), reset()]), Err(NotOpen::StartedOver));
    }
}
