//! Header of a store: its incarnation and revision, and the counts and digests of its tables.

use prost::Message;

use super::signer::{RecordSigner, TagMismatch};

/// State of a store as a whole, stored as a Protocol Buffers message followed by a tag. Field numbers never change.
#[derive(Clone, PartialEq, Message)]
pub struct StoreHeader {
    /// Incarnation of the registry in the store.
    #[prost(uint64, tag = "1")]
    pub incarnation: u64,
    /// Newest revision in the store.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    /// Number of instance records.
    #[prost(uint64, tag = "3")]
    pub records: u64,
    /// Exclusive or of the tags of all instance records.
    #[prost(uint64, tag = "4")]
    pub digest: u64,
    /// True while the store is open. If it is still true at the next opening, the process was killed.
    #[prost(bool, tag = "5")]
    pub open: bool,
    /// True while the process that has the store open acknowledges changes before they are on the disk.
    #[prost(bool, tag = "6")]
    pub relaxed: bool,
    /// Number of saved check states.
    #[prost(uint64, tag = "7")]
    pub check_states: u64,
    /// Exclusive or of the tags of all saved check states.
    #[prost(uint64, tag = "8")]
    pub check_digest: u64,
    /// Number of records of policies.
    #[prost(uint64, tag = "9")]
    pub policies: u64,
    /// Exclusive or of the tags of all records of policies.
    #[prost(uint64, tag = "10")]
    pub policy_digest: u64,
    /// Revision of the newest transaction that removed records of policies. 0: none did.
    #[prost(uint64, tag = "11")]
    pub forgotten_policies: u64,
}

impl StoreHeader {
    /// Reads a stored header.
    ///
    /// # Errors
    ///
    /// When the tag is wrong, or it is that of other bytes than a header, which no version writes.
    pub fn verify(bytes: &[u8], signer: RecordSigner) -> Result<Self, TagMismatch> {
        let (message, _) = signer.verify("", "state", bytes)?;
        Self::decode(message).map_err(|_| TagMismatch)
    }

    /// Returns the bytes to store.
    #[must_use]
    pub fn sign(&self, signer: RecordSigner) -> Vec<u8> {
        let mut message = self.encode_to_vec();
        message.extend(signer.tag("", "state", &message).to_be_bytes());
        message
    }

    /// Counts an instance record with the tag `after` that replaces one with the tag `before`.
    pub fn count_record(&mut self, before: Option<u64>, after: Option<u64>) {
        count((&mut self.records, &mut self.digest), before, after);
    }

    /// Counts a saved check state with the tag `after` that replaces one with the tag `before`.
    pub fn count_check_state(&mut self, before: Option<u64>, after: Option<u64>) {
        count((&mut self.check_states, &mut self.check_digest), before, after);
    }

    /// Counts a record of a policy with the tag `after` that replaces one with the tag `before`.
    pub fn count_policy(&mut self, before: Option<u64>, after: Option<u64>) {
        count((&mut self.policies, &mut self.policy_digest), before, after);
    }
}

fn count((records, digest): (&mut u64, &mut u64), before: Option<u64>, after: Option<u64>) {
    *digest ^= before.unwrap_or_default() ^ after.unwrap_or_default();
    *records += u64::from(after.is_some());
    *records -= u64::from(before.is_some());
}
