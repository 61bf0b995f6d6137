//! Format and incarnation of a registry in etcd.
//!
//! The first replica writes both. All replicas read them before anything else, and read the registry again if they change: the keys were
//! removed, or restored from a backup. The first replica that detects this writes another incarnation, with revisions above all earlier
//! ones.

use prost::Message;

use super::position::CommitPosition;
use crate::{
    engine::StartPoint,
    model::{Incarnation, UnixMillis},
    registry::ClockReading,
};

/// Newest format of the values that this version reads and writes.
///
/// It rises only for a change that earlier versions must not ignore. A version that raises it keeps writing the earlier format until
/// all replicas know the new one.
const FORMAT: u32 = 1;

/// Format and incarnation of a registry in etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryMeta {
    /// Incarnation of the registry.
    pub incarnation: Incarnation,
    /// Number that is added to revisions of etcd, so that revisions rise from one incarnation to the next.
    pub revision_offset: u64,
}

/// Number of revisions of etcd by which another incarnation is ahead of the last revision that a replica knows: others may know of more.
const INCARNATION_STEP: u64 = 1 << 20;

/// Error of a registry in etcd that this version cannot use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// A later version introduced the format.
    #[error(
        "the registry in etcd has format {found}, and this version of callboard knows formats up to {known}: upgrade this replica to the \
         version of the others"
    )]
    UnsupportedFormat {
        /// Format of the registry.
        found: u32,
        /// Newest format that this version knows.
        known: u32,
    },
    /// The value is not one that a replica writes.
    #[error(
        "the value of the key meta was not written by callboard: choose another name with --cluster, or restore a backup of etcd"
    )]
    Invalid,
}

// Field numbers never change.

#[derive(Clone, PartialEq, Message)]
struct MetaMessage {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(fixed64, tag = "2")]
    incarnation: u64,
    #[prost(uint64, tag = "3")]
    revision_offset: u64,
}

impl RegistryMeta {
    /// Makes the value of an incarnation that begins now, after this revision of etcd with its offset, or of the first one.
    #[must_use]
    pub fn new(incarnation: Incarnation, now: UnixMillis, last_revision: Option<u64>) -> Self {
        // As with the other engines, revisions begin at the time, so that they rise even if the last one is not known.
        let start = StartPoint::new(incarnation, ClockReading { wall: now, ..ClockReading::default() }).revision;
        let after = last_revision.map_or(0, |last| last + INCARNATION_STEP);
        Self { incarnation, revision_offset: CommitPosition::etcd_revision_of(start).max(after) }
    }

    /// Returns a revision of etcd with the offset.
    #[must_use]
    pub fn with_offset(self, etcd_revision: u64) -> u64 {
        etcd_revision.saturating_add(self.revision_offset)
    }

    /// Returns a revision of etcd without the offset. 0, for a key that does not exist, stays.
    #[must_use]
    pub fn without_offset(self, revision: u64) -> u64 {
        revision.saturating_sub(self.revision_offset)
    }

    /// Encodes the value, with the format of this version.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let Self { incarnation, revision_offset } = self;
        MetaMessage { format: FORMAT, incarnation: incarnation.0, revision_offset }.encode_to_vec()
    }

    /// Decodes the value.
    ///
    /// # Errors
    ///
    /// When this version does not know the format, or the bytes are not a message with a format.
    pub fn decode(value: &[u8]) -> Result<Self, MetaError> {
        let MetaMessage { format, incarnation, revision_offset } =
            MetaMessage::decode(value).map_err(|_| MetaError::Invalid)?;
        match format {
            0 => Err(MetaError::Invalid),
            1..=FORMAT => Ok(Self { incarnation: Incarnation(incarnation), revision_offset }),
            found => Err(MetaError::UnsupportedFormat { found, known: FORMAT }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_of_a_later_format_is_refused_with_advice_to_upgrade() {
        let meta = RegistryMeta { incarnation: Incarnation(u64::MAX - 7), revision_offset: 9 };
        assert_eq!(RegistryMeta::decode(&meta.encode()), Ok(meta));
        let later = MetaMessage { format: FORMAT + 1, incarnation: 1, revision_offset: 0 }.encode_to_vec();
        let error = RegistryMeta::decode(&later).unwrap_err();
        assert_eq!(error, MetaError::UnsupportedFormat { found: FORMAT + 1, known: FORMAT });
        assert!(error.to_string().contains("upgrade this replica"), "{error}");
        // The message of a later format may have other fields.
        let other = [later, vec![0x7a, 1, 0]].concat();
        assert_eq!(RegistryMeta::decode(&other).unwrap_err(), error);
    }

    #[test]
    fn revisions_rise_from_one_incarnation_to_the_next() {
        let [early, late] = [UnixMillis(1_700_000_000_000), UnixMillis(1_800_000_000_000)];
        let first = RegistryMeta::new(Incarnation(1), early, None);
        assert_eq!(CommitPosition::complete(first.revision_offset).0 >> 20, 1_700_000_000);
        // Even if the clock of the next replica is behind.
        let last = first.with_offset(5_000);
        for next in [early, late, UnixMillis(0)].map(|now| RegistryMeta::new(Incarnation(2), now, Some(last))) {
            assert!(next.with_offset(1) > last + 1_000_000, "{next:?}");
            assert_eq!(next.without_offset(next.with_offset(7)), 7);
        }
        assert_eq!(first.without_offset(0), 0);
    }

    #[test]
    fn value_without_a_format_is_invalid() {
        for value in [&[][..], &[0xff], b"hello"] {
            assert_eq!(RegistryMeta::decode(value), Err(MetaError::Invalid), "{value:?}");
        }
    }
}
