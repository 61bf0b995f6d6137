//! Accepted, rejected, late and missing answers.

use callboard::pb::envoy::service::discovery::v3::DiscoveryRequest;

use super::{
    ads_client::{AdsClient, BOTH, Cds, Delta, Eds, Lds, StateOfTheWorld},
    register, set_weight,
};
use crate::harness::InMemory;

#[tokio::test(start_paused = true)]
async fn burst_of_changes_before_an_answer_becomes_one_response_with_the_newest_content() {
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        register(&client, "a", 1).await;
        let mut ads = AdsClient::open(&client, protocol).await;
        ads.subscribe(Eds, &["a"]);
        let unanswered = ads.next(Eds).await;
        server.flood("a", "1", 1_000);
        ads.assert_quiet().await;
        ads.accept(&unanswered);
        assert_eq!(ads.accepted(Eds).await.localities("a"), ["//~w1001 1001: 10.0.0.1:80"]);
        ads.assert_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn first_change_is_sent_at_once_and_the_next_ones_after_the_answer() {
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        register(&client, "a", 1).await;
        let mut ads = AdsClient::open(&client, protocol).await;
        ads.subscribe(Eds, &["a"]);
        ads.accepted(Eds).await;
        set_weight(&client, "a", 1, 2).await;
        let unanswered = ads.next(Eds).await;
        for weight in 3..50 {
            set_weight(&client, "a", 1, weight).await;
        }
        ads.assert_quiet().await;
        ads.accept(&unanswered);
        assert_eq!(ads.accepted(Eds).await.localities("a"), ["//~w49 49: 10.0.0.1:80"]);
    }
}

#[tokio::test(start_paused = true)]
async fn rejected_response_is_not_sent_again_until_its_content_changes() {
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        register(&client, "a", 1).await;
        register(&client, "b", 1).await;
        let mut ads = AdsClient::open(&client, protocol).await;
        ads.subscribe(Eds, &["a", "b"]);
        let rejected = ads.next(Eds).await;
        for _ in 0..3 {
            ads.reject(&rejected, "no");
            ads.assert_quiet().await;
        }
        register(&client, "b", 2).await;
        let healed = ads.accepted(Eds).await;
        assert_eq!(healed.names(), "b", "one service does not spoil the others, nor is it repeated");
        ads.assert_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn rejected_clusters_are_complete_in_the_next_response() {
    let server = InMemory::open();
    let client = server.client().await;
    let mut ads = AdsClient::open(&client, StateOfTheWorld).await;
    ads.subscribe(Cds, &["a"]);
    let rejected = ads.next(Cds).await;
    ads.reject(&rejected, "no");
    ads.subscribe(Cds, &["b"]);
    assert_eq!(ads.accepted(Cds).await.names(), "a b");
    ads.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn request_with_an_outdated_nonce_is_ignored() {
    let server = InMemory::open();
    let client = server.client().await;
    let mut ads = AdsClient::open(&client, StateOfTheWorld).await;
    ads.subscribe(Eds, &["a"]);
    let first = ads.accepted(Eds).await;
    register(&client, "a", 1).await;
    let second = ads.next(Eds).await;
    let outdated = DiscoveryRequest {
        type_url: Eds.url().to_owned(),
        resource_names: vec!["a".to_owned(), "b".to_owned()],
        response_nonce: first.nonce,
        version_info: first.version,
        ..DiscoveryRequest::default()
    };
    ads.send_whole(outdated.clone());
    ads.send_whole(DiscoveryRequest { response_nonce: "garbage".to_owned(), ..outdated });
    ads.assert_quiet().await;
    register(&client, "a", 2).await;
    ads.assert_quiet().await;
    ads.accept(&second);
    assert_eq!(ads.accepted(Eds).await.addresses("a"), "10.0.0.1:80 10.0.0.2:80");
}

#[tokio::test(start_paused = true)]
async fn repeated_answer_changes_nothing() {
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        let mut ads = AdsClient::open(&client, protocol).await;
        for kind in [Lds, Cds, Eds] {
            ads.subscribe(kind, &["a"]);
            let response = ads.accepted(kind).await;
            for _ in 0..3 {
                ads.accept(&response);
            }
            ads.assert_quiet().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn new_name_is_answered_although_the_last_response_is_not() {
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        let mut ads = AdsClient::open(&client, protocol).await;
        ads.subscribe(Eds, &["a"]);
        ads.next(Eds).await;
        ads.subscribe(Eds, &["b"]);
        let second = ads.next(Eds).await;
        assert_eq!(second.names(), "b");
        register(&client, "b", 1).await;
        // In the state-of-the-world protocol, the request with the added name accepted the first response.
        ads.assert_quiet().await;
        ads.accept(&second);
        assert_eq!(ads.accepted(Eds).await.names(), "b");
    }
}

#[tokio::test(start_paused = true)]
async fn late_answer_of_a_delta_stream_does_not_accept_the_latest_response() {
    let server = InMemory::open();
    let client = server.client().await;
    let mut ads = AdsClient::open(&client, Delta).await;
    ads.subscribe(Eds, &["a"]);
    let first = ads.next(Eds).await;
    ads.subscribe(Eds, &["b"]);
    let second = ads.next(Eds).await;
    register(&client, "a", 1).await;
    ads.accept(&first);
    ads.assert_quiet().await;
    ads.accept(&second);
    assert_eq!(ads.accepted(Eds).await.names(), "a");
}
