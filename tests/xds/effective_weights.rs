//! Effective weights as weights of localities.

use std::time::Duration;

use callboard::{
    model::{PolicyScope, PolicySettings, ServerActor, ServiceName, ServicePolicy},
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

#[tokio::test(start_paused = true)]
async fn slow_start_changes_nothing_but_weights_in_four_steps() {
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        register(&client, "a", 1).await;
        let slow_start = PolicySettings { slow_start: Some(Duration::from_mins(1)), ..PolicySettings::default() };
        let policy = ServicePolicy { settings: slow_start, ..ServicePolicy::default() };
        let scope = PolicyScope::Service(ServiceName::parse("a").unwrap());
        let commands = server.shared().commands.on_behalf_of(ServerActor::InProcess.caller());
        commands.set_policy(PolicyCommand { scope, policy, expected_revision: None }).await.unwrap();
        sleep(Duration::from_secs(3)).await;

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
