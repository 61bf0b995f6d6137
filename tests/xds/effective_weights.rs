//! Effective weights as weights of localities.

use std::time::Duration;

use callboard::{
    model::{PolicyScope, PolicySettings, ServerActor, ServiceName, ServicePolicy},
    pb::envoy::config::core::v3::{Node, node::UserAgentVersionType},
    registry::PolicyCommand,
};
use tokio::time::sleep;

use super::{
    ads_client::{AdsClient, BOTH, Eds},
    register,
};
use crate::harness::InMemory;

/// Returns names and weights of the localities in the next assignment, by address.
async fn next(ads: &mut AdsClient) -> Vec<(String, String, u32)> {
    let lines = ads.accepted(Eds).await.localities("a");
    let parts = lines.iter().map(|line| {
        let (head, address) = line.split_once(": ").unwrap();
        let (name, weight) = head.rsplit_once(' ').unwrap();
        (address.to_owned(), name.to_owned(), weight.parse().unwrap())
    });
    let mut parts: Vec<_> = parts.collect();
    parts.sort_unstable();
    parts
}

/// Sets the slow start of the service `a`, and waits until its instances are no longer new.
async fn set_slow_start(server: &InMemory, window: Duration) {
    let slow_start = PolicySettings { slow_start: Some(window), ..PolicySettings::default() };
    let policy = ServicePolicy { settings: slow_start, ..ServicePolicy::default() };
    let scope = PolicyScope::Service(ServiceName::parse("a").unwrap());
    let commands = server.shared().commands.on_behalf_of(ServerActor::InProcess.caller());
    commands.set_policy(PolicyCommand { scope, policy, expected_revision: None }).await.unwrap();
    sleep(Duration::from_secs(3)).await;
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
