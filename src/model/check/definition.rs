//! Definition of a check: what is checked, by which probe, and how often.

use std::time::Duration;

use super::{CheckDescription, CheckId, Probe};
use crate::model::FieldError;

/// Maximum length of the name and the notes of a check in bytes.
const MAX_TEXT_BYTES: usize = 512;
/// Maximum and default length of the stored output of a probe or a report in bytes.
const MAX_OUTPUT_BYTES: u32 = 4_096;
/// Timeout of a probe whose definition has none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Minimum time from one probe to the next.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum TTL of a check: a program cannot report in time for a shorter one.
const MIN_TTL: Duration = Duration::from_secs(1);
/// Maximum of every duration in a definition.
const MAX_DURATION: Duration = Duration::from_hours(24 * 30);
/// Minimum time for which a check must be critical before its instance is removed.
const MIN_DEREGISTER_AFTER: Duration = Duration::from_mins(1);

/// Numbers of consecutive results that change the status. At least 1 each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Successes until the check is passing.
    pub passing: u32,
    /// Failures until the check is warning; at most those until it is critical.
    pub warning: u32,
    /// Failures until the check is critical.
    pub critical: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { passing: 1, warning: 1, critical: 1 }
    }
}

/// Definition of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckDefinition {
    /// Id of the check.
    pub id: CheckId,
    /// Name, for people.
    pub name: Box<str>,
    /// Notes, for people.
    pub notes: Box<str>,
    /// Probe that finds the status.
    pub probe: Probe,
    /// Time from one probe to the next. For [`Probe::Ttl`], the TTL of a report.
    pub interval: Duration,
    /// Timeout of a probe as given; zero if none was given. [`CheckDefinition::time_limit`] returns the timeout that
    /// applies.
    pub timeout: Duration,
    /// Numbers of consecutive results that change the status.
    pub thresholds: Thresholds,
    /// Time for which the check must be critical until the instance is removed. `None`: it is not removed.
    pub deregister_after: Option<Duration>,
    /// Maximum length of the stored output in bytes.
    pub output_max_size: u32,
    /// True for a check that was registered by itself, not with its instance.
    pub separate: bool,
    /// Description of a check with [`Probe::Static`], as its registration gives it.
    pub description: Option<Box<CheckDescription>>,
}

impl CheckDefinition {
    /// A definition with default values.
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

    /// Timeout of a probe: 10 s if the definition has none.
    #[must_use]
    pub fn time_limit(&self) -> Duration {
        if self.timeout.is_zero() { DEFAULT_TIMEOUT } else { self.timeout }
    }

    /// Validates a new definition and moves its values into their ranges: an interval of at least 1 s, at least a minute until
    /// deregistration, an output of at most 4,096 bytes. Like Consul, it lengthens times that are too short.
    ///
    /// # Errors
    ///
    /// When a text or a duration is too long, a probe has no interval, or a TTL is below a second.
    pub fn validated(self) -> Result<Self, FieldError> {
        if self.probe == Probe::Ttl {
            Self::validate_ttl(self.interval)?;
        }
        self.in_range()
    }

    /// Validates a stored definition. Earlier versions accepted any TTL: one below a millisecond, which they stored as zero, becomes
    /// the minimum. Its check could never be passing, but its instance is valid.
    ///
    /// # Errors
    ///
    /// When no version has accepted the definition.
    pub fn validated_stored(mut self) -> Result<Self, FieldError> {
        if self.probe == Probe::Ttl && self.interval.is_zero() {
            self.interval = MIN_TTL;
        }
        self.in_range()
    }

    /// Validates a TTL. Zero means that there is none.
    ///
    /// # Errors
    ///
    /// When the TTL is below a second.
    pub fn validate_ttl(ttl: Duration) -> Result<(), FieldError> {
        if ttl.is_zero() || ttl >= MIN_TTL {
            return Ok(());
        }
        let shown = humantime::format_duration(ttl).to_string();
        let hint = "give a number with a unit, such as \"10s\"; an integer without a unit is a number of nanoseconds, as in Go";
        Err(FieldError::new("check.ttl", &shown, "is shorter than 1s", hint))
    }

    fn in_range(self) -> Result<Self, FieldError> {
        self.validate_texts()?;
        self.validate_durations()?;
        if let Probe::Http(request) = &self.probe {
            request.validate()?;
        }
        let Thresholds { passing, warning, critical } = self.thresholds;
        let critical = critical.max(1);
        let interval = match self.probe {
            Probe::Static => Duration::ZERO,
            Probe::Ttl => self.interval,
            Probe::Http(_) | Probe::Tcp { .. } | Probe::Grpc { .. } => self.interval.max(MIN_INTERVAL),
        };
        Ok(Self {
            interval,
            description: self.description.map(|description| description.validated().map(Box::new)).transpose()?,
            thresholds: Thresholds {
                passing: passing.max(1),
                warning: if warning == 0 { critical } else { warning.min(critical) },
                critical,
            },
            deregister_after: self
                .deregister_after
                .filter(|after| !after.is_zero())
                .map(|after| after.max(MIN_DEREGISTER_AFTER)),
            output_max_size: match self.output_max_size {
                0 => MAX_OUTPUT_BYTES,
                size => size.min(MAX_OUTPUT_BYTES),
            },
            ..self
        })
    }

    fn validate_texts(&self) -> Result<(), FieldError> {
        for (field, text) in [("check.name", &self.name), ("check.notes", &self.notes)] {
            if text.len() > MAX_TEXT_BYTES || text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
                let problem = "is too long or has a control character";
                return Err(FieldError::new(field, text, problem, "use at most 512 bytes of printable text"));
            }
        }
        Ok(())
    }

    fn validate_durations(&self) -> Result<(), FieldError> {
        let has_interval = self.probe.is_active() || self.probe == Probe::Ttl;
        if has_interval && self.interval.is_zero() {
            let hint = "give the time from one probe to the next, such as 10s";
            return Err(FieldError::without_value("check.interval", "is not given", hint));
        }
        let durations = [("check.interval", self.interval), ("check.timeout", self.timeout)];
        let removal = self.deregister_after.map(|after| ("check.deregister_critical_service_after", after));
        for (field, duration) in durations.into_iter().chain(removal) {
            if duration > MAX_DURATION {
                let shown = humantime::format_duration(duration).to_string();
                return Err(FieldError::new(field, &shown, "is longer than 30 days", "shorten it"));
            }
        }
        Ok(())
    }
}
