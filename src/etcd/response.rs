//! Answers of etcd.

use std::{fmt, time::Duration};

use crate::pb::{
    etcdserverpb::{RangeResponse, ResponseHeader, StatusResponse, TxnResponse, response_op},
    mvccpb::KeyValue,
};

/// Lease of etcd, by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EtcdLease(pub i64);

impl fmt::Display for EtcdLease {
    /// Writes the id as etcdctl does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Key with its value and its revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdEntry {
    /// Key.
    pub key: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
    /// Revision at which the key was last created.
    pub create_revision: u64,
    /// Revision at which the key was last changed.
    pub mod_revision: u64,
    /// Lease whose expiry deletes the key.
    pub lease: Option<EtcdLease>,
}

impl From<KeyValue> for EtcdEntry {
    fn from(entry: KeyValue) -> Self {
        Self {
            key: entry.key,
            value: entry.value,
            create_revision: revision(entry.create_revision),
            mod_revision: revision(entry.mod_revision),
            lease: Some(EtcdLease(entry.lease)).filter(|lease| lease.0 != 0),
        }
    }
}

/// Keys that were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdRangeResult {
    /// Newest revision of the store when it was read.
    pub revision: u64,
    /// Keys, sorted.
    pub entries: Vec<EtcdEntry>,
    /// True if the limit left out keys.
    pub has_more: bool,
    /// Number of keys in the range, regardless of the limit.
    pub count: u64,
}

impl From<RangeResponse> for EtcdRangeResult {
    fn from(response: RangeResponse) -> Self {
        Self {
            revision: header_revision(response.header.as_ref()),
            entries: response.kvs.into_iter().map(EtcdEntry::from).collect(),
            has_more: response.more,
            count: revision(response.count),
        }
    }
}

/// Result of a transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdTransactionResult {
    /// True if all comparisons held.
    pub succeeded: bool,
    /// Revision of the store after the transaction. If the transaction changed keys, it is the revision of the changes. 0 in
    /// nested transactions.
    pub revision: u64,
    /// Responses of the operations that were executed, in their order.
    pub responses: Vec<EtcdResponse>,
}

/// Response of an operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EtcdResponse {
    /// A key was set.
    Put,
    /// Keys were deleted.
    Delete {
        /// Number of keys that were deleted.
        deleted: u64,
    },
    /// Keys were read.
    Range(EtcdRangeResult),
    /// A nested transaction was executed.
    Nested(EtcdTransactionResult),
}

impl EtcdTransactionResult {
    /// Converts the response, or returns `None` if an operation has no response.
    pub(super) fn of_proto(response: TxnResponse) -> Option<Self> {
        Some(Self {
            succeeded: response.succeeded,
            revision: header_revision(response.header.as_ref()),
            responses: response
                .responses
                .into_iter()
                .map(|response| EtcdResponse::of_proto(response.response?))
                .collect::<Option<_>>()?,
        })
    }
}

impl EtcdResponse {
    fn of_proto(response: response_op::Response) -> Option<Self> {
        Some(match response {
            response_op::Response::ResponsePut(_) => Self::Put,
            response_op::Response::ResponseDeleteRange(response) => {
                Self::Delete { deleted: revision(response.deleted) }
            }
            response_op::Response::ResponseRange(response) => Self::Range(response.into()),
            response_op::Response::ResponseTxn(response) => Self::Nested(EtcdTransactionResult::of_proto(response)?),
        })
    }
}

/// Status of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdMemberStatus {
    /// Version of etcd.
    pub version: String,
    /// Id of the cluster. A cluster that is created anew with the same configuration has the same id.
    pub cluster_id: u64,
    /// Id of the member.
    pub member_id: u64,
    /// Id of the leader that the member knows.
    pub leader: Option<u64>,
    /// Newest revision of the member.
    pub revision: u64,
    /// Term of raft.
    pub raft_term: u64,
    /// Size of the database file in bytes.
    pub database_bytes: u64,
    /// Bytes of the database that are in use. Defragmentation frees the others.
    pub database_bytes_in_use: u64,
    /// True if the member does not vote.
    pub is_learner: bool,
    /// Alarms and errors of the member.
    pub errors: Vec<String>,
}

impl From<StatusResponse> for EtcdMemberStatus {
    fn from(status: StatusResponse) -> Self {
        let header = status.header.unwrap_or_default();
        Self {
            version: status.version,
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            leader: Some(status.leader).filter(|leader| *leader != 0),
            revision: revision(header.revision),
            raft_term: status.raft_term,
            database_bytes: revision(status.db_size),
            database_bytes_in_use: revision(status.db_size_in_use),
            is_learner: status.is_learner,
            errors: status.errors,
        }
    }
}

/// Returns the revision of a header; 0 without a header.
pub(super) fn header_revision(header: Option<&ResponseHeader>) -> u64 {
    header.map_or(0, |header| revision(header.revision))
}

/// Converts a number that is never negative, and 0 if it is.
pub(super) fn revision(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// Converts a TTL in seconds.
pub(super) fn ttl(seconds: i64) -> Duration {
    Duration::from_secs(revision(seconds))
}
