//! Requests to the cluster, with failover between its members.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;
use tonic::Status;

use crate::pb::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, StatusRequest,
    kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient,
};

use super::{
    connection::{Member, MemberChannel, MemberConnection, RequestMetadata},
    error::{EtcdError, EtcdErrorKind, EtcdOutcome},
    options::{EtcdOptions, EtcdOptionsError},
    request::{EtcdRange, EtcdTransaction},
    response::{EtcdLease, EtcdMemberStatus, EtcdRangeResult, EtcdTransactionResult, ttl},
    token::TokenCell,
};

/// Maximum size of a response in bytes. The default of tonic, 4 MiB, is less than a page of large records or the changes of a
/// catch-up, and a larger response would fail for ever.
pub(super) const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// Client of an etcd cluster. Clones share the connections.
///
/// A connection runs on the tokio runtime of the request that opened it. A request that is dropped is cancelled.
#[derive(Debug, Clone)]
pub struct EtcdClient {
    pub(super) shared: Arc<EtcdClientShared>,
}

/// State that the clones of a client share.
#[derive(Debug)]
pub(super) struct EtcdClientShared {
    members: Box<[Member]>,
    /// Index of the member in use.
    current: AtomicUsize,
    token: TokenCell,
    pub(super) request_timeout: Duration,
}

/// Condition under which a failed request is sent to another member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repetition {
    /// The request was certainly not executed.
    IfNotExecuted,
    /// Always, because executing it twice is as good as once.
    Always,
}

impl EtcdClient {
    /// Creates a client, which connects at its first request.
    ///
    /// # Errors
    ///
    /// An error if an endpoint is invalid, or a TLS file cannot be used.
    pub fn new(options: EtcdOptions) -> Result<Self, EtcdOptionsError> {
        let endpoints = options.member_endpoints()?;
        let members = endpoints.into_iter().map(|endpoint| Member::new(endpoint, options.connect_timeout)).collect();
        let shared = EtcdClientShared {
            members,
            current: AtomicUsize::new(0),
            token: TokenCell::new(options.credentials),
            request_timeout: options.request_timeout,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns the endpoints in the order of the options.
    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = &str> {
        self.shared.members.iter().map(Member::url)
    }

    /// Returns the endpoint of the member in use.
    #[must_use]
    pub fn current_endpoint(&self) -> &str {
        self.shared.members[self.shared.current()].url()
    }

    /// Reads keys.
    ///
    /// # Errors
    ///
    /// The error of the last member that was asked.
    pub async fn range(&self, range: EtcdRange) -> Result<EtcdRangeResult, EtcdError> {
        let request = range.to_proto();
        let response = self.shared.call(Repetition::Always, true, |channel| {
            let request = request.clone();
            async move { Ok(kv(channel).range(request).await?.into_inner()) }
        });
        Ok(response.await?.into())
    }

    /// Executes a transaction. It is repeated only if it was certainly not executed.
    ///
    /// # Errors
    ///
    /// An error says whether the transaction may have been executed ([`EtcdError::outcome`]).
    pub async fn transact(&self, transaction: &EtcdTransaction) -> Result<EtcdTransactionResult, EtcdError> {
        let request = transaction.to_proto();
        let response = self.shared.call(Repetition::IfNotExecuted, true, |channel| {
            let request = request.clone();
            async move {
                let response = kv(channel).txn(request).await?.into_inner();
                EtcdTransactionResult::of_proto(response)
                    .ok_or_else(|| Status::internal("an operation of the transaction has no response"))
            }
        });
        response.await
    }

    /// Grants a lease. If the answer is lost, it is granted again, and the first one expires unused.
    ///
    /// # Errors
    ///
    /// The error of the last member that was asked.
    pub async fn grant_lease(&self, time_to_live: Duration) -> Result<EtcdLease, EtcdError> {
        let seconds = i64::try_from(time_to_live.as_secs()).unwrap_or(i64::MAX);
        let response = self.shared.call(Repetition::Always, true, |channel| async move {
            let request = LeaseGrantRequest { ttl: seconds, id: 0 };
            Ok(LeaseClient::new(channel).lease_grant(request).await?.into_inner())
        });
        Ok(EtcdLease(response.await?.id))
    }

    /// Revokes a lease, which deletes its keys. A lease that does not exist is no error.
    ///
    /// # Errors
    ///
    /// The error of the last member that was asked.
    pub async fn revoke_lease(&self, lease: EtcdLease) -> Result<(), EtcdError> {
        let response = self.shared.call(Repetition::Always, true, |channel| async move {
            LeaseClient::new(channel).lease_revoke(LeaseRevokeRequest { id: lease.0 }).await?;
            Ok(())
        });
        match response.await {
            Err(error) if error.kind() == EtcdErrorKind::LeaseNotFound => Ok(()),
            revoked => revoked,
        }
    }

    /// Renews a lease once, and returns its TTL.
    ///
    /// # Errors
    ///
    /// [`EtcdErrorKind::LeaseNotFound`] if the lease does not exist, otherwise the error of the last member that was asked.
    pub async fn keep_alive(&self, lease: EtcdLease) -> Result<Duration, EtcdError> {
        let response = self.shared.call(Repetition::Always, true, |channel| async move {
            let request = tokio_stream::once(LeaseKeepAliveRequest { id: lease.0 });
            let mut responses = LeaseClient::new(channel).lease_keep_alive(request).await?.into_inner();
            let renewed = responses.message().await?.ok_or_else(|| Status::unavailable("no answer to a renewal"))?;
            // etcd answers so for a lease that it does not have.
            if renewed.ttl <= 0 { Err(Status::not_found("requested lease not found")) } else { Ok(renewed.ttl) }
        });
        response.await.map(ttl)
    }

    /// Compacts the history before a revision. A revision that has been compacted before is no error.
    ///
    /// # Errors
    ///
    /// The error of the last member that was asked.
    pub async fn compact(&self, before: u64) -> Result<(), EtcdError> {
        let response = self.shared.call(Repetition::Always, true, |channel| async move {
            kv(channel).compact(CompactionRequest { revision: before.cast_signed(), physical: false }).await?;
            Ok(())
        });
        match response.await {
            Err(error) if matches!(error.kind(), EtcdErrorKind::Compacted { .. }) => Ok(()),
            compacted => compacted,
        }
    }

    /// Returns the status of the member in use, or of the next that answers. It needs no leader.
    ///
    /// # Errors
    ///
    /// The error of the last member that was asked.
    pub async fn status(&self) -> Result<EtcdMemberStatus, EtcdError> {
        self.shared.call(Repetition::Always, false, status).await
    }

    /// Returns the status of the member at this index of the endpoints (modulo their number). It needs no leader.
    ///
    /// # Errors
    ///
    /// The error of this member.
    pub async fn member_status(&self, index: usize) -> Result<EtcdMemberStatus, EtcdError> {
        self.shared.ask(index % self.shared.members.len(), false, &status).await
    }
}

/// Returns a client of the keys, which accepts large responses.
fn kv(channel: MemberChannel) -> KvClient<MemberChannel> {
    KvClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES)
}

async fn status(channel: MemberChannel) -> Result<EtcdMemberStatus, Status> {
    Ok(MaintenanceClient::new(channel).status(StatusRequest {}).await?.into_inner().into())
}

impl EtcdClientShared {
    fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Endpoint of the member at this index.
    pub(super) fn endpoint(&self, member: usize) -> &str {
        self.members[member].url()
    }

