//! Instances that send heartbeats through all restarts. No reader may see them removed.

use std::time::Duration;

use bytes::Bytes;
use callboard::pb::callboard::v1::{LeaseState, RegisterRequest};
use tokio::{sync::watch, time::sleep};

use super::pause;
use crate::{
    harness::{HeartbeatStream, Span, TestClient, instance, seconds, wall},
    invariant::{InstanceLifetime, Stop},
};

const COUNT: usize = 5;
/// Milliseconds: longer than a start takes on a slow machine, shorter than a history.
const TTL: u64 = 5_000;
const BEAT: Duration = Duration::from_millis(100);

/// Instances on one heartbeat stream.
#[derive(Debug)]
pub struct HeartbeatInstances {
    client: TestClient,
    lifetimes: Vec<InstanceLifetime>,
    leases: Vec<Bytes>,
}

impl HeartbeatInstances {
    pub async fn register(client: &TestClient) -> Self {
        let (mut lifetimes, mut leases) = (Vec::new(), Vec::new());
        for number in 0..COUNT {
            let request = RegisterRequest { ttl: seconds(5.0), ..instance("alive", &format!("b{number}")) };
            let (service, id) = (request.service.clone(), request.id.clone());
            let from = wall();
            let answer = client.register(request).await.unwrap();
            let renewals = vec![Span { from, to: wall() }];
            let (revision, broke, stop) = (answer.revision, None, Stop::Silent);
            lifetimes.push(InstanceLifetime { service, id, ttl: TTL, grace: None, revision, renewals, broke, stop });
            leases.push(answer.lease_id);
        }
        Self { client: client.clone(), lifetimes, leases }
    }

    /// Sends heartbeats until there is a goal.
    pub async fn beat(mut self, goal: watch::Receiver<Option<u64>>) -> Vec<InstanceLifetime> {
        let leases: Vec<&Bytes> = self.leases.iter().collect();
        while goal.borrow().is_none() {
            let Ok(mut heartbeat_stream) = HeartbeatStream::try_open(&self.client).await else {
                pause().await;
                continue;
            };
            while goal.borrow().is_none() {
                let Ok((states, span)) = heartbeat_stream.beat(&leases).await else { break };
                assert!(
                    states.iter().all(|state| *state == LeaseState::Held),
                    "their heartbeats never stopped: {states:?}"
                );
                self.lifetimes.iter_mut().for_each(|lifetime| lifetime.renewals.push(span));
                sleep(BEAT).await;
            }
        }
        self.lifetimes
    }
}
