//! Changes of policies, as a client sees them that follows its listener to clusters and their endpoints.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use super::{
    ads_client::{AdsClient, BOTH, Cds, Delta, Eds, Lds, StateOfTheWorld},
    deregister,
    following_client::{FollowingClient, SETTLED, clusters, rollout, set_policy, split, with_versions},
    register,
};
use crate::harness::InMemory;

#[tokio::test(start_paused = true)]
async fn change_of_a_policy_is_made_in_steps() {
    for protocol in BOTH {
        let (_server, client) = with_versions().await;
        let mut web = FollowingClient::open(&client, protocol).await;
        assert_eq!(web.selected(), ["web"]);
        let revision = set_policy(&client, "web", &split(90, 10)).await;
        assert_eq!(rollout(&client).await.synced, 0);
        web.settle().await;
        assert_eq!(
            (web.selected(), web.listed()),
            (vec!["web|v1", "web|v2"], vec!["web|v1", "web|v2"]),
            "{protocol:?}"
        );
        assert_eq!(web.endpoints["web|v1"].split(' ').next(), Some("10.0.0.1:80"));
        let rollout = rollout(&client).await;
        assert_eq!((rollout.revision, rollout.streams, rollout.synced), (revision, 1, 1), "{rollout:?}");

        let before = web.listeners;
        set_policy(&client, "web", &split(0, 100)).await;
        web.settle().await;
        assert_eq!((web.selected(), web.listed()), (vec!["web|v2"], vec!["web|v1", "web|v2"]), "subsets stay warm");
        assert_eq!(web.listeners - before, 1, "a shift is one push");

        set_policy(&client, "web", "{}").await;
        web.settle().await;
        assert_eq!((web.selected(), web.listed()), (vec!["web"], vec!["web"]));
    }
}

