//! Instances as endpoints: health, weights, localities, and those that are left out.

use callboard::pb::callboard::v1::{
    Check, CheckStatus, Locality, RegisterRequest, ReportCheckRequest, TtlProbe, UpdateInstanceRequest, check::Probe,
};

use super::{
    ads_client::{AdsClient, BOTH, Eds, StateOfTheWorld},
    at, register, set_weight,
};
use crate::harness::{HeartbeatStream, InMemory, TestClient, address, seconds};

/// Opens a stream of the service `a`.
async fn subscribed(client: &TestClient) -> AdsClient {
    let mut ads = AdsClient::open(client, StateOfTheWorld).await;
    ads.subscribe(Eds, &["a"]);
    ads.accepted(Eds).await;
    ads
}

async fn localities(ads: &mut AdsClient) -> Vec<String> {
    ads.accepted(Eds).await.localities("a")
}

fn update(number: u8) -> UpdateInstanceRequest {
    UpdateInstanceRequest { service: "a".to_owned(), id: number.to_string(), ..UpdateInstanceRequest::default() }
}

#[tokio::test(start_paused = true)]
async fn drained_instance_is_draining_and_does_not_count_in_the_weight() {
    let server = InMemory::open();
    let client = server.client().await;
    register(&client, "a", 1).await;
    register(&client, "a", 2).await;
    let mut ads = subscribed(&client).await;
    client.update(&["draining"], UpdateInstanceRequest { draining: true, ..update(2) }).await.unwrap();
    assert_eq!(localities(&mut ads).await, ["// 1: 10.0.0.1:80, 10.0.0.2:80 DRAINING"]);
    client.update(&["draining"], UpdateInstanceRequest { draining: true, ..update(1) }).await.unwrap();
    assert_eq!(localities(&mut ads).await, ["// 2: 10.0.0.1:80 DRAINING, 10.0.0.2:80 DRAINING"]);
    client.update(&["draining"], update(2)).await.unwrap();
    assert_eq!(localities(&mut ads).await, ["// 1: 10.0.0.1:80 DRAINING, 10.0.0.2:80"]);
}

#[tokio::test(start_paused = true)]
async fn starting_instance_is_left_out_until_it_is_ready() {
    let server = InMemory::open();
    let client = server.client().await;
    client.register(RegisterRequest { starting: true, ..at("a", 1) }).await.unwrap();
    let mut ads = AdsClient::open(&client, StateOfTheWorld).await;
    ads.subscribe(Eds, &["a"]);
    assert!(localities(&mut ads).await.is_empty());
    client.update(&["starting"], update(1)).await.unwrap();
    assert_eq!(localities(&mut ads).await, ["// 1: 10.0.0.1:80"]);
}

#[tokio::test(start_paused = true)]
async fn instance_with_a_critical_check_is_unhealthy() {
    let server = InMemory::open();
    let client = server.client().await;
    let check = Check { probe: Some(Probe::Ttl(TtlProbe {})), interval: seconds(600.0), ..Check::default() };
    client.register(RegisterRequest { checks: vec![check], ..at("a", 1) }).await.unwrap();
    let report = async |status: CheckStatus| {
        let (service, id, check_id) = ("a".to_owned(), "1".to_owned(), "ttl".to_owned());
        let request = ReportCheckRequest { service, id, check_id, status: status.into(), output: String::new() };
        client.report(request).await.unwrap();
    };
    let mut ads = subscribed(&client).await;
    report(CheckStatus::Passing).await;
    assert_eq!(localities(&mut ads).await, ["// 1: 10.0.0.1:80"]);
    report(CheckStatus::Critical).await;
    assert_eq!(localities(&mut ads).await, ["// 1: 10.0.0.1:80 UNHEALTHY"]);
    report(CheckStatus::Warning).await;
    assert_eq!(localities(&mut ads).await, ["// 1: 10.0.0.1:80"]);
}

