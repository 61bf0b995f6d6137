//! Engine that several replicas share through etcd.
//!
//! etcd orders all changes. Each replica has the whole registry in memory; a watch of all keys is the only writer of its map. Heartbeats
//! do not reach etcd: the replica that holds an instance expires its lease. Another replica claims the instance if a heartbeat arrives
//! there, or if the holder is gone.
//!
//! | module | content |
//! |---|---|
//! | `shared` | the engine, as other threads use it |
//! | `replica` | the task that owns all state |
//! | `committer` | the queue of requests, and their outcomes |
//! | `request_queue` | the requests that wait |
//! | `decision` | the changes that requests make |
//! | `batch` | transactions of several requests |
//! | `follower` | the watch |
//! | `loading` | reading at the start |
//! | `applier` | application of keys to the registry |
//! | `releases` | registrations of another boot at a replica that does not hold the instance |
//! | `comparison` | comparison of the registry with etcd |
//! | `own_session` | the session of this replica |
//! | `session_table` | the sessions of all replicas, and the order in which they take over |
//! | `takeovers` | instances that this replica begins to hold |
//! | `stored_keys` | knowledge of keys that the registry does not have |
//! | `snapshot` | all keys at one revision |
//! | `waiting_readers` | readers that wait until this replica is recent enough |
//! | `transfer` | export, and import into a new registry |
//! | `status` | the state that other threads read |
//!
//! # Keys and values
//!
//! Every replica writes the keys and watches all of them. Values are Protocol Buffers messages, whose field numbers never change.
//!
//! | module | content |
//! |---|---|
//! | `keys` | keys of one cluster of replicas |
//! | `position` | revisions of the registry, made of etcd's revision and the slot of a command in its batch |
//! | `instance_value` | an instance, its lease and the session that holds it |
//! | `policy_value` | the policy of a service with its last revisions |
//! | `replica_session` | a running replica |
//! | `registry_meta` | the format of all values, and the incarnation |
//! | `batch_note` | the commands of a batch |
//! | `release_request` | instances that a replica asks others to release |
//! | `expiration_window` | the number of expired leases of a service |
//!
//! **Revisions.** A record has a revision that its writer learns only afterwards. It is written as 0, which stands for *this revision*,
//! and decoding replaces it. Revisions above that of the record are not of this history, such as those of a key that was copied from
//! another cluster; they count as this revision as well.
//!
//! **Versions.** A field that is added has no effect on earlier versions, which keep it when they rewrite a record
//! (`record::unknown_fields`). The format in `registry_meta` rises only for a change that earlier versions must not ignore; they refuse
//! to use such a registry.

mod applier;
mod batch;
mod committer;
mod comparison;
mod decision;
mod follower;
mod loading;
mod own_session;
mod releases;
mod replica;
mod request_queue;
mod session_table;
mod shared;
mod snapshot;
mod status;
mod stored_keys;
mod takeovers;
mod transfer;
mod waiting_readers;

pub mod batch_note;
pub mod expiration_window;
pub mod instance_value;
pub mod keys;
pub mod policy_value;
pub mod position;
pub mod registry_meta;
pub mod release_request;
pub mod replica_session;

#[cfg(test)]
mod tests;

pub use batch_note::{BatchNote, NotedCommand};
pub use expiration_window::ExpirationWindow;
pub use instance_value::{InstanceValue, SessionHolder};
pub use keys::{ForeignKey, KeySpace, RegistryKey};
pub use policy_value::PolicyValue;
pub use position::{CommitPosition, CommitSlot};
pub use registry_meta::{MetaError, RegistryMeta};
pub use release_request::ReleaseRequest;
pub use replica_session::{ReplicaSession, SessionId};
pub use shared::{Etcd, OnReplicaEnd};
pub use transfer::{TransferError, export, import};

use std::{sync::Arc, time::Duration};

use crate::{
    clock::Clock,
    etcd::{EtcdError, EtcdOptions, EtcdOptionsError},
    metrics::EtcdMetrics,
    model::Incarnation,
    registry::ChangeListener,
};

/// Settings of the engine.
#[derive(Debug, Clone)]
pub struct EtcdSettings {
    /// Members of etcd, and how to reach them.
    pub options: EtcdOptions,
    /// Name of the registry among those that share etcd.
    pub cluster: String,
    /// Description of this replica.
    pub session: ReplicaSession,
}

/// Dependencies of the engine.
#[derive(Debug)]
pub struct EtcdDependencies {
    /// Clock of the process.
    pub clock: Arc<Clock>,
    /// Listener that is notified of changes.
    pub listener: Arc<dyn ChangeListener>,
    /// Metrics of the replica.
    pub metrics: EtcdMetrics,
    /// Incarnation of a registry that does not exist yet.
    pub incarnation: Incarnation,
    /// Time for which readers wait for instances to register again if etcd's contents are replaced.
    pub settle: Duration,
}

/// Error of the start of the engine.
#[derive(Debug, thiserror::Error)]
pub enum EtcdEngineError {
    /// The settings are invalid.
    #[error(transparent)]
    Options(#[from] EtcdOptionsError),
    /// etcd did not answer, or rejected a request.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// This version cannot use the registry.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The operating system could not start a thread.
    #[error("the thread of the replica could not be started: {0}")]
    Thread(#[from] std::io::Error),
    /// etcd's contents were replaced while they were read.
    #[error("{0}: start the replica again")]
    Replaced(String),
    /// An import has written a part of the registry.
    #[error(
        "an import is writing the keys below {0}: start the replica once it has ended; if it was interrupted, remove these keys, and \
         import again"
    )]
    IncompleteImport(String),
    /// etcd did not send the latest changes in time.
    #[error(
        "etcd sent none of the latest changes for 30 s: look at the health of its members, and start the replica again"
    )]
    CatchUp,
    /// The replica panicked.
    #[error("the replica panicked at its start: report this as a defect")]
    Panicked,
}