    /// Makes the member after this one the member in use, unless another request has done so already.
    fn leave(&self, member: usize) {
        let next = (member + 1) % self.members.len();
        let _moved = self.current.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Uses this connection for no more requests, and goes on with the next member.
    pub(super) fn abandon(&self, member: usize, connection: &MemberConnection) {
        self.members[member].abandon(connection);
        self.leave(member);
    }

    /// Sends a request to the member in use, and to the others in turn while that may help.
    async fn call<T, F>(
        &self,
        repetition: Repetition,
        require_leader: bool,
        request: impl Fn(MemberChannel) -> F,
    ) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.failover(repetition, |member| self.ask(member, require_leader, &request)).await
    }

    /// Makes an attempt at the member in use, and at the others in turn while that may help.
    pub(super) async fn failover<T, F>(
        &self,
        repetition: Repetition,
        attempt: impl Fn(usize) -> F,
    ) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, EtcdError>>,
    {
        let mut attempts = 0;
        loop {
            let member = self.current();
            // On the heap: the attempts of a transaction would take kilobytes of each future that awaits one.
            let error = match Box::pin(attempt(member)).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            attempts += 1;
            if !error.concerns_member() {
                return Err(error);
            }
            self.leave(member);
            let may_repeat = repetition == Repetition::Always || error.is_unsent();
            if !may_repeat || attempts >= self.members.len() {
                return Err(error);
            }
        }
    }

    /// Sends a request to a member, and waits for the answer.
    async fn ask<T, F>(
        &self,
        member: usize,
        require_leader: bool,
        request: &impl Fn(MemberChannel) -> F,
    ) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let answer = self.attempt(member, require_leader, |channel| {
            let connection = channel.connection.clone();
            let answering = request(channel);
            async move {
                let answer = timeout(self.request_timeout, answering).await;
                let answer = answer.map_err(|_| self.timed_out(member, &connection))?;
                answer.map_err(|status| EtcdError::of_status(self.endpoint(member), &status))
            }
        });
        answer.await
    }

    /// Sends a request to a member, once more with a new token if etcd rejects the token.
    pub(super) async fn attempt<T, F>(
        &self,
        member: usize,
        require_leader: bool,
        request: impl Fn(MemberChannel) -> F,
    ) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, EtcdError>>,
    {
        let member = &self.members[member];
        let token = self.token.token(member, self.request_timeout, None).await?;
        let metadata = RequestMetadata { token: token.value.clone(), require_leader };
        match request(MemberChannel { connection: member.connection().await?, metadata }).await {
            Err(error) if error.kind() == EtcdErrorKind::TokenExpired => {
                let token = self.token.token(member, self.request_timeout, Some(&token)).await?;
                let metadata = RequestMetadata { token: token.value, require_leader };
                request(MemberChannel { connection: member.connection().await?, metadata }).await
            }
            answered => answered,
        }
    }

    /// Returns the error of a request without an answer. Its connection may hang, so later requests use another connection.
    pub(super) fn timed_out(&self, member: usize, connection: &MemberConnection) -> EtcdError {
        self.members[member].abandon(connection);
        let reason = format!("nothing within {}", humantime::format_duration(self.request_timeout));
        EtcdError::new(EtcdErrorKind::TimedOut, EtcdOutcome::Unknown, self.endpoint(member), reason)
    }
}
