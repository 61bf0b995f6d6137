//! Revisions of the registry in etcd.
//!
//! A batch of commands is one transaction, and all its changes have one revision of etcd. The registry needs a revision for each
//! change, which every replica computes alike, from a watch and from a range: the revision of etcd, and the slot of the command in its
//! batch.

use crate::model::{FieldError, Revision};

/// Number of bits of a revision for the slot.
const SLOT_BITS: u32 = 12;
/// Bits of a revision for the slot.
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

/// Position of a command in its batch: 1 to 4095.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitSlot(u16);

impl CommitSlot {
    /// First slot of a batch.
    pub const FIRST: Self = Self(1);
    /// Last slot of a batch.
    pub const LAST: Self = Self(4_095);

    /// Returns the following slot. `None` after the last.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        (self < Self::LAST).then(|| Self(self.0 + 1))
    }

    /// Slot as a number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    /// Parses a stored slot.
    ///
    /// # Errors
    ///
    /// When the slot is 0 or above 4095.
    pub fn parse(slot: u64) -> Result<Self, FieldError> {
        let parsed = u16::try_from(slot).ok().map(Self).filter(|slot| (Self::FIRST..=Self::LAST).contains(slot));
        parsed.ok_or_else(|| {
            let hint = "remove the key: a replica of callboard has not written it";
            FieldError::new("slot", &slot.to_string(), "is not 1 to 4095", hint)
        })
    }
}

/// Position of a change in the history of etcd: the revision of its batch, and its slot in the batch.
///
/// The order of positions is that of their revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitPosition {
    etcd_revision: u64,
    slot: CommitSlot,
}

impl CommitPosition {
    /// Maximum revision of etcd whose changes have revisions below 2^53, which JavaScript represents exactly. A cluster with 1,000
    /// batches a second reaches it after 70 years.
    pub const MAX_ETCD_REVISION: u64 = (1 << (53 - SLOT_BITS)) - 1;

    /// Position of the command in this slot of the batch with this revision of etcd.
    ///
    /// # Errors
    ///
    /// When no key has the revision: it is 0 or above [`Self::MAX_ETCD_REVISION`].
    pub fn new(etcd_revision: u64, slot: CommitSlot) -> Result<Self, FieldError> {
        if (1..=Self::MAX_ETCD_REVISION).contains(&etcd_revision) {
            return Ok(Self { etcd_revision, slot });
        }
        let problem = format!("is not 1 to {}", Self::MAX_ETCD_REVISION);
        let hint = "export the registry, and import it into a new etcd cluster";
        Err(FieldError::new("mod_revision", &etcd_revision.to_string(), problem, hint))
    }

    /// Returns the position with this revision of the registry. `None`: no change has the revision.
    #[must_use]
    pub fn of(revision: Revision) -> Option<Self> {
        let slot = CommitSlot::parse(revision.0 & SLOT_MASK).ok()?;
        Self::new(Self::etcd_revision_of(revision), slot).ok()
    }

    /// Revision of the registry.
    #[must_use]
    pub fn revision(self) -> Revision {
        Revision(self.etcd_revision << SLOT_BITS | u64::from(self.slot.0))
    }

    /// Revision of etcd.
    #[must_use]
    pub fn etcd_revision(self) -> u64 {
        self.etcd_revision
    }

    /// Slot of the command in its batch.
    #[must_use]
    pub fn slot(self) -> CommitSlot {
        self.slot
    }

    /// Returns the revision that a registry has applied once it has applied this revision of etcd as a whole.
    ///
    /// It is the same whether the revision of etcd changed the registry or not, and above the revisions of all its changes, or equal.
    #[must_use]
    pub fn complete(etcd_revision: u64) -> Revision {
        Revision(etcd_revision.min(Self::MAX_ETCD_REVISION) << SLOT_BITS | SLOT_MASK)
    }

    /// Returns the revision of etcd that a revision of the registry belongs to, also one that [`Self::complete`] returned.
    #[must_use]
    pub fn etcd_revision_of(revision: Revision) -> u64 {
        revision.0 >> SLOT_BITS
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slot_outside_of_its_bounds_is_rejected() {
        for slot in [0, 4_096, u64::from(u16::MAX) + 2, u64::MAX] {
            assert_eq!(CommitSlot::parse(slot).unwrap_err().field, "slot");
        }
        assert_eq!((CommitSlot::parse(1), CommitSlot::parse(4_095)), (Ok(CommitSlot::FIRST), Ok(CommitSlot::LAST)));
        assert_eq!((CommitSlot::FIRST.next(), CommitSlot::LAST.next()), (CommitSlot::parse(2).ok(), None));
    }

    #[test]
    fn revision_of_the_last_position_is_exact_in_javascript() {
        let last = CommitPosition::new(CommitPosition::MAX_ETCD_REVISION, CommitSlot::LAST).unwrap();
        assert_eq!(last.revision(), Revision((1 << 53) - 1));
        for beyond in [0, CommitPosition::MAX_ETCD_REVISION + 1, u64::MAX] {
            assert!(CommitPosition::new(beyond, CommitSlot::FIRST).is_err());
        }
        assert_eq!(CommitPosition::of(Revision(1 << 53 | 1)), None);
        assert_eq!(CommitPosition::of(Revision(5 << 12)), None, "slot 0 is no command");
        assert_eq!(CommitPosition::complete(u64::MAX), last.revision());
    }

    fn position() -> impl Strategy<Value = CommitPosition> {
        (1..=CommitPosition::MAX_ETCD_REVISION, 1..=4_095_u64)
            .prop_map(|(revision, slot)| CommitPosition::new(revision, CommitSlot::parse(slot).unwrap()).unwrap())
    }

    proptest! {
        #[test]
        fn position_and_revision_have_the_same_order(one in position(), other in position()) {
            prop_assert_eq!(CommitPosition::of(one.revision()), Some(one));
            prop_assert_eq!(one.cmp(&other), one.revision().cmp(&other.revision()));
            let complete = CommitPosition::complete(one.etcd_revision());
            prop_assert!(one.revision() <= complete);
            prop_assert_eq!(CommitPosition::etcd_revision_of(complete), one.etcd_revision());
            prop_assert_eq!(other.revision() <= complete, other.etcd_revision() <= one.etcd_revision());
        }
    }
}
