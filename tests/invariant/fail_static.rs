//! `FailStatic`: clients keep the last good set, even if the registry loses its state.

use std::collections::BTreeMap;

use callboard::{client::WatchEvent, pb::callboard::v1::change::Change};

use crate::harness::{Key, key};

/// Message from a client to its program.
#[derive(Debug, Clone)]
pub enum ClientOutput {
    Event(WatchEvent),
    /// The client gave up.
    GaveUp(String),
}

/// Violation of the invariant.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Lost {
    #[error("the client gave up: {0}")]
    GaveUp(String),
    #[error("while no registry could be reached, the program was sent {0}")]
    OutOfThinAir(String),
    #[error("the program was sent changes to a set before the new one was complete")]
    Incomplete,
}

/// Set that a program uses, by the rules of the client.
#[derive(Debug, Default)]
pub struct Served {
    /// Instances with the revision of their last change.
    pub set: BTreeMap<Key, u64>,
    coming: Option<BTreeMap<Key, u64>>,
}

impl Served {
    pub fn apply(&mut self, event: &WatchEvent) -> Result<(), Lost> {
        match event {
            WatchEvent::Reset(_) => self.coming = Some(BTreeMap::new()),
            WatchEvent::Snapshot(instances) => {
                let coming = self.coming.get_or_insert_default();
                coming.extend(instances.iter().map(|i| (key(&i.service, &i.id), i.revision)));
            }
            WatchEvent::Synced { .. } => self.set = self.coming.take().unwrap_or(std::mem::take(&mut self.set)),
            WatchEvent::Changes { .. } if self.coming.is_some() => return Err(Lost::Incomplete),
            WatchEvent::Changes { changes, .. } => {
                for change in changes {
                    match change {
                        Change::Updated(i) => self.set.insert(key(&i.service, &i.id), i.revision),
                        Change::Removed(gone) => self.set.remove(&key(&gone.service, &gone.id)),
                    };
                }
            }
            WatchEvent::Bookmark { .. }
            | WatchEvent::Balancing(_)
            | WatchEvent::Degraded { .. }
            | WatchEvent::Settling
            | WatchEvent::Disconnected { .. }
            | WatchEvent::Reconnected { .. } => {}
        }
        Ok(())
    }
}

/// Returns the revision of the reader after an event, if it has one.
pub fn revision_after(event: &WatchEvent) -> Option<u64> {
    match event {
        WatchEvent::Synced { revision }
        | WatchEvent::Changes { revision, .. }
        | WatchEvent::Bookmark { revision }
        | WatchEvent::Degraded { revision, .. } => Some(*revision),
        WatchEvent::Reset(_)
        | WatchEvent::Snapshot(_)
        | WatchEvent::Balancing(_)
        | WatchEvent::Settling
        | WatchEvent::Disconnected { .. }
        | WatchEvent::Reconnected { .. } => None,
    }
}

/// Program that checks the events of its client: between a disconnection and the next stream, none may change the set.
#[derive(Debug, Default)]
pub struct Program {
    pub served: Served,
    away: bool,
}

impl Program {
    pub fn apply(&mut self, output: &ClientOutput) -> Result<(), Lost> {
        let event = match output {
            ClientOutput::Event(event) => event,
            ClientOutput::GaveUp(why) => return Err(Lost::GaveUp(why.clone())),
        };
        match event {
            WatchEvent::Disconnected { .. } => self.away = true,
            WatchEvent::Reconnected { .. } => self.away = false,
            other if self.away => return Err(Lost::OutOfThinAir(format!("{other:?}"))),
            _ => {}
        }
        self.served.apply(event)
    }
}

/// Checks all messages of a client.
pub fn check(outputs: &[ClientOutput]) -> Result<(), Lost> {
    let mut program = Program::default();
    outputs.iter().try_for_each(|output| program.apply(output))
}

mod tests {
    use std::time::Duration;

    use callboard::client::{ClientError, ResetCause};

    use super::*;
    use crate::harness::message::{instance, removed};

    fn disconnected() -> WatchEvent {
        WatchEvent::Disconnected { server: None, error: ClientError::StreamEnded, retry_in: Duration::ZERO }
    }

    fn checked(events: Vec<WatchEvent>) -> Result<(), Lost> {
        check(&events.into_iter().map(ClientOutput::Event).collect::<Vec<_>>())
    }

    fn start() -> Vec<WatchEvent> {
        vec![WatchEvent::Snapshot(vec![instance("a", 3)]), WatchEvent::Synced { revision: 3 }]
    }

    #[test]
    fn outage_without_changes_passes() {
        let outage = vec![disconnected(), disconnected(), WatchEvent::Reconnected { server: None }];
        let back = vec![WatchEvent::Reset(ResetCause::OtherIncarnation), WatchEvent::Synced { revision: 9 }];
        assert_eq!(checked([start(), outage, back].concat()), Ok(()));
    }

    #[test]
    fn set_stays_until_the_next_is_complete() {
        let mut served = Served::default();
        for event in start() {
            served.apply(&event).unwrap();
        }
        served.apply(&WatchEvent::Reset(ResetCause::OtherIncarnation)).unwrap();
        assert_eq!(served.set.len(), 1);
        served.apply(&WatchEvent::Synced { revision: 9 }).unwrap();
        assert!(served.set.is_empty());
    }

    #[test]
    fn each_violation_is_found() {
        let change = || WatchEvent::Changes { changes: vec![removed("a", 4)], revision: 4 };
        let thin_air = checked([start(), vec![disconnected(), change()]].concat());
        assert!(matches!(thin_air, Err(Lost::OutOfThinAir(_))), "{thin_air:?}");
        let reset = vec![WatchEvent::Reset(ResetCause::Compacted), change()];
        assert_eq!(checked([start(), reset].concat()), Err(Lost::Incomplete));
        assert_eq!(check(&[ClientOutput::GaveUp("tired".to_owned())]), Err(Lost::GaveUp("tired".to_owned())));
    }
}
