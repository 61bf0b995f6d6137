//! Preference for the client's zone: when and how often clients get other shares of the zones.

use std::{collections::BTreeMap, time::Duration};

use callboard::{
    model::{PolicyScope, PolicySettings, ServerActor, ServiceName, ServicePolicy, ZoneMode},
    pb::{
        callboard::v1::{Locality, RegisterRequest, UpdateInstanceRequest},
        envoy::config::core::v3::{Locality as NodeLocality, Node},
    },
    registry::PolicyCommand,
};
use tokio::time::timeout;

use super::{
    ads_client::{AdsClient, AdsProtocol, AdsResponse, BOTH, Eds},
    at, deregister,
};
use crate::harness::{InMemory, TestClient};

/// Instances of each zone: 1 to 10 in `z1`, 11 to 20 in `z2`.
const INSTANCES_PER_ZONE: u8 = 10;
/// Minimum time between two changes of the layouts of a service.
const MIN_LAYOUT_INTERVAL: u64 = 5_000;

async fn register_in_zone(client: &TestClient, number: u8) {
    let zone = if number <= INSTANCES_PER_ZONE { "z1" } else { "z2" };
    let locality = Some(Locality { region: "r".to_owned(), zone: zone.to_owned(), sub_zone: String::new() });
    client.register(RegisterRequest { locality, ..at("a", number) }).await.unwrap();
}

async fn drain(client: &TestClient, number: u8, draining: bool) {
    let (service, id) = ("a".to_owned(), number.to_string());
    let request = UpdateInstanceRequest { service, id, draining, ..UpdateInstanceRequest::default() };
    client.update(&["draining"], request).await.unwrap();
}

/// Server with the service `a` in two zones, and a client in `z1` that prefers its zone.
struct TwoZones {
    server: InMemory,
    client: TestClient,
    ads: AdsClient,
    latest: ZonedAssignment,
}

/// Assignment as the client gets it.
#[derive(Debug, Clone, Default, PartialEq)]
struct ZonedAssignment {
    /// Percentages of the zones in the first priority.
    shares: BTreeMap<String, u64>,
    /// Addresses with their health, by zone.
    endpoints: BTreeMap<String, String>,
}

impl ZonedAssignment {
    fn of(response: &AdsResponse) -> Self {
        let mut assignment = Self::default();
        for line in response.localities("a") {
            let (head, endpoints) = line.split_once(": ").unwrap();
            let parts: Vec<_> = head.split(' ').collect();
            if let [zone, weight] = parts[..] {
                assignment.shares.insert(zone.to_owned(), weight.parse().unwrap());
            }
            assignment.endpoints.insert(parts[0].to_owned(), endpoints.to_owned());
        }
        let sum: u64 = assignment.shares.values().sum();
        assignment.shares.values_mut().for_each(|weight| *weight = (*weight * 100 + sum / 2) / sum);
        assignment
    }

    fn shares(&self) -> Vec<(&str, u64)> {
        self.shares.iter().map(|(zone, share)| (zone.as_str(), *share)).collect()
    }
}

impl TwoZones {
    async fn open(protocol: AdsProtocol) -> Self {
        let server = InMemory::open();
        let client = server.client().await;
        for number in 1..=2 * INSTANCES_PER_ZONE {
            register_in_zone(&client, number).await;
        }
        let settings = PolicySettings { zone: Some(ZoneMode::Prefer), ..PolicySettings::default() };
        let policy = ServicePolicy { settings, ..ServicePolicy::default() };
        let scope = PolicyScope::Service(ServiceName::parse("a").unwrap());
        let commands = server.shared().commands.on_behalf_of(ServerActor::InProcess.caller());
        commands.set_policy(PolicyCommand { scope, policy, expected_revision: None }).await.unwrap();
        let locality = NodeLocality { region: "r".to_owned(), zone: "z1".to_owned(), ..NodeLocality::default() };
        let node = Node { id: "in z1".to_owned(), locality: Some(locality), ..Node::default() };
        let mut ads = AdsClient::open_node(&client, protocol, node).await;
        ads.subscribe(Eds, &["a"]);
        let latest = ZonedAssignment::of(&ads.accepted(Eds).await);
        assert_eq!(latest.shares(), [("r/z1/", 100)], "the other zone has another priority");
        Self { server, client, ads, latest }
    }

