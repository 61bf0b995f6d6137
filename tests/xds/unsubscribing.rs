//! Unsubscriptions: from some resources, from all, from the wildcard.

use super::{
    ads_client::{ALL_TYPES, AdsClient, BOTH, Cds, Delta, Eds, StateOfTheWorld},
    register, set_weight,
};
use crate::harness::InMemory;

#[tokio::test(start_paused = true)]
async fn unsubscribed_resource_is_not_sent_when_it_changes() {
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        for service in ["a", "b"] {
            register(&client, service, 1).await;
        }
        let mut ads = AdsClient::open(&client, protocol).await;
        ads.subscribe(Eds, &["a", "b"]);
        ads.accepted(Eds).await;
        ads.unsubscribe(Eds, &["b"]);
        ads.assert_quiet().await;
        register(&client, "b", 2).await;
        ads.assert_quiet().await;
        register(&client, "a", 2).await;
        assert_eq!(ads.accepted(Eds).await.names(), "a");
        ads.unsubscribe(Eds, &["a"]);
        register(&client, "a", 3).await;
        ads.assert_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn client_without_subscriptions_gets_nothing_of_any_type() {
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        for kind in ALL_TYPES {
            let mut ads = AdsClient::open(&client, protocol).await;
            ads.subscribe(kind, &["a", "b"]);
            ads.accepted(kind).await;
            ads.unsubscribe(kind, &["a", "b"]);
            register(&client, "a", 1).await;
            register(&client, "c", 1).await;
            ads.assert_quiet().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn resource_that_is_unsubscribed_and_subscribed_again_is_sent_again() {
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        register(&client, "a", 1).await;
        for kind in ALL_TYPES {
            let mut ads = AdsClient::open(&client, protocol).await;
            ads.subscribe(kind, &["a"]);
            let first = ads.accepted(kind).await;
            ads.unsubscribe(kind, &["a"]);
            ads.subscribe(kind, &["a"]);
            let second = ads.accepted(kind).await;
            assert_eq!(first.resources, second.resources);
            ads.assert_quiet().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn named_clusters_after_a_wildcard_are_the_only_ones_that_are_sent() {
    let server = InMemory::open();
    let client = server.client().await;
    for service in ["a", "b"] {
        register(&client, service, 1).await;
    }
    let mut ads = AdsClient::open(&client, StateOfTheWorld).await;
    ads.subscribe(Cds, &[]);
    assert_eq!(ads.accepted(Cds).await.names(), "a b");
    ads.subscribe(Cds, &["b"]);
    assert_eq!(ads.accepted(Cds).await.names(), "b");
    register(&client, "c", 1).await;
    ads.assert_quiet().await;
    // An empty list after names is no wildcard.
    ads.unsubscribe(Cds, &["b"]);
    register(&client, "d", 1).await;
    ads.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn wildcard_that_ends_leaves_named_clusters_and_endpoints_subscribed() {
    let server = InMemory::open();
    let client = server.client().await;
    for service in ["a", "b"] {
        register(&client, service, 1).await;
    }
    let mut ads = AdsClient::open(&client, Delta).await;
    ads.subscribe(Cds, &["*"]);
    assert_eq!(ads.accepted(Cds).await.names(), "a b");
    ads.subscribe(Eds, &["a", "b"]);
    assert_eq!(ads.accepted(Eds).await.names(), "a b");
    ads.unsubscribe(Cds, &["*"]);
    register(&client, "c", 1).await;
    ads.assert_quiet().await;
    set_weight(&client, "b", 1, 5).await;
    assert_eq!(ads.accepted(Eds).await.names(), "b");
}

/// A wildcard that ends before its list was sent must not send it afterwards.
#[tokio::test(start_paused = true)]
async fn wildcard_that_ends_while_a_new_cluster_waits_does_not_send_it() {
    let server = InMemory::open();
    let client = server.client().await;
    register(&client, "a", 1).await;
    let mut ads = AdsClient::open(&client, Delta).await;
    ads.subscribe(Cds, &["*"]);
    let unanswered = ads.next(Cds).await;
    register(&client, "b", 1).await;
    ads.assert_quiet().await;
    ads.unsubscribe(Cds, &["*"]);
    ads.accept(&unanswered);
    ads.assert_quiet().await;
}
