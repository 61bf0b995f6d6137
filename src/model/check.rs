//! Checks: how the registry finds out whether an instance works, and what it found.
//!
//! The words are Consul's, whose users know them: a check *passes*, *warns*, or is *critical*. Who runs a check, and when, is
//! not here.

mod description;
mod http_probe;

use std::{borrow::Borrow, fmt, net::Ipv6Addr, sync::Arc, time::Duration};

pub use http_probe::HttpProbe;

pub use description::CheckDescription;
pub(crate) use description::MAX_DESCRIBED_OUTPUT_BYTES;

use super::{FieldError, Revision, label};

/// Most checks of one instance.
const MOST: usize = 32;
/// Longest id, name and note of a check, in bytes.
const LONGEST: usize = 512;
/// Largest output of a target, or of a report, that is kept, in bytes; also where nothing is said.
const MAX_OUTPUT_BYTES: u32 = 4_096;
/// How long a probe may take, where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(10);
/// No check is made more often.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest time that a report of a TTL check holds: a program cannot report in time to a shorter one.
const MIN_TTL: Duration = Duration::from_secs(1);
/// No span of a check is longer.
const LONGEST_SPAN: Duration = Duration::from_hours(24 * 30);
/// Nobody is removed for being critical for less.
const SHORTEST_REPRIEVE: Duration = Duration::from_mins(1);

/// What identifies a check on its node: 1 to 512 bytes of printable text. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckId(Arc<str>);

impl CheckId {
    /// Takes an id as given.
    ///
    /// # Errors
    ///
    /// When it is empty, longer than 512 bytes, or has a control character.
    pub fn parse(id: &str) -> Result<Self, FieldError> {
        label::text("check.id", id, LONGEST)?;
        Ok(Self(id.into()))
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CheckId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CheckId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for CheckId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What a check says. The worst is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckStatus {
    /// It works.
    Passing,
    /// It works, not well: it gets its warning weight.
    Warning,
    /// It does not work.
    Critical,
}

impl CheckStatus {
    /// In Consul's words: `passing`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// The reverse of [`CheckStatus::as_str`].
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Passing, Self::Warning, Self::Critical].into_iter().find(|status| status.as_str() == word)
    }
}

impl fmt::Display for CheckStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a check comes to its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// An HTTP request.
    Http(HttpProbe),
    /// A connection: it passes when it is made.
    Tcp {
        /// Where.
        target: ProbeTarget,
        /// A TLS handshake has to succeed, too.
        tls: Option<ProbeTls>,
    },
    /// `grpc.health.v1.Health/Check`: it passes on `SERVING`.
    Grpc {
        /// Where.
        target: ProbeTarget,
        /// Which service is asked about; empty for the whole server.
        service: Box<str>,
        /// Over TLS.
        tls: Option<ProbeTls>,
    },
    /// The instance says itself how it is, again and again: who does not for an interval is critical.
    Ttl,
    /// Whoever registered it has said how it is, and says so again when it changes.
    Static,
}

impl Probe {
    /// The kind, as Consul names it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Tcp { .. } => "tcp",
            Self::Grpc { .. } => "grpc",
            Self::Ttl => "ttl",
            Self::Static => "",
        }
    }

    /// Whether the registry makes it, again and again.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self, Self::Http(_) | Self::Tcp { .. } | Self::Grpc { .. })
    }
}

/// How a probe speaks TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbeTls {
    /// The name that the certificate must have; empty for that of the target.
    pub server_name: Box<str>,
    /// Whose certificate it is does not matter.
    pub skip_verify: bool,
}

/// Where a probe connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeTarget {
    /// An IP address without brackets, or a host name.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
}

impl ProbeTarget {
    /// Parses `host:port`. An IPv6 address stands in brackets, and nothing else does.
    ///
    /// # Errors
    ///
    /// When it has no host, or no port from 1 to 65535; when an IPv6 address has no brackets, for then nobody can say where it ends.
    pub fn parse(field: &'static str, text: &str) -> Result<Self, FieldError> {
        let refused = |problem| {
            FieldError::new(field, text, problem, "write host:port, with an IPv6 address in brackets, as [::1]:80")
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| refused("has no port"))?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port > 0);
        let port = port.ok_or_else(|| refused("has no port from 1 to 65535"))?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or_else(|| refused("has a bracket that is not closed"))?;
                let (address, zone) = inner.split_once('%').map_or((inner, None), |(at, zone)| (at, Some(zone)));
                if address.parse::<Ipv6Addr>().is_err() || zone == Some("") {
                    return Err(refused("has something else than an IPv6 address in brackets"));
                }
                inner
            }
            None if host.contains(':') => return Err(refused("has too many colons")),
            None => host,
        };
        let bad = |c: char| c.is_whitespace() || c.is_control() || "/[]@?#".contains(c);
        if host.is_empty() || host.len() > 253 || host.contains(bad) {
            return Err(refused("has no host"));
        }
        Ok(Self { host: host.into(), port })
    }
}