/// A suspect instance stays healthy, so its change is not sent.
#[tokio::test(start_paused = true)]
async fn suspect_instance_stays_until_its_lease_ends() {
    let server = InMemory::open();
    let client = server.client().await;
    register(&client, "a", 1).await;
    let lease = client.register(RegisterRequest { ttl: seconds(10.0), disconnect_grace: seconds(5.0), ..at("a", 2) });
    let lease = lease.await.unwrap().lease_id;
    let mut beats = HeartbeatStream::open(&client).await;
    beats.beat(&[&lease]).await.unwrap();
    let mut ads = subscribed(&client).await;
    let since = server.now();
    drop(beats);
    assert_eq!(localities(&mut ads).await, ["// 1: 10.0.0.1:80"]);
    assert!(server.now() >= since + 5_000, "nothing was sent when it became suspect: {}", server.now() - since);
}

#[tokio::test(start_paused = true)]
async fn weights_and_places_are_localities() {
    let server = InMemory::open();
    let client = server.client().await;
    let place = |zone: &str, sub_zone: &str| {
        Some(Locality { region: "eu".to_owned(), zone: zone.to_owned(), sub_zone: sub_zone.to_owned() })
    };
    for (number, weight, locality) in [
        (1, 3, None),
        (2, 1, None),
        (3, 3, None),
        (4, 1, place("z1", "")),
        (5, 1, place("z2", "s")),
        (6, 2, place("z2", "s")),
    ] {
        client.register(RegisterRequest { weight: Some(weight), locality, ..at("a", number) }).await.unwrap();
    }
    let mut ads = AdsClient::open(&client, StateOfTheWorld).await;
    ads.subscribe(Eds, &["a"]);
    let expected = [
        "// 1: 10.0.0.2:80",
        "//~w3 6: 10.0.0.1:80, 10.0.0.3:80",
        "eu/z1/ 1: 10.0.0.4:80",
        "eu/z2/s 1: 10.0.0.5:80",
        "eu/z2/s~w2 2: 10.0.0.6:80",
    ];
    assert_eq!(localities(&mut ads).await, expected);
    set_weight(&client, "a", 1, 1).await;
    assert_eq!(localities(&mut ads).await[..2], ["// 2: 10.0.0.1:80, 10.0.0.2:80", "//~w3 3: 10.0.0.3:80"]);
}

#[tokio::test(start_paused = true)]
async fn addresses_of_both_families_are_one_endpoint() {
    let server = InMemory::open();
    let client = server.client().await;
    let addresses = vec![address("10.0.0.1", 80), address("2001:db8::1", 80), address("10.0.0.9", 81)];
    client.register(RegisterRequest { addresses, ..at("a", 1) }).await.unwrap();
    let mut ads = AdsClient::open(&client, StateOfTheWorld).await;
    ads.subscribe(Eds, &["a"]);
    assert_eq!(localities(&mut ads).await, ["// 1: 10.0.0.1:80+2001:db8::1:80"]);
}

#[tokio::test(start_paused = true)]
async fn host_names_and_all_but_the_newest_of_an_address_are_left_out() {
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        register(&client, "a", 1).await;
        let host = RegisterRequest { addresses: vec![address("host.example", 80)], ..at("a", 2) };
        client.register(host).await.unwrap();
        let same = RegisterRequest { addresses: vec![address("10.0.0.1", 80)], weight: Some(5), ..at("a", 3) };
        client.register(same).await.unwrap();
        let mut ads = AdsClient::open(&client, protocol).await;
        ads.subscribe(Eds, &["a"]);
        assert_eq!(localities(&mut ads).await, ["//~w5 5: 10.0.0.1:80"]);
        client.deregister("a", "3", &[].as_slice().into()).await.unwrap();
        assert_eq!(localities(&mut ads).await, ["// 1: 10.0.0.1:80"]);
    }
}
