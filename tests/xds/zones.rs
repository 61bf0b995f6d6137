//! Preference for the client's zone: shares, their changes, and the streams that count.

use std::time::Duration;

use callboard::pb::{
    callboard::v1::{Locality, RegisterRequest, SetPolicyRequest, UpdateInstanceRequest},
    envoy::config::core::v3::{Locality as NodeLocality, Node, node::UserAgentVersionType},
};
use prost_types::{Struct, Value, value::Kind};
use tokio::time::timeout;

use super::{
    ads_client::{AdsClient, Eds, StateOfTheWorld},
    at,
};
use crate::harness::{InMemory, TestClient, within};

/// Number of instances in each of two zones.
const PER_ZONE: u8 = 4;
/// Number of clients in each zone: enough for the distribution of clients to be known, even without those of the other zone.
const CLIENTS: usize = 10;

async fn set_preference(client: &TestClient) {
    let prefer = Value { kind: Some(Kind::StringValue("prefer".to_owned())) };
    let policy = Some(Struct { fields: [("zone".to_owned(), prefer)].into() });
    let request = SetPolicyRequest { service: "a".to_owned(), policy, ..SetPolicyRequest::default() };
    within("SetPolicy", client.admin.clone().set_policy(request)).await.unwrap();
}

/// Opens a stream of a client in a zone, which subscribes to the service `a`.
async fn subscribed(client: &TestClient, zone: &str) -> AdsClient {
    let node = Node {
        id: zone.to_owned(),
        user_agent_name: "gRPC Go".to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion("1.85.0".to_owned())),
        locality: Some(NodeLocality { region: "r".to_owned(), zone: zone.to_owned(), ..NodeLocality::default() }),
        ..Node::default()
    };
    let mut ads = AdsClient::open_node(client, StateOfTheWorld, node).await;
    ads.subscribe(Eds, &["a"]);
    ads
}

/// Drains instances of a zone, or ends that.
async fn drain(client: &TestClient, numbers: std::ops::RangeInclusive<u8>, draining: bool) {
    for number in numbers {
        let (service, id) = ("a".to_owned(), number.to_string());
        let request = UpdateInstanceRequest { service, id, draining, ..UpdateInstanceRequest::default() };
        client.update(&["draining"], request).await.unwrap();
    }
}

/// Accepts responses until none comes for this time. Returns the zone, weight and priority of each locality in the last one.
async fn latest(ads: &mut AdsClient, quiet: Duration) -> Vec<String> {
    let mut found = Vec::new();
    while let Ok(response) = timeout(quiet, ads.message()).await {
        let response = response.unwrap();
        ads.accept(&response);
        let weights = response.localities("a").into_iter().map(|line| line.split_once(": ").unwrap().0.to_owned());
        found = weights.collect();
    }
    found
}

#[tokio::test(start_paused = true)]
async fn clients_prefer_their_zone_and_spill_what_it_cannot_take() {
    const AT_ONCE: Duration = Duration::from_millis(100);
    const SETTLED: Duration = Duration::from_secs(8);
    const CALM: Duration = Duration::from_secs(70);
    let server = InMemory::open();
    let client = server.client().await;
    for number in 1..=2 * PER_ZONE {
        let zone = if number <= PER_ZONE { "z1" } else { "z2" };
        let locality = Some(Locality { region: "r".to_owned(), zone: zone.to_owned(), ..Locality::default() });
        client.register(RegisterRequest { locality, ..at("a", number) }).await.unwrap();
    }
    let mut without_zone = AdsClient::open(&client, StateOfTheWorld).await;
    without_zone.subscribe(Eds, &["a"]);
    set_preference(&client).await;
    let mut first = Vec::new();
    let mut second = Vec::new();
    for _ in 0..CLIENTS {
        first.push(subscribed(&client, "z1").await);
        second.push(subscribed(&client, "z2").await);
    }
    assert_eq!(latest(&mut without_zone, SETTLED).await, ["r/z1/ 4", "r/z2/ 4"]);
    assert_eq!(latest(&mut first[0], SETTLED).await, ["r/z1/ 4", "r/z2/ 4 P1"]);
    assert_eq!(latest(&mut second[0], SETTLED).await, ["r/z2/ 4", "r/z1/ 4 P1"]);

    drain(&client, 1..=2, true).await;
    assert_eq!(latest(&mut first[1], SETTLED).await, ["r/z1/ 6667000", "r/z2/ 3333000"]);
    assert_eq!(latest(&mut second[1], SETTLED).await, ["r/z2/ 4", "r/z1/ 2 P1"]);

    drain(&client, 3..=4, true).await;
    assert_eq!(latest(&mut first[1], AT_ONCE).await, ["r/z1/ 4", "r/z2/ 4"], "at once: the zone is empty");
    drain(&client, 1..=2, false).await;
    let spilling = ["r/z1/ 6667000", "r/z2/ 3333000"];
    assert_eq!(latest(&mut first[1], AT_ONCE).await, spilling, "at once: the zone is back");
    drain(&client, 3..=4, false).await;
    assert_eq!(latest(&mut first[1], SETTLED).await, ["r/z1/ 9999000", "r/z2/ 1000"], "it keeps its connections");
    assert_eq!(latest(&mut first[1], CALM).await, ["r/z1/ 4", "r/z2/ 4 P1"]);
    assert_eq!(latest(&mut second[1], SETTLED).await, ["r/z2/ 4", "r/z1/ 4 P1"]);

    // The streams of the first zone end, so the second has all clients and half of the capacity.
    drop(first);
    assert_eq!(latest(&mut second[1], SETTLED).await, ["r/z1/ 5000000", "r/z2/ 5000000"]);
}
