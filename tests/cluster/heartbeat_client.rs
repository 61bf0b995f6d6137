//! Client that keeps an instance registered: one heartbeat stream at a replica, and the next replica after each failure.

use std::time::Duration;

use bytes::Bytes;
use callboard::pb::callboard::v1::{Heartbeat, KeepAliveRequest, LeaseReport, LeaseState, Notice, RegisterRequest};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::Status;

use super::test_cluster::ReplicaAddresses;
use crate::{
    harness::{HeartbeatStream, Random, Span, TestClient, Wall, wall},
    invariant::{InstanceLifetime, Stop},
};

/// Time after which a client gives up on an answer, and asks another replica.
pub const PATIENCE: Duration = Duration::from_millis(1_500);
/// Time after which a client gives up on a registration: longer than a replica waits for etcd.
pub const REGISTRATION_PATIENCE: Duration = Duration::from_secs(4);

/// End of a tenure, as the client learned of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEnd {
    /// The lease is unknown.
    Unknown,
    /// Another boot has the id.
    Superseded,
    /// An operator removed the instance.
    Removed,
}

/// Client of one instance.
#[derive(Debug)]
pub struct HeartbeatClient {
    replicas: ReplicaAddresses,
    replica: usize,
    request: RegisterRequest,
    beat: Duration,
    random: Random,
    lease: Bytes,
    pub lifetime: InstanceLifetime,
    /// Renewals that a replica with a connection to etcd answered.
    pub confirmed: Vec<Span>,
    /// Number of registrations.
    pub registrations: usize,
}

impl HeartbeatClient {
    /// Prepares a client of an instance with this TTL, at the replica with this number.
    pub fn new(
        replicas: &ReplicaAddresses,
        replica: usize,
        request: RegisterRequest,
        ttl: Duration,
        random: Random,
    ) -> Self {
        let lifetime = InstanceLifetime {
            service: request.service.clone(),
            id: request.id.clone(),
            ttl: u64::try_from(ttl.as_millis()).unwrap(),
            grace: None,
            revision: 0,
            renewals: Vec::new(),
            broke: None,
            stop: Stop::Silent,
        };
        let request = RegisterRequest { ttl: ttl.try_into().ok(), ..request };
        let (lease, confirmed) = (Bytes::new(), Vec::new());
        Self {
            replicas: replicas.clone(),
            replica,
            request,
            beat: ttl / 4,
            random,
            lease,
            lifetime,
            confirmed,
            registrations: 0,
        }
    }

    /// Registers at any replica that accepts it.
    pub async fn register(&mut self) {
        while self.try_register().await.is_err() {
            self.move_on().await;
        }
    }

    /// Registers at the present replica.
    pub async fn try_register(&mut self) -> Result<(), Status> {
        let client = self.replicas.client(self.replica);
        self.register_at(&client).await
    }

    /// Goes on with the next replica.
    pub async fn move_on(&mut self) {
        self.replica += 1;
        sleep(self.random.millis(20, 100)).await;
    }

    /// Sends heartbeats for as long as it is polled, and registers again when the lease is unknown.
    pub async fn keep(&mut self) -> LeaseEnd {
        loop {
            match self.hold().await {
                LeaseEnd::Unknown => self.register().await,
                end => return end,
            }
        }
    }

    /// Sends heartbeats until the lease ends.
    pub async fn hold(&mut self) -> LeaseEnd {
        loop {
            let client = self.replicas.client(self.replica);
            match self.beat_at(&client).await {
                Ok(end) => return end,
                Err(_status) => self.move_on().await,
            }
        }
    }

    /// Deregisters with its lease at the present replica.
    pub async fn deregister(&self) -> Result<(), Status> {
        let client = self.replicas.client(self.replica);
        let InstanceLifetime { service, id, .. } = &self.lifetime;
        or_late(REGISTRATION_PATIENCE, client.deregister(service, id, &self.lease)).await.map(drop)
    }

    async fn register_at(&mut self, client: &TestClient) -> Result<(), Status> {
        let from = wall();
        let answer = or_late(REGISTRATION_PATIENCE, client.register(self.request.clone())).await?;
        self.lease = answer.lease_id;
        self.registrations += 1;
        if self.lifetime.revision == 0 {
            self.lifetime.revision = answer.revision;
        }
        self.renewed(from, true);
        Ok(())
    }

    /// Sends heartbeats to one replica until the stream fails or the lease ends.
    async fn beat_at(&mut self, client: &TestClient) -> Result<LeaseEnd, Status> {
        let mut stream = or_late(PATIENCE, HeartbeatStream::try_open(client)).await?;
        let mut ticks = interval(self.beat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let heartbeats = vec![Heartbeat { lease_id: self.lease.clone(), load: None }];
            let from = wall();
            let answer = or_late(PATIENCE, stream.ask(KeepAliveRequest { heartbeats })).await?;
            if answer.notice() == Notice::Reconnect {
                return Err(Status::unavailable("the replica stops"));
            }
            let state = answer.leases.first().map(LeaseReport::state);
            match state {
                Some(LeaseState::Held) => self.renewed(from, answer.notice() != Notice::Degraded),
                Some(LeaseState::Superseded) => return Ok(LeaseEnd::Superseded),
                Some(LeaseState::Removed) => return Ok(LeaseEnd::Removed),
                Some(LeaseState::Unknown | LeaseState::Unspecified) => return Ok(LeaseEnd::Unknown),
                None => {}
            }
        }
    }

    fn renewed(&mut self, from: Wall, is_confirmed: bool) {
        let span = Span { from, to: wall() };
        self.lifetime.renewals.push(span);
        if is_confirmed {
            self.confirmed.push(span);
        }
    }
}

/// Waits for an answer. The status says so if it comes late.
pub async fn or_late<T>(patience: Duration, answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    timeout(patience, answer).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
}
