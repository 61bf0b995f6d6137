//! Instance that changes all the time, so that every watcher has something to receive.

use std::time::Duration;

use callboard::pb::callboard::v1::RegisterRequest;
use tokio::time::sleep;

use super::{
    heartbeat_client::{REGISTRATION_PATIENCE, or_late},
    test_cluster::ReplicaAddresses,
    work::{TICKS, Work},
};
use crate::harness::{Random, instance, seconds};

/// Pause between two changes.
const TICK: Duration = Duration::from_millis(200);

/// Changes the instance at one replica, and at another one after a failure. Returns the number of changes that were acknowledged.
pub async fn run(replicas: ReplicaAddresses, mut random: Random, mut work: Work) -> u64 {
    let (mut ticks, mut replica) = (0, replicas.any(&mut random));
    let mut client = replicas.client(replica);
    while work.may_go_on().await {
        let tags = vec![ticks.to_string()];
        let request = RegisterRequest { tags, ttl: seconds(86_000.0), ..instance(TICKS, "tick") };
        if or_late(REGISTRATION_PATIENCE, client.register(request)).await.is_ok() {
            ticks += 1;
        } else {
            replica += 1;
            client = replicas.client(replica);
        }
        sleep(TICK).await;
    }
    ticks
}
