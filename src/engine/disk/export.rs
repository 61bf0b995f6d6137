//! Export of a registry as JSON Lines: for backups, for a move to another machine, and for a change of the store's format.
//!
//! The first line holds the version and the numbers of instances and policies. A line for each policy follows, and then a line for
//! each instance, sorted by service and id. The order of the lines does not matter to an import. An export without policies has
//! version 1, which versions that know no policies can import. The export contains everything that a restart would load, including saved check states and lease ids. Lease ids are secrets: they
//! authorize writes to the registrations.
//!
//! An import validates each value as a registration does. Only earlier revisions of a policy may be invalid: they are skipped.

mod line;
mod policy_line;

use std::{
    collections::{
        BTreeMap, HashMap, HashSet,
        hash_map::Entry::{Occupied, Vacant},
    },
    io::{self, BufRead, Write},
};

use serde::{Deserialize, Serialize};

use super::load::LoadedRecords;
use crate::{
    engine::{
        CheckKey, SavedCheck,
        record::{StoredInstance, policy::StoredPolicy, saved::SavedCheckRecord},
    },
    model::{CheckId, FieldError, Instance, PolicyScope, Revision},
    registry::{MAX_POLICIES, validate_policies},
};
use line::ExportLine;
use policy_line::PolicyLine;

/// Version of the export format.
const VERSION: u32 = 2;
/// Version of an export without policies.
const VERSION_WITHOUT_POLICIES: u32 = 1;

/// Maximum valid revision. A registry with a million writes a second reaches it after 146,000 years.
const MAX_REVISION: Revision = Revision(1 << 62);

