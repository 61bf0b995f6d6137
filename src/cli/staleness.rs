//! Warning that an answer may be out of date.

use std::time::Duration;

use super::{terminal::print_stderr, view::duration};
use crate::pb::callboard::v1::Staleness;

/// Warns on standard error that an answer may be out of date, if the registry says so.
pub(crate) fn warn_of_staleness(staleness: Option<&Staleness>) {
    let Some(Staleness { age, revision }) = staleness else { return };
    let age = duration(*age).unwrap_or_default();
    print_stderr(&format!(
        "warning: the registry has not reached its store for {}: this is what it knew then, at revision {revision}",
        humantime::format_duration(Duration::from_secs(age.as_secs()))
    ));
}
