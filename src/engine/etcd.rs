//! Keys and values of a registry in etcd.
//!
//! Every replica writes these keys and watches all of them. Values are Protocol Buffers messages, whose field numbers never change.
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
//! | `expiration_window` | the number of expired leases of a service |
//!
//! **Revisions.** A record has a revision that its writer learns only afterwards. It is written as 0, which stands for *this revision*,
//! and decoding replaces it. Revisions above that of the record are not of this history, such as those of a key that was copied from
//! another cluster; they count as this revision as well.
//!
//! **Versions.** A field that is added has no effect on earlier versions, which keep it when they rewrite a record
//! (`record::unknown_fields`). The format in `registry_meta` rises only for a change that earlier versions must not ignore; they refuse
//! to use such a registry.

pub mod batch_note;
pub mod expiration_window;
pub mod instance_value;
pub mod keys;
pub mod policy_value;
pub mod position;
pub mod registry_meta;
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
pub use replica_session::{ReplicaSession, SessionId};
