//! State of a check that is not an event, but outlives the process.
//!
//! A report that repeats a status changes nothing in the registry, but it extends a TTL and has an output. An engine with a store
//! saves this state in batches, separately from the registry, so that no report waits for the disk.

use std::{sync::Arc, time::Duration};

use crate::model::{CheckId, CheckStatus, InstanceId, Revision, ServiceName, UnixMillis};

/// Service, instance and id of a check.
pub type CheckKey = (ServiceName, InstanceId, CheckId);

/// State of one check. Times are those of the wall clock, because no other clock continues while the process is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedCheck {
    /// Revision at which the check was added. It distinguishes the check from a later one with the same id.
    pub created: Revision,
    /// Start of the current TTL: time of the last report or registration.
    pub ttl_from: UnixMillis,
    /// Time at which the check became critical, if it is critical.
    pub critical_since: Option<UnixMillis>,
    /// Number of changes of the status.
    pub changes: u64,
    /// Last result, if there is one.
    pub last: Option<SavedResult>,
}

/// Last result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedResult {
    /// Time of the result.
    pub at: UnixMillis,
    /// Status of the result, before thresholds.
    pub status: CheckStatus,
    /// Duration of the probe. `None` for a reported result.
    pub took: Option<Duration>,
    /// Output of the probe or the report.
    pub output: Arc<str>,
}

/// Check states that an earlier process saved.
#[derive(Debug, Default)]
pub struct SavedChecks {
    /// State of each check.
    pub states: Vec<(CheckKey, SavedCheck)>,
    /// Length of the time before the end of that process from which reports may be missing. Zero if the process closed
    /// its store.
    pub unsaved_window: Duration,
}