impl fmt::Display for ProbeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How many results in a row it takes to change a status. At least 1 each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Successes until it passes.
    pub passing: u32,
    /// Failures until it warns; no more than those until it is critical.
    pub warning: u32,
    /// Failures until it is critical.
    pub critical: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { passing: 1, warning: 1, critical: 1 }
    }
}

/// What is checked, how, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckDefinition {
    /// Names it.
    pub id: CheckId,
    /// For people.
    pub name: Box<str>,
    /// For people.
    pub notes: Box<str>,
    /// How.
    pub probe: Probe,
    /// From one probe to the next; of [`Probe::Ttl`], how long what was said holds.
    pub interval: Duration,
    /// How long a probe may take, as it was given; zero where it was not: see [`CheckDefinition::time_limit`].
    pub timeout: Duration,
    /// How many results it takes.
    pub thresholds: Thresholds,
    /// Who is critical for so long is removed. `None`: never.
    pub deregister_after: Option<Duration>,
    /// Most bytes that are kept of what the target, or a report, says.
    pub output_max_size: u32,
    /// True for a check that was registered by itself, not with its instance.
    pub separate: bool,
    /// What was said of a check of [`Probe::Static`] beside its status.
    pub description: Option<Box<CheckDescription>>,
}

impl CheckDefinition {
    /// A definition without anything unusual.
    #[must_use]
    pub fn new(id: CheckId, name: &str, probe: Probe) -> Self {
        Self {
            id,
            name: name.into(),
            notes: Box::default(),
            probe,
            interval: Duration::ZERO,
            timeout: Duration::ZERO,
            thresholds: Thresholds::default(),
            deregister_after: None,
            output_max_size: MAX_OUTPUT_BYTES,
            separate: false,
            description: None,
        }
    }

    /// Returns how long a probe may take: 10 s where nothing was said.
    #[must_use]
    pub fn time_limit(&self) -> Duration {
        if self.timeout.is_zero() { TIMEOUT } else { self.timeout }
    }

    /// The same within what is allowed: an interval of a second or more, a reprieve of a minute or more, an output of 4,096 bytes
    /// at most. As Consul does, what is too short is lengthened rather than refused.
    ///
    /// # Errors
    ///
    /// When a text is too long, a span is, what is asked again and again has no interval, or a TTL is below a second.
    pub fn check(self) -> Result<Self, FieldError> {
        if self.probe == Probe::Ttl {
            Self::check_ttl(self.interval)?;
        }
        self.normalized()
    }

    /// The same as it was stored. Earlier versions accepted any TTL: one that they stored as zero, because it was below a
    /// millisecond, becomes the shortest that is accepted now. Its check could not be kept passing, but its instance is whole.
    ///
    /// # Errors
    ///
    /// When no version has accepted it.
    pub fn kept(mut self) -> Result<Self, FieldError> {
        if self.probe == Probe::Ttl && self.interval.is_zero() {
            self.interval = MIN_TTL;
        }
        self.normalized()
    }

    /// Refuses a TTL below a second. Zero stands for none.
    ///
    /// # Errors
    ///
    /// When it is one.
    pub fn check_ttl(ttl: Duration) -> Result<(), FieldError> {
        if ttl.is_zero() || ttl >= MIN_TTL {
            return Ok(());
        }
        let shown = humantime::format_duration(ttl).to_string();
        let remedy =
            "give a number with a unit, as \"10s\"; an integer without a unit is a number of nanoseconds, as in Go";
        Err(FieldError::new("check.ttl", &shown, "is shorter than 1s", remedy))
    }

