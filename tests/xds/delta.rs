//! Parts of the delta protocol that the other lacks: removed resources, versions of resources, subscriptions beside a wildcard.

use super::{
    ads_client::{AdsClient, AdsResponse, Cds, Delta, Eds, Lds},
    register, set_weight,
};
use crate::harness::{InMemory, TestClient};

async fn with_services(services: &[&str]) -> (InMemory, TestClient) {
    let server = InMemory::open();
    let client = server.client().await;
    for service in services {
        register(&client, service, 1).await;
    }
    (server, client)
}

/// Returns the version of a resource.
fn version<'a>(response: &'a AdsResponse, name: &str) -> &'a str {
    &response.versions[name]
}

#[tokio::test(start_paused = true)]
async fn name_subscribed_again_is_sent_again() {
    let (_server, client) = with_services(&["a", "b"]).await;
    let mut ads = AdsClient::open(&client, Delta).await;
    for kind in [Lds, Cds, Eds] {
        ads.subscribe(kind, &["a", "b"]);
        ads.accepted(kind).await;
    }
    ads.subscribe(Eds, &["b"]);
    assert_eq!(ads.accepted(Eds).await.names(), "b");
    ads.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn name_unsubscribed_beside_a_wildcard_is_sent_again_or_removed() {
    let (_server, client) = with_services(&["a"]).await;
    let mut ads = AdsClient::open(&client, Delta).await;
    ads.subscribe(Cds, &["*", "a", "other"]);
    assert_eq!(ads.accepted(Cds).await.names(), "a other");
    ads.unsubscribe(Cds, &["a", "other"]);
    let response = ads.accepted(Cds).await;
    assert_eq!((response.names(), &*response.removed), ("a".to_owned(), &["other".to_owned()][..]));
    ads.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn reconnect_with_versions_is_sent_only_what_differs() {
    let (_server, client) = with_services(&["a", "b"]).await;
    let mut before = AdsClient::open(&client, Delta).await;
    before.subscribe(Eds, &["a", "b"]);
    let had = before.accepted(Eds).await;
    drop(before);
    let versions = [("a", version(&had, "a")), ("b", version(&had, "b"))];

    let mut same = AdsClient::open(&client, Delta).await;
    same.resume(Eds, &["a", "b"], "", &versions);
    same.assert_quiet().await;
    set_weight(&client, "a", 1, 7).await;
    assert_eq!(same.accepted(Eds).await.names(), "a");

    let mut differs = AdsClient::open(&client, Delta).await;
    differs.resume(Eds, &["a", "b"], "", &versions);
    assert_eq!(differs.accepted(Eds).await.names(), "a");
    differs.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn reconnect_of_a_wildcard_is_sent_what_is_new_and_told_what_is_gone() {
    let (_server, client) = with_services(&["a"]).await;
    let mut before = AdsClient::open(&client, Delta).await;
    before.subscribe(Cds, &["a", "gone"]);
    let had = before.accepted(Cds).await;
    register(&client, "b", 1).await;
    let mut ads = AdsClient::open(&client, Delta).await;
    ads.resume(Cds, &[], "", &[("a", version(&had, "a")), ("gone", version(&had, "gone"))]);
    let response = ads.accepted(Cds).await;
    assert_eq!((response.names(), &*response.removed), ("b".to_owned(), &["gone".to_owned()][..]));
    ads.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn reconnect_with_versions_of_another_server_is_sent_everything() {
    let (_server, client) = with_services(&["a", "b"]).await;
    let mut ads = AdsClient::open(&client, Delta).await;
    ads.resume(Eds, &["a", "b"], "", &[("a", "1"), ("b", ""), ("not subscribed", "v7")]);
    assert_eq!(ads.accepted(Eds).await.names(), "a b");
    ads.assert_quiet().await;
}

/// Versions are those of a first request. Later ones change nothing, and take no memory.
#[tokio::test(start_paused = true)]
async fn versions_in_a_later_request_are_ignored() {
    let (_server, client) = with_services(&["a"]).await;
    let mut ads = AdsClient::open(&client, Delta).await;
    ads.subscribe(Cds, &[]);
    ads.accepted(Cds).await;
    ads.resume(Cds, &[], "", &[("a", "1"), ("stranger", "1")]);
    ads.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_sent_again_after_their_cluster_was() {
    let (_server, client) = with_services(&["a"]).await;
    let mut ads = AdsClient::open(&client, Delta).await;
    ads.subscribe(Eds, &["a"]);
    let first = ads.accepted(Eds).await;
    ads.subscribe(Cds, &["a"]);
    assert_eq!(ads.accepted(Cds).await.names(), "a");
    assert_eq!(ads.accepted(Eds).await.resources, first.resources);
    ads.assert_quiet().await;
}
