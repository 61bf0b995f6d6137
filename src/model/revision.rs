//! Where in the one order of all changes something stands, and the token that lets a reader come back to its place.

use std::fmt;

use super::FieldError;

/// A place in the one order of all changes. Rises with every change; 0 is before all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The one after this.
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

/// Milliseconds since 1970, by the wall clock. For people to read: nothing is decided by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMillis(pub u64);

/// One stored life of a registry. Revisions of different lives cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incarnation(pub u64);

/// A reader's place: the registry's life, how far the reader got, and a digest of what it selects.
///
/// On the wire: one byte of version, then the three as big-endian `u64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumeToken {
    /// The life of the registry that made it.
    pub incarnation: Incarnation,
    /// The revision that the reader stands at.
    pub revision: Revision,
    /// A digest of selection and filter.
    pub selection: u64,
}

impl ResumeToken {
    /// Bytes of a token on the wire.
    pub const LENGTH: usize = 25;
    const VERSION: u8 = 1;

    /// As sent to readers.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [Self::VERSION; Self::LENGTH];
        bytes[1..9].copy_from_slice(&self.incarnation.0.to_be_bytes());
        bytes[9..17].copy_from_slice(&self.revision.0.to_be_bytes());
        bytes[17..].copy_from_slice(&self.selection.to_be_bytes());
        bytes
    }

    /// As sent back by a reader.
    ///
    /// # Errors
    ///
    /// When it is no token at all: another length or version. Whether a token *fits* is for the registry to say.
    pub fn parse(bytes: &[u8]) -> Result<Self, FieldError> {
        let refused = |problem: String| {
            let remedy = "send the last resume_token received, byte for byte, or none";
            FieldError::without_value("resume_token", problem, remedy)
        };
        let bytes: &[u8; Self::LENGTH] = bytes
            .try_into()
            .map_err(|_| refused(format!("has {} bytes where a token has {}", bytes.len(), Self::LENGTH)))?;
        if bytes[0] != Self::VERSION {
            return Err(refused(format!("has version {}, which this registry never made", bytes[0])));
        }
        let number = |at: usize| bytes[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Ok(Self { incarnation: Incarnation(number(1)), revision: Revision(number(9)), selection: number(17) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_wire() {
        let token = ResumeToken { incarnation: Incarnation(u64::MAX - 3), revision: Revision(77), selection: 1 << 63 };
        assert_eq!(ResumeToken::parse(&token.to_bytes()), Ok(token));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        assert!(ResumeToken::parse(b"").is_err());
        assert!(ResumeToken::parse(&[0; 24]).is_err());
        let refusal = ResumeToken::parse(&[9; 25]).unwrap_err();
        assert_eq!(refusal.field, "resume_token");
    }
}
