//! Format and incarnation of a registry in etcd.
//!
//! The first replica writes them, and they stay. All replicas read them before anything else, and stop if they change: the keys were
//! restored, or belong to another registry.

use prost::Message;

use crate::model::Incarnation;

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
}

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
}

impl RegistryMeta {
    /// Encodes the value, with the format of this version.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        MetaMessage { format: FORMAT, incarnation: self.incarnation.0 }.encode_to_vec()
    }

    /// Decodes the value.
    ///
    /// # Errors
    ///
    /// When this version does not know the format, or the bytes are not a message with a format.
    pub fn decode(value: &[u8]) -> Result<Self, MetaError> {
        let MetaMessage { format, incarnation } = MetaMessage::decode(value).map_err(|_| MetaError::Invalid)?;
        match format {
            0 => Err(MetaError::Invalid),
            1..=FORMAT => Ok(Self { incarnation: Incarnation(incarnation) }),
            found => Err(MetaError::UnsupportedFormat { found, known: FORMAT }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_of_a_later_format_is_refused_with_advice_to_upgrade() {
        let meta = RegistryMeta { incarnation: Incarnation(u64::MAX - 7) };
        assert_eq!(RegistryMeta::decode(&meta.encode()), Ok(meta));
        let later = MetaMessage { format: FORMAT + 1, incarnation: 1 }.encode_to_vec();
        let error = RegistryMeta::decode(&later).unwrap_err();
        assert_eq!(error, MetaError::UnsupportedFormat { found: FORMAT + 1, known: FORMAT });
        assert!(error.to_string().contains("upgrade this replica"), "{error}");
        // The message of a later format may have other fields.
        let other = [later, vec![0x7a, 1, 0]].concat();
        assert_eq!(RegistryMeta::decode(&other).unwrap_err(), error);
    }

    #[test]
    fn value_without_a_format_is_invalid() {
        for value in [&[][..], &[0xff], b"hello"] {
            assert_eq!(RegistryMeta::decode(value), Err(MetaError::Invalid), "{value:?}");
        }
    }
}
