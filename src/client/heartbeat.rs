//! One `KeepAlive` stream: sends a heartbeat every third of the time to live, and notices when nobody answers.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::ClientError;
use crate::pb::callboard::v1::{
    Heartbeat, KeepAliveRequest, KeepAliveResponse, registry_service_client::RegistryServiceClient,
};

/// Heartbeats that may wait for the connection before it counts as dead.
const QUEUED: usize = 4;
/// How long an answer may take: one heartbeat's interval, within these.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));

/// What keeps a registration alive, as the registry granted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeldLease {
    pub(super) id: Bytes,
    pub(super) ttl: Duration,
}

impl HeldLease {
    pub(super) fn interval(&self) -> Duration {
        self.ttl / 3
    }

    pub(super) fn patience(&self) -> Duration {
        self.interval().clamp(PATIENCE.0, PATIENCE.1)
    }
}

/// An open stream that beats for one lease.
#[derive(Debug)]
pub(super) struct HeartbeatSender {
    requests: mpsc::Sender<KeepAliveRequest>,
    answers: Streaming<KeepAliveResponse>,
    lease: HeldLease,
    next: Instant,
    unanswered: usize,
    silent_at: Option<Instant>,
}

impl HeartbeatSender {
    /// Opens the stream with a heartbeat already on its way.
    pub(super) async fn open(
        client: &mut RegistryServiceClient<Channel>,
        lease: HeldLease,
    ) -> Result<Self, ClientError> {
        let (requests, outgoing) = mpsc::channel(QUEUED);
        requests.try_send(beat(&lease)).map_err(|_| ClientError::Ended)?;
        let patience = lease.patience();
        let answers = timeout(patience, client.keep_alive(ReceiverStream::new(outgoing)))
            .await
            .map_err(|_| ClientError::Silent(patience))??
            .into_inner();
        let now = super::now();
        Ok(Self {
            requests,
            answers,
            next: now + lease.interval(),
            unanswered: 1,
            silent_at: Some(now + patience),
            lease,
        })
    }

    /// Goes on for this lease; for another one than before with a heartbeat at once, so that the stream becomes the one
    /// that carries it.
    pub(super) fn adopt(&mut self, lease: &HeldLease) {
        if self.lease != *lease {
            self.lease = lease.clone();
            self.next = super::now();
        }
    }

    /// Beats on until the server says something. Nothing is lost when it is dropped meanwhile.
    pub(super) async fn next(&mut self) -> Result<KeepAliveResponse, ClientError> {
        loop {
            let wake = self.silent_at.map_or(self.next, |silent| silent.min(self.next));
            tokio::select! {
                answer = self.answers.message() => return Ok(self.hear(answer?.ok_or(ClientError::Ended)?)),
                () = sleep_until(wake) => self.beat()?,
            }
        }
    }

    fn beat(&mut self) -> Result<(), ClientError> {
        let now = super::now();
        let silent = ClientError::Silent(self.lease.patience());
        if self.silent_at.is_some_and(|at| at <= now) {
            return Err(silent);
        }
        if self.next <= now {
            // A full queue means that the connection has taken nothing for several intervals.
            self.requests.try_send(beat(&self.lease)).map_err(|_| silent)?;
            self.next = now + self.lease.interval();
            self.unanswered += 1;
            self.silent_at.get_or_insert(now + self.lease.patience());
        }
        Ok(())
    }

    fn hear(&mut self, answer: KeepAliveResponse) -> KeepAliveResponse {
        if !answer.leases.is_empty() {
            self.unanswered = self.unanswered.saturating_sub(1);
            self.silent_at = (self.unanswered > 0).then(|| super::now() + self.lease.patience());
        }
        answer
    }
}

fn beat(lease: &HeldLease) -> KeepAliveRequest {
    KeepAliveRequest { heartbeats: vec![Heartbeat { lease_id: lease.id.clone(), load: None }] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_an_interval_within_bounds() {
        let patience = |ttl| {
            let lease = HeldLease { id: Bytes::new(), ttl: Duration::from_secs(ttl) };
            lease.patience().as_secs()
        };
        assert_eq!((patience(1), patience(15), patience(3_600)), (2, 5, 10));
    }
}
