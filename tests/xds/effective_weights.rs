//! Effective weights as weights of localities.

use std::time::Duration;

use callboard::{
    model::{PolicyScope, PolicySettings, ServerActor, ServiceName, ServicePolicy, WeightSource},
    pb::{
        callboard::v1::{Heartbeat, KeepAliveRequest, LoadReport},
        envoy::config::core::v3::{Node, node::UserAgentVersionType},
    },
    registry::PolicyCommand,
};
use tokio::time::{sleep, timeout};

use super::{
    ads_client::{AdsClient, BOTH, Eds},
    at, register,
};
use crate::harness::{HeartbeatStream, InMemory, seconds};

/// Returns names and weights of the localities in the next assignment, by address.
async fn next(ads: &mut AdsClient) -> Vec<(String, String, u32)> {
    let response = ads.message().await.unwrap();
    ads.accept(&response);
    let lines = response.localities("a");
    let parts = lines.iter().map(|line| {
        let (head, address) = line.split_once(": ").unwrap();
        let (name, weight) = head.rsplit_once(' ').unwrap();
        (address.to_owned(), name.to_owned(), weight.parse().unwrap())
    });
    let mut parts: Vec<_> = parts.collect();
    parts.sort_unstable();
    parts
}

/// Sets the policy of the service `a`.
async fn set_policy(server: &InMemory, settings: PolicySettings) {
    let policy = ServicePolicy { settings, ..ServicePolicy::default() };
    let scope = PolicyScope::Service(ServiceName::parse("a").unwrap());
    let commands = server.shared().commands.on_behalf_of(ServerActor::InProcess.caller());
    commands.set_policy(PolicyCommand { scope, policy, expected_revision: None }).await.unwrap();
}

/// Sets the slow start of the service `a`, and waits until its instances are no longer new.
async fn set_slow_start(server: &InMemory, window: Duration) {
    set_policy(server, PolicySettings { slow_start: Some(window), ..PolicySettings::default() }).await;
    sleep(Duration::from_secs(3)).await;
}

/// Returns the localities without their weights.
fn names(assignment: &[(String, String, u32)]) -> Vec<(&str, &str)> {
    assignment.iter().map(|(address, name, _)| (address.as_str(), name.as_str())).collect()
}

#[tokio::test(start_paused = true)]
async fn slow_start_changes_nothing_but_weights_in_four_steps() {
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        register(&client, "a", 1).await;
        set_slow_start(&server, Duration::from_mins(1)).await;

        let mut ads = AdsClient::open(&client, protocol).await;
        ads.subscribe(Eds, &["a"]);
        let [(_, _, 100)] = next(&mut ads).await[..] else { panic!("one instance with its full weight") };
        register(&client, "a", 2).await;
        let start = server.now();
        let first = next(&mut ads).await;
        assert_eq!(first.iter().map(|(.., weight)| *weight).collect::<Vec<_>>(), [100, 10]);
        assert!(server.now() - start < 10, "with the instance, not with the next update of the weights");
        for (at, weight) in [(15_000, 25), (30_000, 50), (45_000, 75), (60_000, 100)] {
            let mut expected = first.clone();
            expected[1].2 = weight;
            assert_eq!(next(&mut ads).await, expected, "names stay, so that no client connects anew");
            let late = (server.now() - start).checked_sub(at).unwrap();
            assert!(late <= 1_100, "the step at {at} ms is {late} ms late");
        }
    }
}

