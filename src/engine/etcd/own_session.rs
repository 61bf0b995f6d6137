//! Session of this replica: a key with a lease of etcd, which deletes it when the replica is gone.

use std::time::Duration;

use super::{
    keys::{KeySpace, RegistryKey},
    replica_session::{ReplicaSession, SessionId},
};
use crate::{
    etcd::{EtcdClient, EtcdCompare, EtcdError, EtcdErrorKind, EtcdLease, EtcdOperation, EtcdTransaction},
    random,
    registry::SessionEpoch,
};

/// TTL of the session.
pub const SESSION_TTL: Duration = Duration::from_secs(10);
/// Interval at which the session is renewed.
pub const RENEWAL_INTERVAL: Duration = Duration::from_secs(2);

/// Session of this replica.
#[derive(Debug, Clone)]
pub struct OwnSession {
    /// Id of the session.
    pub id: SessionId,
    /// Key of the session.
    pub key: String,
    /// Revision of etcd at which the key was created.
    pub epoch: SessionEpoch,
    /// Lease of etcd, whose expiry deletes the key, the batch notes and the release request of the session.
    pub lease: EtcdLease,
}

impl OwnSession {
    /// Begins a session. An earlier session of this process ends at the same revision, so that no batch of the earlier one
    /// can be executed later.
    pub async fn begin(
        client: &EtcdClient,
        keys: &KeySpace,
        replica: &ReplicaSession,
        earlier: Option<&str>,
    ) -> Result<Self, EtcdError> {
        let id = SessionId(random::u64());
        let key = keys.encode(&RegistryKey::Session(id));
        let lease = client.grant_lease(SESSION_TTL).await?;
        let mut success = vec![EtcdOperation::put_with_lease(key.clone(), replica.encode(), lease)];
        success.extend(earlier.map(|earlier| EtcdOperation::delete(earlier.to_owned())));
        let transaction =
            EtcdTransaction { compares: vec![EtcdCompare::absent(key.clone())], success, failure: vec![] };
        let result = client.transact(&transaction).await?;
        Ok(Self { id, key, epoch: SessionEpoch(result.revision), lease })
    }

    /// Renews the session. Returns `false` if it has ended.
    pub async fn renew(client: EtcdClient, lease: EtcdLease) -> Result<bool, EtcdError> {
        match client.keep_alive(lease).await {
            Ok(left) => Ok(!left.is_zero()),
            Err(error) if error.kind() == EtcdErrorKind::LeaseNotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
