//! A heartbeat stream.

use bytes::Bytes;
use callboard::pb::callboard::v1::{Heartbeat, KeepAliveRequest, KeepAliveResponse, LeaseReport, LeaseState, Notice};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Span, TestClient, wall, within};

/// Dropping it breaks the stream.
#[derive(Debug)]
pub struct HeartbeatStream {
    pub requests: mpsc::Sender<KeepAliveRequest>,
    pub answers: Streaming<KeepAliveResponse>,
}

impl HeartbeatStream {
    pub async fn open(client: &TestClient) -> Self {
        Self::try_open(client).await.unwrap()
    }

    pub async fn try_open(client: &TestClient) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(4);
        let opening = client.registry.clone();
        let answers = within("KeepAlive", { opening }.keep_alive(ReceiverStream::new(outgoing))).await?;
        Ok(Self { requests, answers: answers.into_inner() })
    }

    /// A heartbeat for each of these leases in one message, and what became of each.
    pub async fn beat(&mut self, leases: &[&Bytes]) -> Result<(Vec<LeaseState>, Span), Status> {
        let heartbeats = leases.iter().map(|lease| Heartbeat { lease_id: (*lease).clone(), load: None }).collect();
        let from = wall();
        let answer = self.ask(KeepAliveRequest { heartbeats }).await?;
        if answer.notice() == Notice::Reconnect {
            return Err(Status::unavailable("the server leaves"));
        }
        assert!(answer.leases.iter().map(|report| &report.lease_id).eq(leases.iter().copied()), "in the same order");
        Ok((answer.leases.iter().map(LeaseReport::state).collect(), Span { from, to: wall() }))
    }

    /// The answer to this message.
    pub async fn ask(&mut self, request: KeepAliveRequest) -> Result<KeepAliveResponse, Status> {
        // When the stream has ended, the answer is its status.
        let _ended = self.requests.send(request).await;
        let answer = within("the answer to a heartbeat", self.answers.message()).await?;
        answer.ok_or_else(|| Status::cancelled("the heartbeat stream ended"))
    }
}