    /// Takes in the assignments of this time. Returns the times of those in which a share has changed by more than a rounding, and
    /// the number of those with the same endpoints as the one before.
    async fn follow(&mut self, time: Duration) -> (Vec<u64>, usize) {
        let (mut changed, mut same_endpoints) = (Vec::new(), 0);
        // Ends with the time.
        let _elapsed = timeout(time, async {
            loop {
                let response = self.ads.message().await.unwrap();
                self.ads.accept(&response);
                let next = ZonedAssignment::of(&response);
                if next.shares != self.latest.shares {
                    changed.push(self.server.now());
                }
                same_endpoints += usize::from(next.endpoints == self.latest.endpoints);
                assert_ne!(next, self.latest, "an assignment is sent only if it differs");
                self.latest = next;
            }
        })
        .await;
        (changed, same_endpoints)
    }
}

#[tokio::test(start_paused = true)]
async fn shares_change_at_most_once_in_five_seconds_while_instances_drain() {
    for protocol in BOTH {
        let mut zones = TwoZones::open(protocol).await;
        let (mut changes, mut layouts) = (Vec::new(), 0);
        // The last one of the zone stays, so that no zone empties.
        for number in 1..INSTANCES_PER_ZONE {
            drain(&zones.client, number, true).await;
            let (times, same_endpoints) = zones.follow(Duration::from_secs(2)).await;
            changes.extend(times);
            layouts += same_endpoints;
        }
        let (times, same_endpoints) = zones.follow(Duration::from_secs(10)).await;
        changes.extend(times);
        layouts += same_endpoints;
        assert!((3..=5).contains(&changes.len()), "{changes:?}");
        assert!(changes.windows(2).all(|two| two[1] - two[0] >= MIN_LAYOUT_INTERVAL), "{changes:?}");
        assert!(layouts <= changes.len(), "{layouts} assignments with the same endpoints, {changes:?}");
        assert_eq!(
            zones.latest.shares(),
            [("r/z1/", 9), ("r/z2/", 91)],
            "one local instance is too few to be preferred"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn shares_change_at_once_when_a_zone_empties_and_when_it_returns() {
    for protocol in BOTH {
        let mut zones = TwoZones::open(protocol).await;
        let follow = Duration::from_millis(500);
        for number in 1..=INSTANCES_PER_ZONE {
            deregister(&zones.client, "a", number).await;
        }
        zones.follow(follow).await;
        assert_eq!(zones.latest.shares(), [("r/z2/", 100)]);
        for number in 1..=INSTANCES_PER_ZONE {
            register_in_zone(&zones.client, number).await;
        }
        let (changed, _) = zones.follow(follow).await;
        assert!(!changed.is_empty());
        assert_eq!(zones.latest.shares(), [("r/z1/", 100)], "all calls are local again, without a minute of spill");
    }
}

#[tokio::test(start_paused = true)]
async fn restart_of_instances_in_equal_parts_of_the_zones_changes_no_shares() {
    for protocol in BOTH {
        let mut zones = TwoZones::open(protocol).await;
        for number in 1..=INSTANCES_PER_ZONE {
            let pair = [number, number + INSTANCES_PER_ZONE];
            for number in pair {
                drain(&zones.client, number, true).await;
            }
            assert_eq!(zones.follow(Duration::from_secs(2)).await, (Vec::new(), 0));
            for number in pair {
                deregister(&zones.client, "a", number).await;
            }
            assert_eq!(zones.follow(Duration::from_secs(2)).await, (Vec::new(), 0));
            for number in pair {
                register_in_zone(&zones.client, number).await;
            }
            assert_eq!(zones.follow(Duration::from_secs(2)).await, (Vec::new(), 0));
        }
        assert_eq!(zones.latest.shares(), [("r/z1/", 100)]);
    }
}