/// Error of lines that are not an export.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The lines cannot be read.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    /// The first line is not the header of an export.
    #[error("line 1: {0}: this is not an export; make one with `callboard export`")]
    Header(String),
    /// A later version of Callboard wrote the export.
    #[error(
        "line 1: the export has version {found}, and this callboard reads versions up to {VERSION}: use the version of callboard \
         that wrote it, or a later one"
    )]
    UnsupportedVersion {
        /// Version of the export.
        found: u32,
    },
    /// A line is not a valid instance.
    #[error("line {line}: {reason}")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// Reason and remedy.
        reason: String,
    },
    /// The number of lines differs from the number in the header.
    #[error("the export has {found} {kind}, but its first line says {expected}: export again, or correct that number")]
    Count {
        /// `instances` or `policies`.
        kind: &'static str,
        /// Number in the header.
        expected: usize,
        /// Number of lines.
        found: usize,
    },
    /// A policy conflicts with others.
    #[error("the policy of {scope}: {error}")]
    Policy {
        /// Services that the policy holds for.
        scope: PolicyScope,
        /// Conflict and remedy.
        error: FieldError,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportHeader {
    callboard_export: u32,
    revision: u64,
    instances: usize,
    #[serde(default, skip_serializing_if = "is_zero")]
    policies: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Writes the contents of a store. Calls `progress` after each instance.
///
/// # Errors
///
/// When `out` cannot be written.
pub fn write(records: &LoadedRecords, out: &mut impl Write, mut progress: impl FnMut()) -> io::Result<()> {
    write_header(records.revision, (records.instances.len(), records.policies.len()), out)?;
    for stored in &records.policies {
        write_policy(stored, out)?;
    }
    let mut states = &records.check_states[..];
    for stored in &records.instances {
        write_line(&ExportLine::new(stored, take_states(&stored.instance, &mut states)), out)?;
        progress();
    }
    out.flush()
}

/// Writes the first line of an export, which has the numbers of instances and policies.
///
/// # Errors
///
/// When `out` cannot be written.
pub fn write_header(revision: Revision, (instances, policies): (usize, usize), out: &mut impl Write) -> io::Result<()> {
    let callboard_export = if policies == 0 { VERSION_WITHOUT_POLICIES } else { VERSION };
    write_line(&ExportHeader { callboard_export, revision: revision.0, instances, policies }, out)
}

/// Writes the line of a policy.
///
/// # Errors
///
/// When `out` cannot be written.
pub fn write_policy(stored: &StoredPolicy, out: &mut impl Write) -> io::Result<()> {
    write_line(&PolicyLine::new(stored), out)
}

/// Writes the line of an instance without saved states of its checks.
///
/// # Errors
///
/// When `out` cannot be written.
pub fn write_instance(stored: &StoredInstance, out: &mut impl Write) -> io::Result<()> {
    write_line(&ExportLine::new(stored, Vec::new()), out)
}

fn write_line(line: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// Returns the text of an error without the number of the line, which is always 1: each line is parsed alone.
fn json_error(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

/// Takes the check states of an instance from the front of `left`, which is in the order of instances. Skips the states of checks
/// that the instance no longer has.
fn take_states<'a>(instance: &Instance, left: &mut &'a [(CheckKey, SavedCheck)]) -> Vec<SavedCheckRecord> {
    let order = |((service, id, _), _): &(CheckKey, SavedCheck)| {
        (service.as_str(), id.as_str()).cmp(&(instance.service.as_str(), instance.id.as_str()))
    };
    *left = &left[left.partition_point(|state| order(state).is_lt())..];
    let (states, rest) = left.split_at(left.partition_point(|state| order(state).is_le()));
    *left = rest;
    let is_current = |((.., check), state): &&'a (CheckKey, SavedCheck)| {
        instance.checks.get(check.as_str()).is_some_and(|known| known.created == state.created)
    };
    states.iter().filter(is_current).map(|((.., check), state)| SavedCheckRecord::new(check, state)).collect()
}

/// Reads an export. Calls `progress` first with the number of all instances, then with 1 for each. The revision of the result is at
/// least that of every instance.
///
/// # Errors
///
/// When the lines are not a complete export, or contain an invalid value.
pub fn read(lines: impl BufRead, mut progress: impl FnMut(usize)) -> Result<LoadedRecords, ImportError> {
    let mut lines = lines.lines();
    let header = ExportHeader::read(&lines.next().transpose()?.unwrap_or_default())?;
    validate_revision(Revision(header.revision)).map_err(|reason| ImportError::Line { line: 1, reason })?;
    progress(header.instances);
    let (mut all, mut newest) = (Vec::new(), Revision(header.revision));
    let (mut keys, mut leases, mut found) = (HashMap::new(), HashSet::new(), 0);
    let mut policies = ImportedPolicies::default();
    for (line, text) in (2..).zip(lines) {
        let (text, invalid) = (text?, |reason: String| ImportError::Line { line, reason });
        if policy_line::is_policy(&text) {
            newest = newest.max(policies.add(&text).map_err(invalid)?);
            validate_revision(newest).map_err(invalid)?;
            continue;
        }
        let parsed: ExportLine = serde_json::from_str(&text).map_err(|error| invalid(json_error(&error)))?;
        let written_id = parsed.id.clone();
        let (stored, states) = parsed.into_stored().map_err(|error| invalid(error.to_string()))?;
        let instance = &stored.instance;
        newest = newest.max(instance.revision).max(instance.registered_revision);
        validate_revision(newest).map_err(invalid)?;
        found += 1;
        progress(1);
        match keys.entry((instance.service.clone(), instance.id.clone())) {
            Vacant(key) => {
                key.insert(all.len());
            }
            // Earlier versions distinguished node names by case. Of instances whose ids are the same now, the newest is
            // kept.
            Occupied(key) if *instance.id.as_str() != *written_id => {
                let known: &mut (StoredInstance, Vec<_>) = &mut all[*key.get()];
                if known.0.instance.revision < instance.revision {
                    *known = (stored, states);
                }
                continue;
            }
            Occupied(_) => {
                return Err(invalid(format!("{}/{} occurs twice: remove one", instance.service, instance.id)));
            }
        }
        if stored.lease.is_some_and(|lease| !leases.insert(lease.id)) {
            let reason = format!("the lease of {}/{} occurs twice: remove one", instance.service, instance.id);
            return Err(invalid(reason));
        }
        all.push((stored, states));
    }
    if found != header.instances {
        return Err(ImportError::Count { kind: "instances", expected: header.instances, found });
    }
    Ok(LoadedRecords { policies: policies.finish(header.policies)?, ..sorted(all, newest) })
}

/// Policies of the lines that were read.
#[derive(Debug, Default)]
struct ImportedPolicies(BTreeMap<PolicyScope, StoredPolicy>);

impl ImportedPolicies {
    /// Reads a line. Returns the newest revision of its policy.
    fn add(&mut self, line: &str) -> Result<Revision, String> {
        let parsed: PolicyLine = serde_json::from_str(line).map_err(|error| json_error(&error))?;
        let stored = parsed.into_stored().map_err(|error| error.to_string())?;
        let (scope, newest) = (stored.scope.clone(), stored.revisions.last().map(|newest| newest.revision));
        if self.0.len() == MAX_POLICIES {
            return Err(format!("there are more than {MAX_POLICIES} policies: remove some"));
        }
        match self.0.insert(scope.clone(), stored) {
            Some(_) => Err(format!("the policy of {scope} occurs twice: remove one")),
            None => Ok(newest.unwrap_or_default()),
        }
    }

    /// Returns all policies, sorted, after validation of each with the others. `expected`: their number in the header.
    fn finish(self, expected: usize) -> Result<Vec<StoredPolicy>, ImportError> {
        let policies: Vec<_> = self.0.into_values().collect();
        if policies.len() != expected {
            return Err(ImportError::Count { kind: "policies", expected, found: policies.len() });
        }
        let all = policies.iter().map(|stored| (&stored.scope, &*stored.revisions));
        validate_policies(all).map_err(|(scope, error)| ImportError::Policy { scope, error })?;
        Ok(policies)
    }
}

/// Sorts instances and the states of their checks as a store does.
fn sorted(all: Vec<(StoredInstance, Vec<(CheckId, SavedCheck)>)>, revision: Revision) -> LoadedRecords {
    let mut records = LoadedRecords { revision, ..LoadedRecords::default() };
    for (stored, states) in all {
        let Instance { service, id, .. } = &stored.instance;
        let states = states.into_iter().map(|(check, state)| ((service.clone(), id.clone(), check), state));
        records.check_states.extend(states);
        records.instances.push(stored);
    }
    let key = |StoredInstance { instance, .. }: &StoredInstance| (instance.service.clone(), instance.id.clone());
    records.instances.sort_unstable_by_key(key);
    records.check_states.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    records
}

impl ExportHeader {
    fn read(line: &str) -> Result<Self, ImportError> {
        let header: Self = serde_json::from_str(line).map_err(|error| {
            // A later version may write other fields besides the version.
            let version = serde_json::from_str::<serde_json::Value>(line).ok();
            let version = version.and_then(|header| u32::try_from(header["callboard_export"].as_u64()?).ok());
            match version {
                Some(found) if found > VERSION => ImportError::UnsupportedVersion { found },
                Some(_) | None => ImportError::Header(error.to_string()),
            }
        })?;
        let found = header.callboard_export;
        if found > VERSION { Err(ImportError::UnsupportedVersion { found }) } else { Ok(header) }
    }
}

fn validate_revision(revision: Revision) -> Result<(), String> {
    let error = || format!("revision {revision} is larger than any registry reaches: leave it as it was exported");
    (revision <= MAX_REVISION).then_some(()).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::engine::record::StoredLease;
    use crate::model::{BootId, CheckStatus, LeaseId, LeaseTerms, Locality, Metadata, Tags, UnixMillis};
    use crate::registry::test_support::entry;

    fn records() -> LoadedRecords {
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

    fn text(records: &LoadedRecords) -> String {
        let mut text = Vec::new();
        write(records, &mut text, || {}).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn import_error(text: &str) -> String {
        read(text.as_bytes(), |_| {}).unwrap_err().to_string()
    }

    #[test]
    fn imported_export_has_the_exported_records() {
        let exported = records();
        let mut progress = Vec::new();
        let read = read(text(&exported).as_bytes(), |step| progress.push(step)).unwrap();
        assert_eq!(read, LoadedRecords { revision: Revision(1 << 60), ..exported });
        assert_eq!(progress, [2, 1, 1]);
    }

    #[test]
    fn invalid_export_is_rejected_with_the_number_of_its_line() {
        let good = text(&records());
        let lines: Vec<&str> = good.lines().collect();
        assert!(import_error("").contains("this is not an export"));
        assert!(import_error("hello").contains("this is not an export"));
        assert!(import_error(r#"{"callboard_export":3,"more":1}"#).contains("version 3"));
        assert!(
            import_error(&lines[..2].join("\n")).starts_with("the export has 1 instances, but its first line says 2")
        );
        assert!(import_error(&[lines[0], lines[1], lines[1]].join("\n")).contains("line 3: web/a occurs twice"));
        let other = good.replace(r#""port":80"#, r#""port":80000"#);
        assert!(import_error(&other).starts_with("line 2: addresses[0].port"), "{}", import_error(&other));
        let truncated = &good[..good.len() - 20];
        assert!(import_error(truncated).starts_with("line 3: "));
        let large = good.replace(&(1_u64 << 60).to_string(), &u64::MAX.to_string());
        assert!(import_error(&large).contains("is larger than any registry reaches"), "{}", import_error(&large));
        let large =
            lines[0].replace("\"revision\":9,\"instances\":2", "\"revision\":18446744073709551615,\"instances\":0");
        assert!(
            import_error(&large).starts_with("line 1: revision 18446744073709551615 is larger"),
            "{}",
            import_error(&large)
        );
        assert!(import_error(&good.replace("\"9s 500ms\"", "\"soon\"")).contains("is not a duration"));
        assert!(import_error(&good.replace("00000000005\"", "5\"")).contains("32 hexadecimal digits"));
    }

    #[test]
    fn export_with_the_field_names_of_earlier_versions_is_imported() {
        let lines = [
            r#"{"callboard_export":1,"revision":9,"instances":1}"#,
            r#"{"service":"web","id":"a","addresses":[{"host":"::1","port":80}],"weight":1,"leaving":true,"drained":true,"#,
            r#""proved":true,"checks":[{"id":"c","verdict":"warning","created":3,"stated":{"output":"slow"}}],"#,
            r#""check_states":[{"check":"c","created":3,"last":{"at_ms":5,"verdict":"critical"}}],"#,
            r#""listing":{"id":"a","described":7},"registered_at":"2026-01-31T12:00:00Z","registered_revision":1,"revision":8}"#,
        ];
        let text = format!("{}\n{}", lines[0], lines[1..].concat());
        let records = read(text.as_bytes(), |_| {}).unwrap();
        let instance = &records.instances[0].instance;
        assert!(instance.conditions.self_draining && instance.conditions.operator_draining);
        assert!(instance.conditions.was_healthy);
        assert_eq!(instance.consul_registration.as_ref().unwrap().description_revision, Revision(7));
        let check = instance.checks.get("c").unwrap();
        assert_eq!(check.status, CheckStatus::Warning);
        assert_eq!(&*check.definition.description.as_ref().unwrap().output, "slow");
        assert_eq!(records.check_states[0].1.last.as_ref().unwrap().status, CheckStatus::Critical);
    }
}
