//! Instances that stop their heartbeats, one after the other.

use std::time::Duration;

use callboard::pb::callboard::v1::{GetInstanceRequest, RegisterRequest};
use tokio::time::{sleep, timeout};
use tonic::Code;

use super::{
    heartbeat_client::{HeartbeatClient, PATIENCE, or_late},
    test_cluster::ReplicaAddresses,
    work::{LIVE, Work},
};
use crate::{
    harness::{Random, address, instance},
    invariant::InstanceLifetime,
};

const TTL: Duration = Duration::from_secs(2);
/// Range of the time for which an instance sends heartbeats, in milliseconds.
const LIVES_MS: (u64, u64) = (200, 3_000);
/// Interval at which the client looks for a removal.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Time after which the next instance is started although the last one is still registered.
const MAX_WAIT: Duration = Duration::from_mins(1);

/// Client that starts one instance after the other. Two silent instances at a time would exceed the threshold of self-preservation.
#[derive(Debug)]
pub struct ShortLived {
    replicas: ReplicaAddresses,
    random: Random,
    lifetimes: Vec<InstanceLifetime>,
}

impl ShortLived {
    pub fn new(replicas: &ReplicaAddresses, random: Random) -> Self {
        Self { replicas: replicas.clone(), random, lifetimes: Vec::new() }
    }

    /// Returns the lifetimes of all instances that were registered.
    pub async fn run(mut self, mut work: Work) -> Vec<InstanceLifetime> {
        let mut over = work.clone();
        while work.may_go_on().await {
            let mut client = self.next_client();
            tokio::select! {
                () = client.register() => {}
                () = over.over() => break,
            }
            let lives = self.random.millis(LIVES_MS.0, LIVES_MS.1);
            let _its_time_is_over = timeout(lives, client.keep()).await;
            self.lifetimes.push(client.lifetime);
            tokio::select! {
                _ = timeout(MAX_WAIT, self.until_gone()) => {}
                () = over.over() => break,
            }
        }
        self.lifetimes
    }

    fn next_client(&mut self) -> HeartbeatClient {
        let number = self.lifetimes.len();
        let request = RegisterRequest {
            addresses: vec![address("10.2.0.1", u32::try_from(number % 60_000).unwrap() + 1)],
            ..instance(LIVE, &format!("short-lived-{number}"))
        };
        let replica = self.replicas.any(&mut self.random);
        HeartbeatClient::new(&self.replicas, replica, request, TTL, self.random.split())
    }

    /// Waits until a replica does not have the last instance any more.
    async fn until_gone(&mut self) {
        let last = self.lifetimes.last().expect("one has lived");
        let request = GetInstanceRequest { service: last.service.clone(), id: last.id.clone(), consistent: false };
        loop {
            sleep(LOOK_INTERVAL).await;
            let mut client = self.replicas.client(self.replicas.any(&mut self.random)).discovery;
            let answer = or_late(PATIENCE, client.get_instance(request.clone())).await;
            if answer.is_err_and(|status| status.code() == Code::NotFound) {
                return;
            }
        }
    }
}