#[tokio::test(start_paused = true)]
async fn policy_that_is_set_a_hundred_times_reaches_the_client_as_the_last_one() {
    for protocol in BOTH {
        let (_server, client) = with_versions().await;
        let mut web = FollowingClient::open(&client, protocol).await;
        for round in 0..100 {
            let json = match round % 3 {
                0 => split(50, 50),
                1 => "{}".to_owned(),
                _ => split(1, 99),
            };
            set_policy(&client, "web", &json).await;
            if round % 7 == 0 {
                // The client takes in what is there and is soon behind again.
                if let Ok(message) = timeout(Duration::from_millis(1), web.ads.message()).await {
                    web.take_in(&message.unwrap());
                }
            }
        }
        set_policy(&client, "web", &split(30, 70)).await;
        web.settle().await;
        let state = rollout(&client).await;
        assert_eq!(web.selected(), ["web|v1", "web|v2"], "{protocol:?} {state:?}");
        assert!(web.listeners < 40, "{} listeners for 101 policies", web.listeners);
        let rollout = rollout(&client).await;
        assert_eq!((rollout.streams, rollout.synced), (1, 1), "{rollout:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_answers_nothing_delays_no_other() {
    let (_server, client) = with_versions().await;
    let mut stalled = FollowingClient::open(&client, Delta).await;
    let mut web = FollowingClient::open(&client, StateOfTheWorld).await;
    set_policy(&client, "web", &split(10, 90)).await;
    web.settle().await;
    assert_eq!(web.selected(), ["web|v1", "web|v2"]);
    let state = rollout(&client).await;
    assert_eq!((state.streams, state.synced, state.unsynced.len()), (2, 1, 1), "{state:?}");
    stalled.settle().await;
    assert_eq!(rollout(&client).await.synced, 2);
}

#[tokio::test(start_paused = true)]
async fn instances_of_the_fallback_take_the_calls_of_an_empty_service() {
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        register(&client, "web", 1).await;
        register(&client, "web-dr", 7).await;
        set_policy(&client, "web", r#"{"fallback": ["web-dr"]}"#).await;
        let mut web = FollowingClient::open(&client, protocol).await;
        assert_eq!(web.endpoints["web"], "10.0.0.1:80 10.0.0.7:80");
        deregister(&client, "web", 1).await;
        web.settle().await;
        assert_eq!(web.endpoints["web"], "10.0.0.7:80");
        register(&client, "web-dr", 8).await;
        web.settle().await;
        assert_eq!(web.endpoints["web"], "10.0.0.7:80 10.0.0.8:80", "a change of the fallback wakes the stream");
        set_policy(&client, "web", "{}").await;
        web.settle().await;
        assert_eq!(web.endpoints["web"], "");
    }
}

#[tokio::test(start_paused = true)]
async fn change_of_the_fallback_of_a_fallback_changes_the_endpoints() {
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        for (service, number) in [("web", 1), ("web-dr", 7), ("web-far", 9)] {
            register(&client, service, number).await;
        }
        set_policy(&client, "web", r#"{"fallback": ["web-dr"]}"#).await;
        let mut web = FollowingClient::open(&client, protocol).await;
        assert_eq!(web.endpoints["web"], "10.0.0.1:80 10.0.0.7:80");
        let listeners = web.listeners;
        set_policy(&client, "web-dr", r#"{"fallback": ["web-far"]}"#).await;
        web.settle().await;
        assert_eq!(web.endpoints["web"], "10.0.0.1:80 10.0.0.7:80 10.0.0.9:80", "{protocol:?}");
        register(&client, "web-far", 8).await;
        web.settle().await;
        assert_eq!(web.endpoints["web"], "10.0.0.1:80 10.0.0.7:80 10.0.0.8:80 10.0.0.9:80", "it wakes the stream");
        set_policy(&client, "web-dr", "{}").await;
        web.settle().await;
        assert_eq!(web.endpoints["web"], "10.0.0.1:80 10.0.0.7:80");
        assert_eq!(web.listeners, listeners, "the policy of the service itself is the same");
    }
}

/// A client that subscribes to a service again gets the policy of now.
#[tokio::test(start_paused = true)]
async fn policy_that_changes_while_its_service_is_not_subscribed_is_sent_with_the_service() {
    for protocol in BOTH {
        let (_server, client) = with_versions().await;
        set_policy(&client, "web", &split(100, 0)).await;
        let mut web = FollowingClient::open(&client, protocol).await;
        for kind in [Cds, Eds] {
            web.ads.unsubscribe(kind, &["web|v1", "web|v2"]);
        }
        web.ads.unsubscribe(Lds, &["web"]);
        web.settle().await;
        set_policy(&client, "web", &split(0, 100)).await;
        web.settle().await;
        web.ads.subscribe(Lds, &["web"]);
        assert_eq!(clusters(&web.next_listener().await).0, BTreeSet::from(["web|v2".to_owned()]), "{protocol:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn defaults_hold_for_services_without_a_policy() {
    let (_server, client) = with_versions().await;
    let mut web = FollowingClient::open(&client, Delta).await;
    let before = web.listeners;
    set_policy(&client, "", r#"{"timeout": "5s"}"#).await;
    web.settle().await;
    assert_eq!((web.listeners - before, web.selected()), (1, vec!["web"]));
    set_policy(&client, "other", r#"{"timeout": "7s"}"#).await;
    web.settle().await;
    assert_eq!(web.listeners - before, 1, "the policy of another service");
}

#[tokio::test(start_paused = true)]
async fn policy_that_is_set_before_the_endpoints_are_requested_reaches_the_client() {
    for protocol in BOTH {
        let (_server, client) = with_versions().await;
        let mut web = FollowingClient::start(&client, protocol).await;
        let listener = web.next_listener().await;
        set_policy(&client, "web", &split(90, 10)).await;
        web.take_in(&listener);
        web.settle().await;
        assert_eq!(web.selected(), ["web|v1", "web|v2"], "{protocol:?}");
        assert_eq!(rollout(&client).await.synced, 1);
    }
}

/// Returns the shortest time from setting the policy of one of this number of services to the response, for a client of all clusters and
/// their endpoints.
#[expect(clippy::disallowed_methods, reason = "the test measures")]
async fn shortest_change(services: usize) -> Duration {
    let server = InMemory::open();
    let client = server.client().await;
    let names: Vec<_> = (0..services).map(|number| format!("web-{number}")).collect();
    for name in &names {
        register(&client, name, 1).await;
    }
    let mut envoy = AdsClient::open(&client, Delta).await;
    envoy.subscribe(Cds, &[]);
    envoy.subscribe(Eds, &names.iter().map(String::as_str).collect::<Vec<_>>());
    accept_all(&mut envoy).await;
    let mut shortest = Duration::MAX;
    for round in 0..20 {
        let began = Instant::now();
        set_policy(&client, "web-7", &format!(r#"{{"max_requests": {}}}"#, round + 1)).await;
        let changed = envoy.accepted(Cds).await;
        shortest = shortest.min(began.elapsed());
        assert_eq!(changed.names(), "web-7");
        accept_all(&mut envoy).await;
    }
    shortest
}

/// Accepts what the server sends, until it sends nothing more.
async fn accept_all(ads: &mut AdsClient) {
    while let Ok(message) = timeout(SETTLED, ads.message()).await {
        ads.accept(&message.unwrap());
    }
}

/// Time is paused, so the times are those of computing.
#[tokio::test(start_paused = true)]
async fn change_of_one_policy_costs_a_stream_nothing_for_its_other_services() {
    let (few, many) = (shortest_change(30).await, shortest_change(3_000).await);
    println!("{few:?} with 30 services, {many:?} with 3,000");
    assert!(many < few * 5, "{few:?} with 30 services, {many:?} with 3,000");
}
