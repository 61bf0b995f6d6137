//! One `KeepAlive` stream: sends a heartbeat every third of the TTL, and fails when no response arrives in time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::{ClientError, load::LoadCounters};
use crate::pb::callboard::v1::{
    Heartbeat, KeepAliveRequest, KeepAliveResponse, registry_service_client::RegistryServiceClient,
};

/// Maximum number of heartbeats queued for a connection. With more, the connection counts as broken.
const MAX_QUEUED_HEARTBEATS: usize = 4;
/// Minimum timeout of a response. The timeout is one heartbeat interval, within these bounds.
const MIN_RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum timeout of a response.
const MAX_RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Lease that the registry granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeldLease {
    pub(super) id: Bytes,
    pub(super) ttl: Duration,
}

impl HeldLease {
    /// Returns the interval between heartbeats.
    pub(super) fn interval(&self) -> Duration {
        self.ttl / 3
    }

    /// Returns the timeout of a response.
    pub(super) fn response_timeout(&self) -> Duration {
        self.interval().clamp(MIN_RESPONSE_TIMEOUT, MAX_RESPONSE_TIMEOUT)
    }
}

/// Open stream that sends the heartbeats of one lease.
#[derive(Debug)]
pub(super) struct HeartbeatSender {
    requests: mpsc::Sender<KeepAliveRequest>,
    responses: Streaming<KeepAliveResponse>,
    lease: HeldLease,
    load: Arc<LoadCounters>,
    next: Instant,
    unanswered: usize,
    /// Time at which the oldest unanswered heartbeat times out.
    times_out_at: Option<Instant>,
}

impl HeartbeatSender {
    /// Opens the stream and sends the first heartbeat with it.
    pub(super) async fn open(
        client: &mut RegistryServiceClient<Channel>,
        lease: HeldLease,
        load: Arc<LoadCounters>,
    ) -> Result<Self, ClientError> {
        let (requests, outgoing) = mpsc::channel(MAX_QUEUED_HEARTBEATS);
        requests.try_send(keep_alive_request(&lease, &load)).map_err(|_| ClientError::StreamEnded)?;
        let response_timeout = lease.response_timeout();
        let responses = timeout(response_timeout, client.keep_alive(ReceiverStream::new(outgoing)))
            .await
            .map_err(|_| ClientError::Timeout(response_timeout))??
            .into_inner();
        let now = super::now();
        Ok(Self {
            requests,
            responses,
            next: now + lease.interval(),
            unanswered: 1,
            times_out_at: Some(now + response_timeout),
            lease,
            load,
        })
    }

    /// Continues with this lease. The first heartbeat of a new lease is sent at once, so that this stream carries it.
    pub(super) fn adopt(&mut self, lease: &HeldLease) {
        if self.lease != *lease {
            self.lease = lease.clone();
            self.next = super::now();
        }
    }

    /// Sends heartbeats until a response arrives, and returns it. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<KeepAliveResponse, ClientError> {
        loop {
            let wake = self.times_out_at.map_or(self.next, |at| at.min(self.next));
            tokio::select! {
                response = self.responses.message() => {
                    return Ok(self.receive(response?.ok_or(ClientError::StreamEnded)?));
                }
                () = sleep_until(wake) => self.send_if_due()?,
            }
        }
    }

    fn send_if_due(&mut self) -> Result<(), ClientError> {
        let now = super::now();
        let timed_out = ClientError::Timeout(self.lease.response_timeout());
        if self.times_out_at.is_some_and(|at| at <= now) {
            return Err(timed_out);
        }
        if self.next <= now {
            // A full queue means that the connection has sent nothing for several intervals.
            self.requests.try_send(keep_alive_request(&self.lease, &self.load)).map_err(|_| timed_out)?;
            self.next = now + self.lease.interval();
            self.unanswered += 1;
            self.times_out_at.get_or_insert(now + self.lease.response_timeout());
        }
        Ok(())
    }

    fn receive(&mut self, response: KeepAliveResponse) -> KeepAliveResponse {
        if !response.leases.is_empty() {
            self.unanswered = self.unanswered.saturating_sub(1);
            self.times_out_at = (self.unanswered > 0).then(|| super::now() + self.lease.response_timeout());
        }
        response
    }
}

fn keep_alive_request(lease: &HeldLease, load: &LoadCounters) -> KeepAliveRequest {
    KeepAliveRequest { heartbeats: vec![Heartbeat { lease_id: lease.id.clone(), load: load.take_report() }] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_timeout_is_one_interval_within_bounds() {
        let seconds = |ttl| {
            let lease = HeldLease { id: Bytes::new(), ttl: Duration::from_secs(ttl) };
            lease.response_timeout().as_secs()
        };
        assert_eq!((seconds(1), seconds(15), seconds(3_600)), (2, 5, 10));
    }
}
