//! Named parts of a service, and splits of calls between them.

use std::{borrow::Borrow, fmt, sync::Arc};

use super::settings::policy_names;
use crate::model::{FieldError, InstanceFilter};

policy_names!(EmptySubset { Spill = "spill", Fail = "fail" });

/// Name of a subset: 1 to 32 of `[a-z0-9-]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubsetName(Arc<str>);

/// Maximum length of the name of a subset, in bytes.
const MAX_NAME_BYTES: usize = 32;

impl SubsetName {
    /// Parses a name.
    ///
    /// # Errors
    ///
    /// When the text is not 1 to 32 of `[a-z0-9-]`.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.bytes().all(is_allowed) {
            let hint = "use 1 to 32 lower-case letters, digits and '-', such as \"v2\"";
            return Err(FieldError::new("subset", text, "is not the name of a subset", hint));
        }
        Ok(Self(text.into()))
    }

    /// Text of the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for SubsetName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubsetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Named part of a service: the instances that a filter matches.
#[derive(Debug, Clone)]
pub struct Subset {
    /// Filter of the instances.
    pub filter: InstanceFilter,
}

impl PartialEq for Subset {
    fn eq(&self, other: &Self) -> bool {
        self.filter.as_str() == other.filter.as_str()
    }
}

/// Split of calls between subsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Subsets with the percentage of calls that each gets, in the order of the names. Each is 1 to 100, and their sum is 100.
    pub shares: Vec<(SubsetName, u8)>,
    /// Destination of the calls to a subset without routable instances.
    pub empty: EmptySubset,
}

/// Destination of the calls to a subset without routable instances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum EmptySubset {
    /// The rest of the service, then its fallbacks.
    #[default]
    Spill,
    /// None: the calls fail.
    Fail,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_subsets_are_short_and_in_lower_case() {
        for name in ["v2", "canary-7", "-"] {
            assert_eq!(SubsetName::parse(name).unwrap().as_str(), name);
        }
        for name in ["", "V2", "v2|x", "v_2", &"v".repeat(33)] {
            let error = SubsetName::parse(name).unwrap_err();
            assert_eq!(error.field, "subset", "{name}");
        }
    }
}
