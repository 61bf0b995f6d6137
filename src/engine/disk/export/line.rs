//! Line of an export: one instance as JSON.
//!
//! Exports of earlier versions have other names for some fields, which are read as aliases.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    engine::{
        SavedCheck,
        record::{
            RecordConsulRegistration, StoredInstance, StoredLease,
            check::{self, RecordCheck},
            saved::SavedCheckRecord,
        },
    },
    model::{
        Address, BootId, CheckId, Conditions, FieldError, Instance, InstanceId, LeaseId, LeaseTerms, Locality,
        Metadata, Revision, ServiceName, Tags, UnixMillis, Weight,
    },
};

/// Last millisecond of the year 9999, beyond which RFC 3339 has no times.
const MAX_RFC3339_MILLIS: u64 = 253_402_300_799_999;

/// Instance with its lease and the saved states of its checks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "conditions, each of which may be set")]
pub struct ExportLine {
    service: String,
    /// Id of the instance, as it was written.
    pub id: String,
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
    #[serde(default, skip_serializing_if = "is_false", alias = "leaving")]
    self_draining: bool,
    #[serde(default, skip_serializing_if = "is_false", alias = "drained")]
    operator_draining: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    suspect: bool,
    #[serde(default, skip_serializing_if = "is_false", alias = "proved")]
    was_healthy: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    node_drained: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    node_critical: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    node_warning: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    checks: Vec<RecordCheck>,
    /// Saved states of some or all checks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    check_states: Vec<SavedCheckRecord>,
    /// Present for a registration through the Consul API.
    #[serde(default, skip_serializing_if = "Option::is_none", alias = "listing")]
    consul_registration: Option<RecordConsulRegistration>,
    registered_at: String,
    registered_revision: u64,
    revision: u64,
    /// Absent for a registration that lasts until it is removed.
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
    ttl: ExportDuration,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disconnect_grace: Option<ExportDuration>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl ExportLine {
    /// Encodes an instance and the saved states of its checks.
    pub fn new(stored: &StoredInstance, check_states: Vec<SavedCheckRecord>) -> Self {
        let StoredInstance { instance, lease } = stored;
        let address = |address: &Address| LineAddress {
            host: address.host.to_string(),
            port: address.port.into(),
            name: address.name.to_string(),
        };
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
            starting: instance.conditions.starting,
            self_draining: instance.conditions.self_draining,
            operator_draining: instance.conditions.operator_draining,
            suspect: instance.conditions.suspect,
            was_healthy: instance.conditions.was_healthy,
            node_drained: instance.conditions.node_drained,
            node_critical: instance.conditions.node_critical,
            node_warning: instance.conditions.node_warning,
            checks: check::encode(&instance.checks),
            check_states,
            consul_registration: instance.consul_registration.as_deref().map(RecordConsulRegistration::new),
            registered_at: time_text(instance.registered_at),
            registered_revision: instance.registered_revision.0,
            revision: instance.revision.0,
            lease: lease.map(|lease| LineLease {
                id: format!("{:032x}", lease.id.0),
                boot: format!("{:032x}", lease.boot.digest()),
                ttl: ExportDuration(lease.terms.ttl()),
                disconnect_grace: lease.terms.disconnect_grace().map(ExportDuration),
            }),
        }
    }

    /// Decodes the instance and the saved states of its checks.
    pub fn into_stored(self) -> Result<(StoredInstance, Vec<(CheckId, SavedCheck)>), FieldError> {
        let addresses = self.addresses.iter().map(|address| (address.host.as_str(), address.port, &*address.name));
        let locality = self.locality.unwrap_or_default();
        let registered_at = parse_time(&self.registered_at)?;
        let service = ServiceName::parse_stored(&self.service)?;
        let mut consul_registration =
            self.consul_registration.as_ref().map(RecordConsulRegistration::to_registration).transpose()?;
        let instance = Instance {
            id: InstanceId::from_stored(&service, &self.id, consul_registration.as_mut())?,
            service,
            addresses: Address::parse_all_stored(addresses)?,
            tags: Tags::parse_stored(&self.tags)?,
            metadata: Metadata::parse_stored(self.metadata.iter())?,
            weight: Weight::parse(self.weight)?,
            locality: Locality::parse(&locality.region, &locality.zone, &locality.sub_zone)?,
            conditions: Conditions {
                starting: self.starting,
                self_draining: self.self_draining,
                operator_draining: self.operator_draining,
                suspect: self.suspect,
                was_healthy: self.was_healthy,
                node_drained: self.node_drained,
                node_critical: self.node_critical,
                node_warning: self.node_warning,
            },
            checks: check::decode(&self.checks)?,
            consul_registration,
            registered_at,
            registered_revision: Revision(self.registered_revision),
            revision: Revision(self.revision),
        };
        let states = self.check_states.into_iter().map(SavedCheckRecord::into_saved).collect::<Result<Vec<_>, _>>()?;
        for (at, (check, state)) in states.iter().enumerate() {
            let known = instance.checks.get(check.as_str()).is_some_and(|known| known.created == state.created);
            if !known || states[..at].iter().any(|(other, _)| other == check) {
                let hint = "give at most one state for each check of the instance, with the check's own \"created\"";
                return Err(FieldError::new(
                    "check_states.check",
                    check.as_str(),
                    "is not a check of the instance, or occurs twice",
                    hint,
                ));
            }
        }
        Ok((StoredInstance { instance, lease: self.lease.map(LineLease::into_lease).transpose()? }, states))
    }
}

/// Formats a time by RFC 3339. A time beyond the year 9999, which only a wrong clock yields, is a number of milliseconds since 1970.
pub fn time_text(UnixMillis(millis): UnixMillis) -> String {
    if millis > MAX_RFC3339_MILLIS {
        return millis.to_string();
    }
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_millis(millis)).to_string()
}

/// Parses a time that [`time_text`] wrote.
pub fn parse_time(text: &str) -> Result<UnixMillis, FieldError> {
    let number = text.parse().ok().filter(|millis| *millis > MAX_RFC3339_MILLIS);
    let read = || {
        let since = humantime::parse_rfc3339(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        u64::try_from(since.as_millis()).ok()
    };
    let error = || FieldError::new("registered_at", text, "is not a time", "write a time such as 2026-01-31T12:00:00Z");
    number.or_else(read).map(UnixMillis).ok_or_else(error)
}

impl LineLease {
    fn into_lease(self) -> Result<StoredLease, FieldError> {
        Ok(StoredLease {
            id: LeaseId(parse_hex("lease.id", &self.id)?),
            boot: BootId::from_digest(parse_hex("lease.boot", &self.boot)?),
            terms: LeaseTerms::grant(Some(self.ttl.0), self.disconnect_grace.map(|span| span.0)),
        })
    }
}

/// Parses a number of 32 hexadecimal digits.
fn parse_hex(field: &'static str, text: &str) -> Result<u128, FieldError> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
    // The error does not show the text, which may be a secret.
    number.ok_or_else(|| {
        FieldError::without_value(field, "is not a number of 32 hexadecimal digits", "leave it as it was exported")
    })
}

/// Duration as text with a unit: `15s`.
#[derive(Debug, Clone, Copy)]
struct ExportDuration(Duration);

impl Serialize for ExportDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for ExportDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Self).map_err(|_| {
            D::Error::custom(format!("{text:?} is not a duration: write a number with a unit, such as 15s"))
        })
    }
}
