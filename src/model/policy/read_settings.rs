//! Fields that services and defaults have, read from a document.

use std::{collections::BTreeSet, time::Duration};

use super::{
    OutlierDetection, PolicyName, PolicySettings, RetryPolicy, RetryableCode,
    settings::MAX_BACKOFF,
    table_reader::{DurationRange, TableReader, nearest},
};
use crate::model::FieldError;

/// Fields of a document that services and defaults have.
pub(super) const SETTING_FIELDS: [&str; 9] =
    ["lb", "timeout", "max_requests", "retry", "outlier", "weights", "slow_start", "zone", "shed"];
/// Maximum number of further attempts: clients lower larger numbers to it.
const MAX_ATTEMPTS: u8 = 4;

const TIMEOUT: DurationRange =
    DurationRange { or_zero: true, min: Duration::from_millis(10), max: Duration::from_hours(24) };
const SLOW_START: DurationRange =
    DurationRange { or_zero: true, min: Duration::from_secs(1), max: Duration::from_hours(1) };
const BACKOFF: DurationRange = DurationRange { or_zero: false, min: Duration::from_millis(1), max: MAX_BACKOFF };
const OUTLIER_INTERVAL: DurationRange =
    DurationRange { or_zero: false, min: Duration::from_millis(100), max: Duration::from_hours(1) };
const OUTLIER_EJECT: DurationRange =
    DurationRange { or_zero: false, min: Duration::from_millis(100), max: Duration::from_hours(24) };

/// Reads the fields that services and defaults have.
pub(super) fn settings(table: &TableReader<'_>) -> Result<PolicySettings, FieldError> {
    Ok(PolicySettings {
        lb: table.choice("lb")?,
        timeout: timeout(table)?,
        max_requests: table.whole("max_requests", 0..=u32::MAX)?,
        retry: retry(table)?,
        outlier: outlier(table)?,
        weights: table.choice("weights")?,
        slow_start: table.duration("slow_start", &SLOW_START)?,
        zone: table.choice("zone")?,
        shed: table.percent("shed", 0..=100)?,
    })
}

/// Reads the maximum time of a call, of a policy or of a route.
pub(super) fn timeout(table: &TableReader<'_>) -> Result<Option<Duration>, FieldError> {
    table.duration("timeout", &TIMEOUT)
}

/// Reads the retries, of a policy or of a route.
pub(super) fn retry(table: &TableReader<'_>) -> Result<Option<RetryPolicy>, FieldError> {
    let Some(retry) = table.table("retry", "write { attempts = 2 }, or { attempts = 0 } for no retries")? else {
        return Ok(None);
    };
    retry.only(&["attempts", "on", "backoff", "max_backoff"])?;
    let Some(attempts) = retry.percent("attempts", 0..=MAX_ATTEMPTS)? else {
        return Err(retry.error("attempts", "is missing", "write 0 to 4 further attempts"));
    };
    let mut policy = RetryPolicy::new(attempts);
    if let Some(on) = codes(&retry)? {
        policy.on = on;
    }
    if let Some(backoff) = retry.duration("backoff", &BACKOFF)? {
        policy.backoff = backoff;
        policy.max_backoff = RetryPolicy::default_max_backoff(backoff);
    }
    if let Some(max) = retry.duration("max_backoff", &BACKOFF)? {
        if max < policy.backoff {
            let problem = format!("is shorter than backoff, which is {}", humantime::format_duration(policy.backoff));
            return Err(retry.error("max_backoff", problem, "write at least the backoff"));
        }
        policy.max_backoff = max;
    }
    Ok(Some(policy))
}

fn codes(retry: &TableReader<'_>) -> Result<Option<BTreeSet<RetryableCode>>, FieldError> {
    const HINT: &str = "write cancelled, deadline-exceeded, internal, resource-exhausted or unavailable";
    let Some(list) = retry.list("on", "write a list of status codes, such as [\"unavailable\"]")? else {
        return Ok(None);
    };
    let mut codes = BTreeSet::new();
    for item in list.texts(HINT) {
        let (place, text) = item?;
        let Some(code) = RetryableCode::ALL.iter().find(|code| code.as_str() == text) else {
            let similar = nearest(text, RetryableCode::ALL.iter().map(|code| code.as_str()));
            let hint = similar.map_or_else(|| HINT.to_owned(), |name| format!("write {name}"));
            return Err(FieldError::new(place, text, "is not a status code that clients can retry", hint));
        };
        codes.insert(*code);
    }
    if codes.is_empty() {
        return Err(list.error("is empty", "name a status code, or leave the field out for [\"unavailable\"]"));
    }
    Ok(Some(codes))
}

#[expect(clippy::option_option, reason = "`outlier` may be open, off or on")]
fn outlier(table: &TableReader<'_>) -> Result<Option<Option<OutlierDetection>>, FieldError> {
    const HINT: &str = "write \"off\", \"default\", or a table such as { failure_percent = 50 }";
    if let Ok(Some(text)) = table.text("outlier", HINT) {
        return match text {
            "off" => Ok(Some(None)),
            "default" => Ok(Some(Some(OutlierDetection::default()))),
            _ => Err(table.error("outlier", "is not a value of this field", HINT)),
        };
    }
    let Some(outlier) = table.table("outlier", HINT)? else { return Ok(None) };
    outlier.only(&["failure_percent", "hosts", "calls", "interval", "eject", "max_percent"])?;
    let default = OutlierDetection::default();
    Ok(Some(Some(OutlierDetection {
        failure_percent: outlier.percent("failure_percent", 1..=99)?.unwrap_or(default.failure_percent),
        hosts: outlier.whole("hosts", 1..=10_000)?.unwrap_or(default.hosts),
        calls: outlier.whole("calls", 1..=1_000_000)?.unwrap_or(default.calls),
        interval: outlier.duration("interval", &OUTLIER_INTERVAL)?.unwrap_or(default.interval),
        eject: outlier.duration("eject", &OUTLIER_EJECT)?.unwrap_or(default.eject),
        max_percent: outlier.percent("max_percent", 1..=100)?.unwrap_or(default.max_percent),
    })))
}
