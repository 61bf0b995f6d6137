//! A registry as JSON Lines: for backups, for moving house, and for formats to come.
//!
//! The first line says what follows and how many; then comes a line for each instance, by service and id. Everything is in
//! it that a restart would find, states of checks included, and the ids of leases: whoever reads it can speak for the registrations.
//!
//! Reading takes nothing on trust: each value goes through the same checks as when it was registered.

mod line;

use std::{
    collections::{
        HashMap, HashSet,
        hash_map::Entry::{Occupied, Vacant},
    },
    io::{self, BufRead, Write},
};

use serde::{Deserialize, Serialize};

use super::{
    load::LoadedRecords,
    record::{StoredInstance, saved::SavedCheckRecord},
};
use crate::{
    engine::{CheckKey, SavedCheck},
    model::{Instance, Revision},
};
use line::ExportLine;

/// The version of what is written here.
const VERSION: u32 = 1;

/// No registry gets there: it would take a million writes a second for longer than there have been computers.
const LATEST: Revision = Revision(1 << 62);

/// Why lines are no export.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// They cannot be read.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    /// The first line is not that of an export.
    #[error("line 1: {0}: this is no export; make one with `callboard export`")]
    Header(String),
    /// A later version wrote it.
    #[error(
        "line 1: version {found} of an export, and this callboard reads versions up to {VERSION}: use the callboard that wrote it, or a later one"
    )]
    Newer {
        /// Its version.
        found: u32,
    },
    /// A line that is no instance.
    #[error("line {line}: {problem}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Fewer or more lines than the first one says.
    #[error(
        "{found} instances where the first line says {said}: the export is not complete; make it again, or correct that number"
    )]
    Count {
        /// How many there should be.
        said: usize,
        /// How many there are.
        found: usize,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportHeader {
    callboard_export: u32,
    revision: u64,
    instances: usize,
}

/// Writes what was found in a store. `told` hears of each instance.
///
/// # Errors
///
/// When it cannot be written.
pub fn write(found: &LoadedRecords, out: &mut impl Write, mut told: impl FnMut()) -> io::Result<()> {
    let header =
        ExportHeader { callboard_export: VERSION, revision: found.revision.0, instances: found.instances.len() };
    serde_json::to_writer(&mut *out, &header)?;
    out.write_all(b"\n")?;
    let mut states = &found.check_states[..];
    for stored in &found.instances {
        serde_json::to_writer(&mut *out, &ExportLine::new(stored, states_of(&stored.instance, &mut states)))?;
        out.write_all(b"\n")?;
        told();
    }
    out.flush()
}

/// Takes the states of an instance's checks out of those that are left, which are in the order of instances. States of checks that
/// the instance does not have any more are left out.
fn states_of<'a>(instance: &Instance, left: &mut &'a [(CheckKey, SavedCheck)]) -> Vec<SavedCheckRecord> {
    let place = |((service, id, _), _): &(CheckKey, SavedCheck)| {
        (service.as_str(), id.as_str()).cmp(&(instance.service.as_str(), instance.id.as_str()))
    };
    *left = &left[left.partition_point(|state| place(state).is_lt())..];
    let (here, rest) = left.split_at(left.partition_point(|state| place(state).is_le()));
    *left = rest;
    let is_of = |((.., check), state): &&'a (CheckKey, SavedCheck)| {
        instance.checks.get(check.as_str()).is_some_and(|known| known.created == state.created)
    };
    here.iter().filter(is_of).map(|((.., check), state)| SavedCheckRecord::new(check, state)).collect()
}

/// Reads an export. `told` hears of how many instances there are in all, and then of each. The revision is one that none of them is
/// after.
///
/// # Errors
///
/// When it is no export, not complete, or has a value that no registration has.
pub fn read(lines: impl BufRead, mut told: impl FnMut(usize)) -> Result<LoadedRecords, ImportError> {
    let mut lines = lines.lines();
    let header = ExportHeader::read(&lines.next().transpose()?.unwrap_or_default())?;
    reached(Revision(header.revision)).map_err(|problem| ImportError::Line { line: 1, problem })?;
    told(header.instances);
    let (mut all, mut newest) = (Vec::new(), Revision(header.revision));
    let (mut keys, mut leases, mut found) = (HashMap::new(), HashSet::new(), 0);
    for (line, text) in (2..).zip(lines) {
        let wrong = |problem: String| ImportError::Line { line, problem };
        let stored: ExportLine = serde_json::from_str(&text?).map_err(|error| wrong(error.to_string()))?;
        let id = stored.id.clone();
        let (stored, states) = stored.into_stored().map_err(|invalid| wrong(invalid.to_string()))?;
        let instance = &stored.instance;
        newest = newest.max(instance.revision).max(instance.registered_revision);
        reached(newest).map_err(wrong)?;
        found += 1;
        told(1);
        match keys.entry((instance.service.clone(), instance.id.clone())) {
            Vacant(place) => {
                place.insert(all.len());
            }
            // Names that an earlier version told apart may be one, as those of nodes that differ in case: the newest stays.
            Occupied(known) if *instance.id.as_str() != *id => {
                let known: &mut (StoredInstance, Vec<_>) = &mut all[*known.get()];
                if known.0.instance.revision < instance.revision {
                    *known = (stored, states);
                }
                continue;
            }
            Occupied(_) => {
                return Err(wrong(format!("{}/{} is here twice: remove one", instance.service, instance.id)));
            }
        }
        if stored.lease.is_some_and(|lease| !leases.insert(lease.id)) {
            return Err(wrong(format!("the lease of {}/{} is here twice", instance.service, instance.id)));
        }
        all.push((stored, states));
    }
    if found != header.instances {
        return Err(ImportError::Count { said: header.instances, found });
    }
    let mut found = LoadedRecords { revision: newest, ..LoadedRecords::default() };
    for (stored, states) in all {
        let Instance { service, id, .. } = &stored.instance;
        found
            .check_states
            .extend(states.into_iter().map(|(check, state)| ((service.clone(), id.clone(), check), state)));
        found.instances.push(stored);
    }
    let key = |StoredInstance { instance, .. }: &StoredInstance| (instance.service.clone(), instance.id.clone());
    found.instances.sort_unstable_by_key(key);
    found.check_states.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found)
}

