//! Ranges and transactions.

use bytes::Bytes;

use crate::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
};

use super::response::EtcdLease;

/// Maximum number of operations of a transaction, by etcd's default of `--max-txn-ops`.
///
/// A nested transaction must fit into what the operations around it leave: where each is a transaction with up to `n`
/// comparisons and operations, the outer one has at most `MAX_TRANSACTION_OPERATIONS - n`.
pub const MAX_TRANSACTION_OPERATIONS: usize = 128;

/// Range of keys to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdRange {
    key: Bytes,
    end: Bytes,
    limit: usize,
    revision: u64,
    is_serializable: bool,
    is_count_only: bool,
    is_keys_only: bool,
}

impl EtcdRange {
    /// Reads this key.
    #[must_use]
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self::from_to(key.into(), Bytes::new())
    }

    /// Reads the keys with this prefix, sorted.
    #[must_use]
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let (key, end) = prefix_range(prefix.into());
        Self::from_to(key, end)
    }

    /// Reads the keys from `key` to the one before `end`, sorted.
    #[must_use]
    pub(super) fn from_to(key: Bytes, end: Bytes) -> Self {
        Self { key, end, limit: 0, revision: 0, is_serializable: false, is_count_only: false, is_keys_only: false }
    }

    /// Reads what the keys were at this revision.
    #[must_use]
    pub fn at_revision(self, revision: u64) -> Self {
        Self { revision, ..self }
    }

    /// Reads at most this number of keys.
    #[must_use]
    pub fn with_limit(self, keys: usize) -> Self {
        Self { limit: keys, ..self }
    }

    /// Reads what the member has, without asking the others. It may be old.
    #[must_use]
    pub fn serializable(self) -> Self {
        Self { is_serializable: true, ..self }
    }

    /// Reads only the number of keys, and the revision.
    #[must_use]
    pub fn count_only(self) -> Self {
        Self { is_count_only: true, ..self }
    }

    /// Reads keys with their revisions, without their values.
    #[must_use]
    pub fn keys_only(self) -> Self {
        Self { is_keys_only: true, ..self }
    }

    pub(super) fn to_proto(&self) -> RangeRequest {
        RangeRequest {
            key: self.key.clone(),
            range_end: self.end.clone(),
            limit: i64::try_from(self.limit).unwrap_or(i64::MAX),
            revision: self.revision.cast_signed(),
            serializable: self.is_serializable,
            count_only: self.is_count_only,
            keys_only: self.is_keys_only,
            ..RangeRequest::default()
        }
    }
}

/// Returns the first key with a prefix, and the end of the range of these keys.
pub(super) fn prefix_range(prefix: Bytes) -> (Bytes, Bytes) {
    const ALL: Bytes = Bytes::from_static(b"\0");
    if prefix.is_empty() {
        return (ALL, ALL);
    }
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return (prefix, end.into());
        }
    }
    (prefix, ALL)
}

/// Comparison of a transaction. A key that does not exist has the revision 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdCompare {
    key: Bytes,
    /// End of the range of keys; empty for one key.
    range_end: Bytes,
    revision: ComparedRevision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ComparedRevision {
    Create(u64),
    Mod(u64),
    /// Last change at this revision or before it.
    ModUntil(u64),
}

impl EtcdCompare {
    /// Holds if the key was created at this revision, and exists since then.
    #[must_use]
    pub fn create_revision(key: impl Into<Bytes>, revision: u64) -> Self {
        Self { key: key.into(), range_end: Bytes::new(), revision: ComparedRevision::Create(revision) }
    }

    /// Holds if the last change of the key was at this revision.
    #[must_use]
    pub fn mod_revision(key: impl Into<Bytes>, revision: u64) -> Self {
        Self { key: key.into(), range_end: Bytes::new(), revision: ComparedRevision::Mod(revision) }
    }

    /// Holds if no key with this prefix was set after this revision.
    #[must_use]
    pub fn unchanged_since(prefix: impl Into<Bytes>, revision: u64) -> Self {
        let (key, range_end) = prefix_range(prefix.into());
        Self { key, range_end, revision: ComparedRevision::ModUntil(revision) }
    }

