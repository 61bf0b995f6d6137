//! xDS clients of the live instances, which resume at another replica when their replica fails or sends nothing.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use callboard::pb::envoy::config::core::v3::Node;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::Status;

use super::{heartbeat_client::or_late, test_cluster::ReplicaAddresses, work::LIVE};
use crate::{
    harness::{key, wall},
    invariant::live_present::Disappearance,
    xds::ads_client::{AdsClient, Eds, StateOfTheWorld},
};

/// Time without a response after which a client goes to another replica. Instances of its service come and go all the time.
const MAX_SILENCE: Duration = Duration::from_secs(15);
/// Time in which a replica has to open a stream.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// Client of the endpoints of one service.
#[derive(Debug)]
pub struct XdsWatcher {
    replicas: ReplicaAddresses,
    replica: usize,
    pub name: String,
    /// Ids of instances that are there from the beginning; instance `iN` has the address `10.1.0.N`.
    expected: Arc<[String]>,
    version: String,
    /// Present endpoints.
    endpoints: BTreeSet<String>,
    /// Live instances that were absent from a response and present in the one before.
    pub lost: Vec<Disappearance>,
}

impl XdsWatcher {
    pub fn new(replicas: &ReplicaAddresses, replica: usize, expected: &Arc<[String]>) -> Self {
        let name = format!("xDS client {replica}");
        let (replicas, expected) = (replicas.clone(), Arc::clone(expected));
        let (version, endpoints, lost) = Default::default();
        Self { replicas, replica, name, expected, version, endpoints, lost }
    }

    /// Watches until the end of the test. Counts itself as ready once it has all expected instances.
    pub async fn run(mut self, mut over: watch::Receiver<bool>, ready: Arc<watch::Sender<usize>>) -> Self {
        tokio::select! {
            biased;
            _ = over.wait_for(|over| *over) => {}
            () = self.follow(&ready) => {}
        }
        assert!(!self.endpoints.is_empty(), "{} ends without endpoints", self.name);
        self
    }

    async fn follow(&mut self, ready: &watch::Sender<usize>) {
        let mut is_ready = false;
        loop {
            if let Ok(mut ads) = self.open().await {
                let reading = self.read(&mut ads, || {
                    if !std::mem::replace(&mut is_ready, true) {
                        ready.send_modify(|ready| *ready += 1);
                    }
                });
                // The end of the stream, for whatever reason, leads to the next replica.
                let _ended = reading.await;
            }
            self.replica += 1;
            sleep(PAUSE).await;
        }
    }

    /// Opens a stream that goes on from the last response.
    async fn open(&self) -> Result<AdsClient, Status> {
        let node = Node { id: self.name.clone(), user_agent_name: "test agent".to_owned(), ..Node::default() };
        let client = self.replicas.client(self.replica);
        let opening = AdsClient::try_open_node(&client, StateOfTheWorld, node);
        let mut ads = timeout(OPEN_PATIENCE, opening).await.map_err(|_| Status::deadline_exceeded("no stream"))??;
        ads.resume(Eds, &[LIVE], &self.version, &[]);
        Ok(ads)
    }

    async fn read(&mut self, ads: &mut AdsClient, mut complete: impl FnMut()) -> Result<(), Status> {
        loop {
            let response = or_late(MAX_SILENCE, ads.message()).await?;
            ads.accept(&response);
            self.version.clone_from(&response.version);
            if !response.resources.contains_key(LIVE) {
                continue;
            }
            let addresses = response.addresses(LIVE);
            let present = addresses.split(' ').filter(|word| word.parse::<SocketAddr>().is_ok()).map(ToOwned::to_owned);
            self.take(present.collect());
            if self.expected.iter().all(|id| self.endpoints.contains(&endpoint(id))) {
                complete();
            }
        }
    }

    fn take(&mut self, present: BTreeSet<String>) {
        let at = wall();
        let is_lost = |id: &&String| self.endpoints.contains(&endpoint(id)) && !present.contains(&endpoint(id));
        let lost = self.expected.iter().filter(is_lost).map(|id| Disappearance { at, instance: key(LIVE, id) });
        self.lost.extend(lost.collect::<Vec<_>>());
        self.endpoints = present;
    }
}

/// Endpoint of an instance.
fn endpoint(id: &str) -> String {
    format!("10.1.0.{}:80", id.trim_start_matches('i'))
}