impl ExportHeader {
    fn read(line: &str) -> Result<Self, ImportError> {
        let header: Self = serde_json::from_str(line).map_err(|error| {
            // What a later version has written may have other fields beside the version.
            let version = serde_json::from_str::<serde_json::Value>(line).ok();
            let version = version.and_then(|header| u32::try_from(header["callboard_export"].as_u64()?).ok());
            match version {
                Some(found) if found > VERSION => ImportError::Newer { found },
                _ => ImportError::Header(error.to_string()),
            }
        })?;
        let found = header.callboard_export;
        if found > VERSION { Err(ImportError::Newer { found }) } else { Ok(header) }
    }
}

fn reached(revision: Revision) -> Result<(), String> {
    let problem = || format!("revision {revision} is none that a registry reaches: leave it as it was exported");
    (revision <= LATEST).then_some(()).ok_or_else(problem)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::engine::disk::StoredLease;
    use crate::model::{BootId, LeaseId, LeaseTerms, Locality, Metadata, Tags, UnixMillis};
    use crate::registry::test_support::entry;

    fn found() -> LoadedRecords {
        let mut plain = entry("web", "a", 7).instance.clone();
        plain.registered_at = UnixMillis(1_700_000_000_123);
        let mut rich = entry("web", "b", 1).instance.clone();
        rich.tags = Tags::parse(&["v1"]).unwrap();
        rich.metadata =
            Metadata::parse(BTreeMap::from([("line".to_owned(), "one\ntwo \u{1f3ad}".to_owned())]).iter()).unwrap();
        rich.locality = Locality::parse("", "eu-1", "").unwrap();
        rich.conditions.operator_draining = true;
        rich.revision = Revision(1 << 60);
        let terms = LeaseTerms::grant(Some(Duration::from_millis(9_500)), Some(Duration::ZERO));
        let lease = StoredLease { id: LeaseId(5), boot: BootId::parse("boot").unwrap(), terms };
        let instances = vec![
            StoredInstance { instance: plain, lease: None },
            StoredInstance { instance: rich, lease: Some(lease) },
        ];
        LoadedRecords { instances, revision: Revision(9), ..LoadedRecords::default() }
    }

    fn text(found: &LoadedRecords) -> String {
        let mut text = Vec::new();
        write(found, &mut text, || {}).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn refused(text: &str) -> String {
        read(text.as_bytes(), |_| {}).unwrap_err().to_string()
    }

    #[test]
    fn what_is_exported_is_imported() {
        let found = found();
        let mut progress = Vec::new();
        let read = read(text(&found).as_bytes(), |step| progress.push(step)).unwrap();
        assert_eq!(read, LoadedRecords { revision: Revision(1 << 60), ..found });
        assert_eq!(progress, [2, 1, 1]);
    }

    #[test]
    fn what_is_no_export_is_refused_with_its_line() {
        let good = text(&found());
        let lines: Vec<&str> = good.lines().collect();
        assert!(refused("").contains("this is no export"));
        assert!(refused("hello").contains("this is no export"));
        assert!(refused(r#"{"callboard_export":2,"more":1}"#).contains("version 2"));
        assert!(refused(&lines[..2].join("\n")).starts_with("1 instances where the first line says 2"));
        assert!(refused(&[lines[0], lines[1], lines[1]].join("\n")).contains("line 3: web/a is here twice"));
        let other = good.replace(r#""port":80"#, r#""port":80000"#);
        assert!(refused(&other).starts_with("line 2: addresses[0].port"), "{}", refused(&other));
        let cut = &good[..good.len() - 20];
        assert!(refused(cut).starts_with("line 3: "));
        let far = good.replace(&(1_u64 << 60).to_string(), &u64::MAX.to_string());
        assert!(refused(&far).contains("is none that a registry reaches"), "{}", refused(&far));
        let far =
            lines[0].replace("\"revision\":9,\"instances\":2", "\"revision\":18446744073709551615,\"instances\":0");
        assert!(refused(&far).starts_with("line 1: revision 18446744073709551615 is none"), "{}", refused(&far));
        assert!(refused(&good.replace("\"9s 500ms\"", "\"soon\"")).contains("is no length of time"));
        assert!(refused(&good.replace("00000000005\"", "5\"")).contains("32 hexadecimal digits"));
    }
}
