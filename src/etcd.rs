//! Client of etcd, for the engine that keeps the registry in an etcd cluster.
//!
//! | type | use |
//! |---|---|
//! | [`EtcdClient`] | ranges, transactions, leases, status, compaction |
//! | [`EtcdWatch`] | changes of the keys with a prefix, one batch for each revision of etcd |
//! | [`EtcdError`] | failed request, and whether etcd may have executed it |
//!
//! A client does not balance its requests over the members. It uses one member while that member works, and the next one after
//! a failure. A request that was certainly not executed is repeated at the next member. A request that may have been executed is
//! repeated only if executing it twice does no harm; a transaction fails instead, and its caller decides.
//!
//! All requests but those for a status demand that the member has a leader, because a member without a quorum accepts streams
//! and sends nothing. The client sends no HTTP/2 pings, because etcd closes connections that send more than one in 5 seconds.
//! A watch asks for progress every second instead.

mod client;
mod connection;
mod error;
mod options;
mod pages;
mod request;
mod response;
mod revision_batches;
mod send_failure;
mod token;
mod watch;

pub use client::EtcdClient;
pub use error::{EtcdError, EtcdErrorKind, EtcdOutcome};
pub use options::{EtcdCredentials, EtcdOptions, EtcdOptionsError, EtcdTls};
pub use pages::EtcdPages;
pub use request::{EtcdCompare, EtcdOperation, EtcdRange, EtcdTransaction, MAX_TRANSACTION_OPERATIONS};
pub use response::{EtcdEntry, EtcdLease, EtcdMemberStatus, EtcdRangeResult, EtcdResponse, EtcdTransactionResult};
pub use revision_batches::{EtcdChange, EtcdRevisionBatch};
pub use watch::{EtcdWatch, EtcdWatchEvent};
