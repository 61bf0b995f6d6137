//! Revisions, incarnations, and the token with which a reader resumes.

use std::fmt;

use super::FieldError;

/// Position in the order of all changes. It rises with every change; 0 is before all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// Returns the following revision.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds since 1970 by the wall clock. For display only, because the wall clock may jump.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMillis(pub u64);

/// Random id of a registry's state from its creation until it is lost. Revisions of different incarnations cannot be
/// compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incarnation(pub u64);

/// Position of a reader: the incarnation, the revision, and a digest of its selector and filter.
///
/// Encoded as one byte of version, then the three fields as big-endian `u64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumeToken {
    /// Incarnation of the registry that issued the token.
    pub incarnation: Incarnation,
    /// Revision up to which the reader is complete.
    pub revision: Revision,
    /// Digest of selector and filter.
    pub selector_digest: u64,
}

impl ResumeToken {
    /// Length of an encoded token in bytes.
    pub const LENGTH: usize = 25;
    const VERSION: u8 = 1;

    /// Encodes the token.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [Self::VERSION; Self::LENGTH];
        bytes[1..9].copy_from_slice(&self.incarnation.0.to_be_bytes());
        bytes[9..17].copy_from_slice(&self.revision.0.to_be_bytes());
        bytes[17..].copy_from_slice(&self.selector_digest.to_be_bytes());
        bytes
    }

    /// Decodes a token. The registry decides whether it fits.
    ///
    /// # Errors
    ///
    /// When length or version differ from those of a token.
    pub fn parse(bytes: &[u8]) -> Result<Self, FieldError> {
        let error = |problem: String| {
            let hint = "send the last resume_token received, byte for byte, or none";
            FieldError::without_value("resume_token", problem, hint)
        };
        let bytes: &[u8; Self::LENGTH] = bytes
            .try_into()
            .map_err(|_| error(format!("has {} bytes where a token has {}", bytes.len(), Self::LENGTH)))?;
        if bytes[0] != Self::VERSION {
            return Err(error(format!("has version {}, which no registry issues", bytes[0])));
        }
        let number = |at: usize| bytes[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Ok(Self { incarnation: Incarnation(number(1)), revision: Revision(number(9)), selector_digest: number(17) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_token_decodes_to_the_same() {
        let token =
            ResumeToken { incarnation: Incarnation(u64::MAX - 3), revision: Revision(77), selector_digest: 1 << 63 };
        assert_eq!(ResumeToken::parse(&token.to_bytes()), Ok(token));
    }

    #[test]
    fn token_with_wrong_length_or_version_is_rejected() {
        assert!(ResumeToken::parse(b"").is_err());
        assert!(ResumeToken::parse(&[0; 24]).is_err());
        let error = ResumeToken::parse(&[9; 25]).unwrap_err();
        assert_eq!(error.field, "resume_token");
    }
}
