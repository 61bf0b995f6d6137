//! A registry as JSON Lines: for backups, for moving house, and for formats to come.
//!
//! The first line says what follows and how many; then comes a line for each instance, by service and id. Everything is in
//! it that a restart would find, also the ids of leases: whoever reads it can speak for the registrations.
//!
//! Reading takes nothing on trust: each value goes through the same checks as when it was registered.

use std::{
    collections::{
        BTreeMap, HashMap, HashSet,
        hash_map::Entry::{Occupied, Vacant},
    },
    io::{self, BufRead, Write},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{
    record::{
        Stored, StoredLease,
        check::{self, KeptCheck, KeptListing},
    },
    store::Found,
};
use crate::model::{
    Address, BootId, Instance, InstanceId, Invalid, LeaseId, Locality, Marks, Metadata, Revision, ServiceName, Tags,
    Terms, WallTime, Weight,
};

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
struct Header {
    callboard_export: u32,
    revision: u64,
    instances: usize,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "marks, each of which may be set")]
struct Line {
    service: String,
    id: String,
    addresses: Vec<LineAddress>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    weight: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    locality: Option<LineLocality>,
    #[serde(default, skip_serializing_if = "is_false")]
    starting: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    leaving: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    drained: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    suspect: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    proved: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    node_drained: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    node_critical: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    node_warning: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    checks: Vec<KeptCheck>,
    /// What was said in Consul's words. Without it, ours were spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    listing: Option<KeptListing>,
    registered_at: String,
    registered_revision: u64,
    revision: u64,
    /// Without one, the instance stays until somebody removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<LineLease>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LineAddress {
    host: String,
    port: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LineLocality {
    #[serde(skip_serializing_if = "String::is_empty")]
    region: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    zone: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sub_zone: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LineLease {
    id: String,
    boot: String,
    ttl: Span,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disconnect_grace: Option<Span>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Writes what was found in a store. `told` hears of each instance.
///
/// # Errors
///
/// When it cannot be written.
pub fn write(found: &Found, out: &mut impl Write, mut told: impl FnMut()) -> io::Result<()> {
    let header = Header { callboard_export: VERSION, revision: found.revision.0, instances: found.instances.len() };
    serde_json::to_writer(&mut *out, &header)?;
    out.write_all(b"\n")?;
    for stored in &found.instances {
        serde_json::to_writer(&mut *out, &Line::new(stored))?;
        out.write_all(b"\n")?;
        told();
    }
    out.flush()
}

/// Reads an export: its instances, and a revision that none of them is after. `told` hears of how many there are in all, and
/// then of each.
///
/// # Errors
///
/// When it is no export, not complete, or has a value that no registration has.
pub fn read(lines: impl BufRead, mut told: impl FnMut(usize)) -> Result<(Vec<Stored>, Revision), ImportError> {
    let mut lines = lines.lines();
    let header = lines.next().transpose()?.unwrap_or_default();
    let header: Header = serde_json::from_str(&header).map_err(|error| {
        // What a later version has written may have other fields beside the version.
        let version = serde_json::from_str::<serde_json::Value>(&header).ok();
        let version = version.and_then(|header| u32::try_from(header["callboard_export"].as_u64()?).ok());
        match version {
            Some(found) if found > VERSION => ImportError::Newer { found },
            _ => ImportError::Header(error.to_string()),
        }
    })?;
    if header.callboard_export > VERSION {
        return Err(ImportError::Newer { found: header.callboard_export });
    }
    reached(Revision(header.revision)).map_err(|problem| ImportError::Line { line: 1, problem })?;
    told(header.instances);
    let (mut instances, mut newest) = (Vec::new(), Revision(header.revision));
    let (mut keys, mut leases, mut found) = (HashMap::new(), HashSet::new(), 0);
    for (line, text) in (2..).zip(lines) {
        let wrong = |problem: String| ImportError::Line { line, problem };
        let stored: Line = serde_json::from_str(&text?).map_err(|error| wrong(error.to_string()))?;
        let id = stored.id.clone();
        let stored = stored.into_stored().map_err(|invalid| wrong(invalid.to_string()))?;
        let instance = &stored.instance;
        newest = newest.max(instance.revision).max(instance.registered_revision);
        reached(newest).map_err(wrong)?;
        found += 1;
        told(1);
        match keys.entry((instance.service.clone(), instance.id.clone())) {
            Vacant(place) => {
                place.insert(instances.len());
            }
            // Names that an earlier version told apart may be one, as those of nodes that differ in case: the newest stays.
            Occupied(known) if *instance.id.as_str() != *id => {
                let known: &mut Stored = &mut instances[*known.get()];
                if known.instance.revision < instance.revision {
                    *known = stored;
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
        instances.push(stored);
    }
    if found != header.instances {
        return Err(ImportError::Count { said: header.instances, found });
    }
    Ok((instances, newest))
}

fn reached(revision: Revision) -> Result<(), String> {
    let problem = || format!("revision {revision} is none that a registry reaches: leave it as it was exported");
    (revision <= LATEST).then_some(()).ok_or_else(problem)
}

impl Line {
    fn new(stored: &Stored) -> Self {
        let Stored { instance, lease } = stored;
        let address = |address: &Address| LineAddress {
            host: address.host.to_string(),
            port: address.port.into(),
            name: address.name.to_string(),
        };
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(instance.registered_at.0);
        Self {
            service: instance.service.to_string(),
            id: instance.id.to_string(),
            addresses: instance.addresses.iter().map(address).collect(),
            tags: instance.tags.iter().map(str::to_owned).collect(),
            metadata: instance.metadata.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            weight: instance.weight.get().into(),
            locality: instance.locality.as_deref().map(|locality| LineLocality {
                region: locality.region.to_string(),
                zone: locality.zone.to_string(),
                sub_zone: locality.sub_zone.to_string(),
            }),
            starting: instance.marks.starting,
            leaving: instance.marks.leaving,
            drained: instance.marks.drained,
            suspect: instance.marks.suspect,
            proved: instance.marks.proved,
            node_drained: instance.marks.node_drained,
            node_critical: instance.marks.node_critical,
            node_warning: instance.marks.node_warning,
            checks: check::keep(&instance.checks),
            listing: instance.listing.as_deref().map(KeptListing::new),
            registered_at: humantime::format_rfc3339_millis(at).to_string(),
            registered_revision: instance.registered_revision.0,
            revision: instance.revision.0,
            lease: lease.map(|lease| LineLease {
                id: format!("{:032x}", lease.id.0),
                boot: format!("{:032x}", lease.boot.digest()),
                ttl: Span(lease.terms.ttl()),
                disconnect_grace: lease.terms.disconnect_grace().map(Span),
            }),
        }
    }

    fn into_stored(self) -> Result<Stored, Invalid> {
        let addresses = self.addresses.iter().map(|address| (address.host.as_str(), address.port, &*address.name));
        let locality = self.locality.unwrap_or_default();
        let at = humantime::parse_rfc3339(&self.registered_at).ok();
        let at = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok()).ok_or_else(|| {
            Invalid::new("registered_at", &self.registered_at, "is no time", "write it as 2026-01-31T12:00:00Z")
        })?;
        let service = ServiceName::kept(&self.service)?;
        let mut listing = self.listing.as_ref().map(KeptListing::listing).transpose()?;
        let instance = Instance {
            id: InstanceId::restored(&service, &self.id, listing.as_mut())?,
            service,
            addresses: Address::kept(addresses)?,
            tags: Tags::kept(&self.tags)?,
            metadata: Metadata::kept(self.metadata.iter())?,
            weight: Weight::parse(self.weight)?,
            locality: Locality::parse(&locality.region, &locality.zone, &locality.sub_zone)?,
            marks: Marks {
                starting: self.starting,
                leaving: self.leaving,
                drained: self.drained,
                suspect: self.suspect,
                proved: self.proved,
                node_drained: self.node_drained,
                node_critical: self.node_critical,
                node_warning: self.node_warning,
            },
            checks: check::restore(&self.checks)?,
            listing,
            registered_at: WallTime(u64::try_from(at.as_millis()).unwrap_or(u64::MAX)),
            registered_revision: Revision(self.registered_revision),
            revision: Revision(self.revision),
        };
        Ok(Stored { instance, lease: self.lease.map(LineLease::into_lease).transpose()? })
    }
}

impl LineLease {
    fn into_lease(self) -> Result<StoredLease, Invalid> {
        Ok(StoredLease {
            id: LeaseId(hex("lease.id", &self.id)?),
            boot: BootId::from_digest(hex("lease.boot", &self.boot)?),
            terms: Terms::grant(Some(self.ttl.0), self.disconnect_grace.map(|span| span.0)),
        })
    }
}

fn hex(field: &'static str, text: &str) -> Result<u128, Invalid> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
    // It may be a secret: it is not shown.
    number
        .ok_or_else(|| Invalid::unshown(field, "is no number of 32 hexadecimal digits", "leave it as it was exported"))
}

/// A length of time as people write it: `15s`.
#[derive(Debug, Clone, Copy)]
struct Span(Duration);

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map(Self)
            .map_err(|_| D::Error::custom(format!("{text:?} is no length of time: write a number with a unit, as 15s")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::test_support::entry;

    fn found() -> Found {
        let mut plain = entry("web", "a", 7).instance.clone();
        plain.registered_at = WallTime(1_700_000_000_123);
        let mut rich = entry("web", "b", 1).instance.clone();
        rich.tags = Tags::parse(&["v1"]).unwrap();
        rich.metadata =
            Metadata::parse(BTreeMap::from([("line".to_owned(), "one\ntwo \u{1f3ad}".to_owned())]).iter()).unwrap();
        rich.locality = Locality::parse("", "eu-1", "").unwrap();
        rich.marks.drained = true;
        rich.revision = Revision(1 << 60);
        let terms = Terms::grant(Some(Duration::from_millis(9_500)), Some(Duration::ZERO));
        let lease = StoredLease { id: LeaseId(5), boot: BootId::parse("boot").unwrap(), terms };
        let instances = vec![Stored { instance: plain, lease: None }, Stored { instance: rich, lease: Some(lease) }];
        Found { instances, revision: Revision(9), lossy: false }
    }

    fn text(found: &Found) -> String {
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
        let (instances, newest) = read(text(&found).as_bytes(), |step| progress.push(step)).unwrap();
        assert_eq!((instances, newest), (found.instances, Revision(1 << 60)));
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
