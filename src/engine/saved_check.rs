//! State of a check that is no event, and outlives the process all the same.
//!
//! A report that repeats a status changes nothing in the registry, but it moves the end of a TTL, and it has an output. An engine
//! with a store saves that beside the registry: in batches, so that a report does not wait for the disk.

use std::{sync::Arc, time::Duration};

use crate::model::{CheckId, CheckStatus, InstanceId, Revision, ServiceName, UnixMillis};

/// Service, instance and id of a check.
pub type CheckKey = (ServiceName, InstanceId, CheckId);

/// State of one check. Times are those of the wall clock: no other clock goes on while the process is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedCheck {
    /// Revision at which the check was added. A check that was added later under the same id is another one.
    pub created: Revision,
    /// Time from which the TTL counts: that of the last report or registration.
    pub ttl_from: UnixMillis,
    /// Time at which the check became critical, if it is.
    pub critical_since: Option<UnixMillis>,
    /// Number of changes of its status.
    pub changes: u64,
    /// The last result, if there is one.
    pub last: Option<SavedResult>,
}

/// Last result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedResult {
    /// Time of the result.
    pub at: UnixMillis,
    /// Status that was found, before thresholds.
    pub status: CheckStatus,
    /// Duration of the probe. `None`: the result was reported.
    pub took: Option<Duration>,
    /// Output of the probe or the report.
    pub output: Arc<str>,
}

/// States that an earlier process saved.
#[derive(Debug, Default)]
pub struct SavedChecks {
    /// One for each check.
    pub states: Vec<(CheckKey, SavedCheck)>,
    /// Time before the end of that process whose reports may be missing. Zero, where it closed its store.
    pub uncertain: Duration,
}