    fn normalized(self) -> Result<Self, FieldError> {
        for (field, text) in [("check.name", &self.name), ("check.notes", &self.notes)] {
            if text.len() > LONGEST || text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
                return Err(FieldError::new(
                    field,
                    text,
                    "is too long or has a control character",
                    "use 512 bytes of text",
                ));
            }
        }
        let has_interval = self.probe.is_active() || self.probe == Probe::Ttl;
        if has_interval && self.interval.is_zero() {
            let remedy = "say how often it is made, as 10s";
            return Err(FieldError::without_value("check.interval", "is not given", remedy));
        }
        let spans = [("check.interval", self.interval), ("check.timeout", self.timeout)];
        let reprieve = self.deregister_after.map(|after| ("check.deregister_critical_service_after", after));
        for (field, span) in spans.into_iter().chain(reprieve) {
            if span > LONGEST_SPAN {
                let shown = humantime::format_duration(span).to_string();
                return Err(FieldError::new(field, &shown, "is longer than 30 days", "shorten it"));
            }
        }
        if let Probe::Http(request) = &self.probe {
            request.check()?;
        }
        let Thresholds { passing, warning, critical } = self.thresholds;
        let critical = critical.max(1);
        let interval = match self.probe {
            Probe::Static => Duration::ZERO,
            Probe::Ttl => self.interval,
            _ => self.interval.max(SHORTEST_INTERVAL),
        };
        Ok(Self {
            interval,
            description: self.description.map(|description| description.check().map(Box::new)).transpose()?,
            thresholds: Thresholds {
                passing: passing.max(1),
                warning: if warning == 0 { critical } else { warning.min(critical) },
                critical,
            },
            deregister_after: self
                .deregister_after
                .filter(|after| !after.is_zero())
                .map(|after| after.max(SHORTEST_REPRIEVE)),
            output_max_size: match self.output_max_size {
                0 => MAX_OUTPUT_BYTES,
                size => size.min(MAX_OUTPUT_BYTES),
            },
            ..self
        })
    }
}

/// A check of an instance, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is checked, and how.
    pub definition: Arc<CheckDefinition>,
    /// What it says.
    pub status: CheckStatus,
    /// The revision at which it was added.
    pub created: Revision,
    /// The revision at which it last said something else, or was defined anew.
    pub revision: Revision,
    /// Revision at which the definition last changed. It identifies the definition among those that the check has had.
    pub definition_revision: Revision,
}

/// The checks of one instance, in the order in which they were added; each id once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstanceChecks(Box<[Check]>);

impl InstanceChecks {
    /// Takes these checks.
    ///
    /// # Errors
    ///
    /// When there are more than 32, or two have one id.
    pub fn new(checks: Vec<Check>) -> Result<Self, FieldError> {
        if checks.len() > MOST {
            return Err(FieldError::without_value("checks", format!("are {}", checks.len()), "give at most 32"));
        }
        let twice = (1..checks.len()).find(|at| checks[..*at].iter().any(|other| other.id() == checks[*at].id()));
        if let Some(at) = twice {
            let remedy = "give each check of an instance an id of its own";
            return Err(FieldError::new("check.id", checks[at].id().as_str(), "is there twice", remedy));
        }
        Ok(Self(checks.into()))
    }

    /// The checks.
    pub fn iter(&self) -> std::slice::Iter<'_, Check> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Check> {
        self.iter().find(|check| check.id().as_str() == id)
    }

    /// What the worst of them says; without any, that it works.
    #[must_use]
    pub fn aggregate_status(&self) -> CheckStatus {
        self.iter().map(|check| check.status).max().unwrap_or(CheckStatus::Passing)
    }

    /// The same checks with their revisions: what is as it was `before` keeps those it had, and what comes from elsewhere those it
    /// brings; the rest gets `revision`.
    #[must_use]
    pub(crate) fn stamped(mut self, before: Option<&Self>, revision: Revision) -> Self {
        for check in &mut self.0 {
            if let Some(old) = before.and_then(|before| before.get(check.id().as_str()))
                && old.created == check.created
            {
                let same_definition = old.definition == check.definition;
                let same = same_definition && old.status == check.status;
                check.revision = if same { old.revision } else { revision };
                check.definition_revision = if same_definition { old.definition_revision } else { revision };
            }
            for own in [&mut check.created, &mut check.revision, &mut check.definition_revision] {
                if *own == Revision::default() {
                    *own = revision;
                }
            }
        }
        self
    }
}

impl<'a> IntoIterator for &'a InstanceChecks {
    type Item = &'a Check;
    type IntoIter = std::slice::Iter<'a, Check>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Check {
    /// A check that has been given no revision yet.
    #[must_use]
    pub fn new(definition: Arc<CheckDefinition>, status: CheckStatus) -> Self {
        let unset = Revision::default();
        Self { definition, status, created: unset, revision: unset, definition_revision: unset }
    }

    /// Names it.
    #[must_use]
    pub fn id(&self) -> &CheckId {
        &self.definition.id
    }
}

#[cfg(test)]
#[path = "check/tests.rs"]
mod tests;
