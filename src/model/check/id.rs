//! Id of a check.

use std::{borrow::Borrow, fmt, sync::Arc};

use crate::model::{FieldError, label};

/// Maximum length of an id in bytes.
const MAX_ID_BYTES: usize = 512;

/// Id of a check, unique on its node: 1 to 512 bytes of printable text. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckId(Arc<str>);

impl CheckId {
    /// Parses an id.
    ///
    /// # Errors
    ///
    /// When the id is empty, longer than 512 bytes, or contains a control character.
    pub fn parse(id: &str) -> Result<Self, FieldError> {
        label::validate_text("check.id", id, MAX_ID_BYTES)?;
        Ok(Self(id.into()))
    }

    /// Text of the id.
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
