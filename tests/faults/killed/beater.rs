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

/// Some instances on one heartbeat stream.
#[derive(Debug)]
pub struct Beater {
    peer: TestClient,
    lives: Vec<InstanceLifetime>,
    leases: Vec<Bytes>,
}

impl Beater {
    pub async fn register(peer: &TestClient) -> Self {
        let (mut lives, mut leases) = (Vec::new(), Vec::new());
        for number in 0..COUNT {
            let request = RegisterRequest { ttl: seconds(5.0), ..instance("alive", &format!("b{number}")) };
            let (service, id) = (request.service.clone(), request.id.clone());
            let from = wall();
            let answer = peer.register(request).await.unwrap();
            let signs = vec![Span { from, to: wall() }];
            let (revision, broke, stop) = (answer.revision, None, Stop::Silent);
            lives.push(InstanceLifetime { service, id, ttl: TTL, grace: None, revision, signs, broke, stop });
            leases.push(answer.lease_id);
        }
        Self { peer: peer.clone(), lives, leases }
    }

    /// Until there is a goal.
    pub async fn beat(mut self, goal: watch::Receiver<Option<u64>>) -> Vec<InstanceLifetime> {
        let leases: Vec<&Bytes> = self.leases.iter().collect();
        while goal.borrow().is_none() {
            let Ok(mut beats) = HeartbeatStream::try_open(&self.peer).await else {
                pause().await;
                continue;
            };
            while goal.borrow().is_none() {
                let Ok((states, span)) = beats.beat(&leases).await else { break };
                assert!(states.iter().all(|state| *state == LeaseState::Held), "they never fell silent: {states:?}");
                self.lives.iter_mut().for_each(|life| life.signs.push(span));
                sleep(BEAT).await;
            }
        }
        self.lives
    }
}