    /// Holds if the key does not exist.
    #[must_use]
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::create_revision(key, 0)
    }

    fn to_proto(&self) -> Compare {
        let mod_revision = |revision: u64| TargetUnion::ModRevision(revision.cast_signed());
        let (result, target, target_union) = match self.revision {
            ComparedRevision::Create(revision) => {
                (CompareResult::Equal, CompareTarget::Create, TargetUnion::CreateRevision(revision.cast_signed()))
            }
            ComparedRevision::Mod(revision) => (CompareResult::Equal, CompareTarget::Mod, mod_revision(revision)),
            ComparedRevision::ModUntil(revision) => {
                (CompareResult::Less, CompareTarget::Mod, mod_revision(revision.saturating_add(1)))
            }
        };
        Compare {
            result: result.into(),
            target: target.into(),
            key: self.key.clone(),
            range_end: self.range_end.clone(),
            target_union: Some(target_union),
        }
    }
}

/// Operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EtcdOperation {
    /// Sets a key.
    Put {
        /// Key, which no other operation of the transaction changes.
        key: Bytes,
        /// Value.
        value: Bytes,
        /// Lease whose expiry deletes the key.
        lease: Option<EtcdLease>,
    },
    /// Deletes a key, if it exists.
    Delete {
        /// Key, which no other operation of the transaction changes.
        key: Bytes,
    },
    /// Deletes the keys with a prefix.
    DeletePrefix {
        /// Prefix of the keys.
        prefix: Bytes,
    },
    /// Reads keys, after the operations before it.
    Range(EtcdRange),
    /// Executes a transaction of its own, with its own comparisons, at the same revision.
    Nested(EtcdTransaction),
}

impl EtcdOperation {
    /// Sets a key without a lease.
    #[must_use]
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: None }
    }

    /// Sets a key that is deleted when the lease expires.
    #[must_use]
    pub fn put_with_lease(key: impl Into<Bytes>, value: impl Into<Bytes>, lease: EtcdLease) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: Some(lease) }
    }

    /// Deletes a key.
    #[must_use]
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete { key: key.into() }
    }

    fn to_proto(&self) -> RequestOp {
        let request = match self {
            Self::Put { key, value, lease } => Request::RequestPut(PutRequest {
                key: key.clone(),
                value: value.clone(),
                lease: lease.map_or(0, |lease| lease.0),
                ..PutRequest::default()
            }),
            Self::Delete { key } => {
                Request::RequestDeleteRange(DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() })
            }
            Self::DeletePrefix { prefix } => {
                let (key, range_end) = prefix_range(prefix.clone());
                Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() })
            }
            Self::Range(range) => Request::RequestRange(range.to_proto()),
            Self::Nested(transaction) => Request::RequestTxn(transaction.to_proto()),
        };
        RequestOp { request: Some(request) }
    }
}

/// Transaction: if all comparisons hold, `success` is executed, otherwise `failure`. All changes have one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdTransaction {
    /// Comparisons.
    pub compares: Vec<EtcdCompare>,
    /// Operations for the case that all comparisons hold.
    pub success: Vec<EtcdOperation>,
    /// Operations for the other case.
    pub failure: Vec<EtcdOperation>,
}

impl EtcdTransaction {
    pub(super) fn to_proto(&self) -> TxnRequest {
        TxnRequest {
            compare: self.compares.iter().map(EtcdCompare::to_proto).collect(),
            success: self.success.iter().map(EtcdOperation::to_proto).collect(),
            failure: self.failure.iter().map(EtcdOperation::to_proto).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_prefix_is_next_key_without_it() {
        let range = |prefix: &'static [u8]| prefix_range(Bytes::from_static(prefix));
        assert_eq!(range(b"ab"), (Bytes::from_static(b"ab"), Bytes::from_static(b"ac")));
        assert_eq!(range(b"a\xff"), (Bytes::from_static(b"a\xff"), Bytes::from_static(b"b")));
        assert_eq!(range(b"\xff\xff"), (Bytes::from_static(b"\xff\xff"), Bytes::from_static(b"\0")));
        assert_eq!(range(b""), (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")));
    }
}
