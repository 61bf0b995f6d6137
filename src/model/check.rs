//! Checks of an instance, and their statuses.
//!
//! The terms are those of Consul: a check is *passing*, *warning* or *critical*. Running the checks is not part of the model.

mod definition;
mod description;
mod http_probe;
mod id;
mod probe;
mod target;

use std::{fmt, sync::Arc};

pub use definition::{CheckDefinition, Thresholds};
pub use description::CheckDescription;
pub(crate) use description::MAX_DESCRIBED_OUTPUT_BYTES;
pub use http_probe::HttpProbe;
pub use id::CheckId;
pub use probe::Probe;
pub use target::{ProbeTarget, ProbeTls};

use super::{FieldError, Revision};

/// Maximum number of checks of an instance.
const MAX_CHECKS: usize = 32;

/// Status of a check, ordered from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckStatus {
    /// The instance works.
    Passing,
    /// The instance works, but not well: it gets its warning weight.
    Warning,
    /// The instance does not work.
    Critical,
}

impl CheckStatus {
    /// Name of the status in Consul: `passing`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// Parses a name that [`CheckStatus::as_str`] returns.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Passing, Self::Warning, Self::Critical].into_iter().find(|status| status.as_str() == name)
    }
}

impl fmt::Display for CheckStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Check of an instance, with its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Definition of the check.
    pub definition: Arc<CheckDefinition>,
    /// Present status.
    pub status: CheckStatus,
    /// Revision at which the check was added.
    pub created: Revision,
    /// Revision of the last change of the status or the definition.
    pub revision: Revision,
    /// Revision of the last change of the definition. It identifies the definition among those that the check has had.
    pub definition_revision: Revision,
    /// Number of announced reports: reports that arrived at replicas which do not hold the instance, and that they told the holder of.
    /// Readers do not see it. Wraps around.
    pub announced_reports: u32,
}

impl Check {
    /// A check without revisions. They are set when the event that adds it gets its revision.
    #[must_use]
    pub fn new(definition: Arc<CheckDefinition>, status: CheckStatus) -> Self {
        let unset = Revision::default();
        Self { definition, status, created: unset, revision: unset, definition_revision: unset, announced_reports: 0 }
    }

    /// Id of the check.
    #[must_use]
    pub fn id(&self) -> &CheckId {
        &self.definition.id
    }

    /// Returns whether readers see no difference between two states of a check.
    fn is_shown_like(&self, other: &Self) -> bool {
        let Self { definition, status, created, revision, definition_revision, announced_reports: _ } = self;
        (definition, status, created, revision, definition_revision)
            == (&other.definition, &other.status, &other.created, &other.revision, &other.definition_revision)
    }
}

/// Checks as readers see them, to compare two states.
#[derive(Debug, Clone, Copy)]
pub struct ShownChecks<'a>(&'a InstanceChecks);

impl PartialEq for ShownChecks<'_> {
    fn eq(&self, other: &Self) -> bool {
        let (own, other) = (self.0.iter(), other.0.iter());
        own.len() == other.len() && own.zip(other).all(|(one, other)| one.is_shown_like(other))
    }
}

/// Checks of one instance, in the order in which they were added. Ids are unique.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstanceChecks(Box<[Check]>);

impl InstanceChecks {
    /// A list of these checks.
    ///
    /// # Errors
    ///
    /// When there are more than 32 checks, or two have the same id.
    pub fn new(checks: Vec<Check>) -> Result<Self, FieldError> {
        if checks.len() > MAX_CHECKS {
            return Err(FieldError::without_value(
                "checks",
                format!("have {} entries", checks.len()),
                "give at most 32",
            ));
        }
        let repeated = (1..checks.len()).find(|at| checks[..*at].iter().any(|other| other.id() == checks[*at].id()));
        if let Some(at) = repeated {
            let hint = "give each check of an instance an id of its own";
            return Err(FieldError::new("check.id", checks[at].id().as_str(), "occurs twice", hint));
        }
        Ok(Self(checks.into()))
    }

    /// Iterates over the checks.
    pub fn iter(&self) -> std::slice::Iter<'_, Check> {
        self.0.iter()
    }

    /// Returns the checks as readers see them, to compare two states.
    #[must_use]
    pub fn shown(&self) -> ShownChecks<'_> {
        ShownChecks(self)
    }

    /// Number of checks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no checks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the check with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Check> {
        self.iter().find(|check| check.id().as_str() == id)
    }

    /// Returns the worst status of all checks; without checks, passing.
    #[must_use]
    pub fn aggregate_status(&self) -> CheckStatus {
        self.iter().map(|check| check.status).max().unwrap_or(CheckStatus::Passing)
    }

    /// Returns the checks with revisions of 0.
    pub(super) fn without_revisions(mut self) -> Self {
        for check in &mut self.0 {
            (check.created, check.revision, check.definition_revision) = Default::default();
        }
        self
    }

    /// Sets the revisions of the checks. A check that is the same as in `before` keeps its revisions, a check that comes from another
    /// instance brings its own, and all others get `revision`.
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

#[cfg(test)]
#[path = "check/tests.rs"]
mod tests;