/// grpc-js connects anew to all instances at each changed resource.
#[tokio::test(start_paused = true)]
async fn node_gets_weights_every_ten_seconds_and_other_changes_at_once() {
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        register(&client, "a", 1).await;
        set_slow_start(&server, Duration::from_secs(24)).await;
        let node = Node {
            user_agent_name: "gRPC Node Pure JS".to_owned(),
            user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion("1.14.1".to_owned())),
            ..Node::default()
        };
        let mut ads = AdsClient::open_node(&client, protocol, node).await;
        ads.subscribe(Eds, &["a"]);
        next(&mut ads).await;

        register(&client, "a", 2).await;
        let start = server.now();
        let weights =
            |found: Vec<(String, String, u32)>| found.into_iter().map(|(.., weight)| weight).collect::<Vec<_>>();
        assert_eq!(weights(next(&mut ads).await), [100, 10]);
        assert!(server.now() - start < 10, "an instance is no change of weights");
        // The steps are at 6, 12, 18 and 24 s.
        assert_eq!(weights(next(&mut ads).await), [100, 25]);
        let waited = server.now() - start;
        assert!((10_000..10_100).contains(&waited), "{protocol:?} {waited} ms");
        sleep(Duration::from_secs(3)).await;
        register(&client, "a", 3).await;
        let mut third = [100, 50, 10];
        assert_eq!(weights(next(&mut ads).await), third, "with the weights of now");
        assert!(server.now() - start < 13_200, "an instance is no change of weights");
        while third != [100; 3] {
            let sent = server.now();
            let found = weights(next(&mut ads).await);
            assert!(found[1] >= third[1] && found[2] > third[2], "{found:?} after {third:?}");
            third = found.try_into().unwrap();
            assert!(server.now() - sent >= 10_000, "{protocol:?} {} ms", server.now() - sent);
        }
        let waited = server.now() - start;
        assert!(waited < 13_000 + 24_000 + 11_500, "the last weights arrive: {waited} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn instances_that_start_one_after_the_other_share_the_steps_of_a_slow_start() {
    const STARTED: u8 = 20;
    let server = InMemory::open();
    let client = server.client().await;
    register(&client, "a", 1).await;
    set_slow_start(&server, Duration::from_mins(1)).await;
    let mut ads = AdsClient::open(&client, BOTH[0]).await;
    ads.subscribe(Eds, &["a"]);
    let mut latest = next(&mut ads).await;

    // Times of the assignments in which nothing but weights has changed.
    let mut steps = Vec::new();
    let start = server.now();
    for second in 0..180_u8 {
        if second < STARTED {
            register(&client, "a", 2 + second).await;
        }
        // Ends with the second.
        let _elapsed = timeout(Duration::from_secs(1), async {
            loop {
                let assignment = next(&mut ads).await;
                if names(&assignment) == names(&latest) {
                    steps.push(server.now() - start);
                }
                latest = assignment;
            }
        })
        .await;
    }
    assert_eq!(latest.len(), usize::from(1 + STARTED));
    assert!(latest.iter().all(|(.., weight)| *weight == 100), "{latest:?}");
    let window = |from: &u64| steps.iter().filter(|at| (*from..*from + 60_000).contains(at)).count();
    assert!(steps.iter().map(window).all(|steps| steps <= 5), "{steps:?}");
    assert!((4..=6).contains(&steps.len()), "{steps:?}");
}

#[tokio::test(start_paused = true)]
async fn weights_by_response_time_are_sent_at_most_once_in_ten_seconds_and_move_no_endpoint() {
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        let mut leases = Vec::new();
        for number in 1..=4 {
            leases.push(client.register(at("a", number)).await.unwrap().lease_id);
        }
        set_policy(&server, PolicySettings { weights: Some(WeightSource::ResponseTime), ..PolicySettings::default() })
            .await;
        let mut ads = AdsClient::open(&client, protocol).await;
        ads.subscribe(Eds, &["a"]);
        let first = next(&mut ads).await;
        assert!(first.iter().all(|(.., weight)| *weight == 100), "{first:?}");

        let mut beats = HeartbeatStream::open(&client).await;
        let mut sent = Vec::new();
        for round in 0..150 {
            // The last instance is slow in every other minute, so that the weights never rest.
            let slow = if round % 60 < 30 { 0.04 } else { 0.01 };
            let heartbeats = leases.iter().zip([0.01, 0.01, 0.01, slow]).map(|(lease, response_time)| {
                let load = LoadReport { response_time: seconds(response_time), requests: 100, ..LoadReport::default() };
                Heartbeat { lease_id: lease.clone(), load: Some(load) }
            });
            beats.ask(KeepAliveRequest { heartbeats: heartbeats.collect() }).await.unwrap();
            // Ends with the interval of the heartbeats.
            let _elapsed = timeout(Duration::from_secs(2), async {
                loop {
                    let assignment = next(&mut ads).await;
                    sent.push((server.now(), assignment));
                }
            })
            .await;
        }
        let times: Vec<_> = sent.iter().map(|(at, _)| *at).collect();
        assert!((6..=20).contains(&times.len()), "{times:?}");
        assert!(times.windows(2).all(|two| two[1] - two[0] >= 10_000), "{times:?}");
        for (_, assignment) in &sent {
            assert_eq!(names(assignment), names(&first), "a renamed locality would reconnect its endpoints");
        }
        let lowest = sent.iter().map(|(_, assignment)| assignment[3].2).min().unwrap();
        assert!((50..=65).contains(&lowest), "a slow instance has about half of its weight, not {lowest} %");
    }
}
