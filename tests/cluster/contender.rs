//! Programs that compete for one id, each under a new boot id at each attempt.

use std::time::Duration;

use callboard::pb::callboard::v1::RegisterRequest;
use tokio::time::{sleep, timeout};

use super::{
    heartbeat_client::HeartbeatClient,
    test_cluster::ReplicaAddresses,
    work::{CONTESTED, Work},
};
use crate::{
    harness::{Random, instance, key},
    invariant::one_boot::Tenure,
};

const ID: &str = "one";
const TTL: Duration = Duration::from_secs(3);
/// Range of the time for which a boot sends heartbeats, in milliseconds.
const HOLDS_MS: (u64, u64) = (500, 6_000);
/// Range of the pause between two attempts, in milliseconds.
const PAUSE_MS: (u64, u64) = (100, 700);

/// Program that registers the id whenever it is free, under a new boot id each time.
#[derive(Debug)]
pub struct Contender {
    replicas: ReplicaAddresses,
    number: u64,
    random: Random,
    tenures: Vec<Tenure>,
}

impl Contender {
    pub fn new(replicas: &ReplicaAddresses, number: u64, random: Random) -> Self {
        Self { replicas: replicas.clone(), number, random, tenures: Vec::new() }
    }

    /// Returns the times in which its boots held the id.
    pub async fn run(mut self, mut work: Work) -> Vec<Tenure> {
        for boot in 0_u64.. {
            sleep(self.random.millis(PAUSE_MS.0, PAUSE_MS.1)).await;
            if !work.may_go_on().await {
                break;
            }
            let boot = format!("boot-{}-{boot}", self.number);
            let request = RegisterRequest { boot_id: boot.clone(), ..instance(CONTESTED, ID) };
            let replica = self.replicas.any(&mut self.random);
            let mut client = HeartbeatClient::new(&self.replicas, replica, request, TTL, self.random.split());
            if client.try_register().await.is_err() {
                continue;
            }
            let holds = self.random.millis(HOLDS_MS.0, HOLDS_MS.1);
            let _its_time_is_over = timeout(holds, client.hold()).await;
            let (from, to) = (client.confirmed[0].to, client.confirmed[client.confirmed.len() - 1].from);
            self.tenures.push(Tenure { instance: key(CONTESTED, ID), boot, from, to });
            if self.random.one_in(2) {
                let _may_expire_instead = client.deregister().await;
            }
        }
        self.tenures
    }
}
