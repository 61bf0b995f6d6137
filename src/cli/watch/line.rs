//! Output of `callboard watch` for each event: a line for people, an object for programs.

use std::{collections::HashMap, time::SystemTime};

use serde::Serialize;

use crate::{
    cli::{
        output::Printable,
        terminal::{coloured, escape},
        view::{InstanceView, removal, rfc3339},
    },
    client::{ResetCause, WatchEvent},
    pb::callboard::v1::{Instance, change},
};

/// Line of the output. Its keys are stable, because scripts read them.
#[derive(Debug, Serialize)]
pub(super) struct WatchLine {
    #[serde(rename = "type")]
    kind: &'static str,
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<WatchLineSubject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    revision: Option<u64>,
    #[serde(skip)]
    text: Option<String>,
}

/// Instance that a line describes.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum WatchLineSubject {
    Present(Box<InstanceView>),
    Removed { id: String },
}

impl WatchLine {
    /// Returns `SERVICE/ID`, if the line describes an instance.
    pub(crate) fn name(&self) -> Option<String> {
        match self.instance.as_ref()? {
            WatchLineSubject::Present(instance) => Some(instance.name()),
            WatchLineSubject::Removed { id } => Some(format!("{}/{id}", self.service.as_deref().unwrap_or_default())),
        }
    }

    /// Returns the line for people. A bookmark has none.
    pub(crate) fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}

/// Converts events to lines. It keeps the known instances, to distinguish new instances from changed ones.
#[derive(Debug)]
pub(super) struct WatchLines {
    /// The watched service, if there is exactly one.
    watched: Option<String>,
    wide: bool,
    /// Status of each instance, by service and id.
    present: HashMap<(String, String), &'static str>,
}

impl WatchLines {
    pub(crate) fn new(services: &[String], wide: bool) -> Self {
        Self {
            watched: match services {
                [only] => Some(only.clone()),
                _ => None,
            },
            wide,
            present: HashMap::new(),
        }
    }

    /// Returns the lines of an event.
    pub(crate) fn read(&mut self, event: WatchEvent, now: SystemTime) -> Vec<WatchLine> {
        let clock = clock(now);
        match event {
            WatchEvent::Reset(cause) => {
                let reason = reset(cause);
                self.present.clear();
                let text = format!("{clock} ! reset: {}; a new snapshot follows", reason.replace('_', " "));
                vec![self.line("reset", Some(reason), None, text)]
            }
            WatchEvent::Snapshot(instances) => {
                let lines = instances.into_iter().map(|instance| self.snapshotted(instance, &clock));
                lines.collect()
            }
            WatchEvent::Synced { revision } => {
                let count = self.present.len();
                let instances = if count == 1 { "instance" } else { "instances" };
                let text = format!("{clock} = synced: {count} {instances} at revision {revision}");
                vec![self.line("synced", None, Some(revision), text)]
            }
            WatchEvent::Changes { changes, revision } => {
                changes.into_iter().map(|change| self.changed(change, revision, &clock)).collect()
            }
            WatchEvent::Bookmark { revision } => {
                let mut line = self.line("bookmark", None, Some(revision), String::new());
                line.text = None;
                vec![line]
            }
            WatchEvent::Balancing(_)
            | WatchEvent::Degraded { .. }
            | WatchEvent::Settling
            | WatchEvent::Disconnected { .. }
            | WatchEvent::Reconnected { .. } => Vec::new(),
        }
    }

    /// Returns a line that describes no instance.
    fn line(&self, kind: &'static str, reason: Option<&'static str>, revision: Option<u64>, text: String) -> WatchLine {
        WatchLine { kind, service: self.watched.clone(), instance: None, reason, revision, text: Some(text) }
    }

    fn snapshotted(&mut self, instance: Instance, clock: &str) -> WatchLine {
        let view = InstanceView::from(instance);
        self.remember(&view);
        let text = format!("{clock}   {}", self.describe(&view, None));
        let revision = view.revision;
        present("snapshot", view, revision, text)
    }

    fn changed(&mut self, change: change::Change, revision: u64, clock: &str) -> WatchLine {
        match change {
            change::Change::Updated(instance) => {
                let view = InstanceView::from(instance);
                let before = self.remember(&view);
                let mark = if before.is_some() { '~' } else { '+' };
                let text = format!("{clock} {mark} {}", self.describe(&view, before));
                present("changed", view, revision, text)
            }
            change::Change::Removed(removed) => {
                let reason = removal(removed.reason());
                let name = format!("{}/{}", removed.service, removed.id);
                self.present.remove(&(removed.service.clone(), removed.id.clone()));
                WatchLine {
                    kind: "removed",
                    service: Some(removed.service),
                    instance: Some(WatchLineSubject::Removed { id: removed.id }),
                    reason: Some(reason),
                    revision: Some(revision),
                    text: Some(format!("{clock} - {}   {}", escape(&name), reason.replace('_', " "))),
                }
            }
        }
    }

    /// Stores the status of an instance and returns the previous one.
    fn remember(&mut self, view: &InstanceView) -> Option<&'static str> {
        self.present.insert((view.service.clone(), view.id.clone()), view.status)
    }

    fn describe(&self, view: &InstanceView, before: Option<&'static str>) -> String {
        let status = match before {
            Some(before) if before != view.status => format!("{} -> {}", coloured(before), coloured(view.status)),
            _ => coloured(view.status),
        };
        let mut more = view.traits();
        if self.wide {
            more.push(view.metadata());
            more.push(format!("revision={}", view.revision));
        }
        let words = [view.name(), view.address()].map(|word| escape(&word).into_owned());
        let mut words = words.to_vec();
        words.push(status);
        words.extend(more.iter().filter(|word| !word.is_empty()).map(|word| escape(word).into_owned()));
        words.join("   ")
    }
}

fn present(kind: &'static str, view: InstanceView, revision: u64, text: String) -> WatchLine {
    WatchLine {
        kind,
        service: Some(view.service.clone()),
        instance: Some(WatchLineSubject::Present(Box::new(view))),
        reason: None,
        revision: Some(revision),
        text: Some(text),
    }
}

fn reset(cause: ResetCause) -> &'static str {
    match cause {
        ResetCause::OtherIncarnation => "other_incarnation",
        ResetCause::OtherSelector => "other_selector",
        ResetCause::Compacted => "compacted",
        ResetCause::FutureRevision => "future_revision",
        ResetCause::Interrupted => "interrupted",
        ResetCause::Unspecified => "unspecified",
    }
}

/// Returns the time of day in UTC.
fn clock(now: SystemTime) -> String {
    let time = rfc3339(now).unwrap_or_default();
    time.split_once('T').map(|(_, clock)| clock.to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
