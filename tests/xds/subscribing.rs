//! Subscriptions: to all resources, to some, to some that do not exist yet, and to several types on one stream.

use super::{
    ads_client::{ALL_TYPES, AdsClient, BOTH, Cds, Delta, Eds, Lds, Rds, StateOfTheWorld},
    deregister, register, set_weight,
};
use crate::harness::{InMemory, TestClient};

/// Starts a server with services of one instance each.
async fn with_services(services: &[&str]) -> (InMemory, TestClient) {
    let server = InMemory::open();
    let client = server.client().await;
    for service in services {
        register(&client, service, 1).await;
    }
    (server, client)
}

#[tokio::test(start_paused = true)]
async fn wildcard_subscription_gets_all_clusters_in_one_response_and_new_ones_later() {
    for protocol in BOTH {
        let (_server, client) = with_services(&["a", "b", "c"]).await;
        let mut ads = AdsClient::open(&client, protocol).await;
        ads.subscribe(Cds, &[]);
        assert_eq!(ads.accepted(Cds).await.names(), "a b c");
        set_weight(&client, "a", 1, 9).await;
        ads.assert_quiet().await;
        register(&client, "d", 1).await;
        let expected = if protocol == Delta { "d" } else { "a b c d" };
        assert_eq!(ads.accepted(Cds).await.names(), expected);
        ads.assert_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn wildcard_subscription_to_listeners_is_answered_with_none() {
    for protocol in BOTH {
        let (_server, client) = with_services(&["a"]).await;
        let mut ads = AdsClient::open(&client, protocol).await;
        ads.subscribe(Lds, &[]);
        assert_eq!(ads.accepted(Lds).await.names(), "");
        register(&client, "b", 1).await;
        ads.assert_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn named_subscription_gets_only_these_resources_of_every_type() {
    for protocol in BOTH {
        let (_server, client) = with_services(&["a", "b", "c"]).await;
        for kind in ALL_TYPES {
            let mut ads = AdsClient::open(&client, protocol).await;
            ads.subscribe(kind, &["a", "c"]);
            assert_eq!(ads.accepted(kind).await.names(), "a c");
            ads.assert_quiet().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn names_subscribed_one_after_the_other_are_answered_each_time() {
    for protocol in BOTH {
        let (_server, client) = with_services(&["a", "b"]).await;
        for kind in ALL_TYPES {
            let mut ads = AdsClient::open(&client, protocol).await;
            ads.subscribe(kind, &["a"]);
            let first = ads.accepted(kind).await;
            assert_eq!(first.names(), "a");
            ads.subscribe(kind, &["b"]);
            let second = ads.accepted(kind).await;
            let is_complete = protocol == StateOfTheWorld && [Cds, Lds].contains(&kind);
            assert_eq!(second.names(), if is_complete { "a b" } else { "b" });
            assert_ne!(first.nonce, second.nonce);
            ads.assert_quiet().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn changed_endpoints_are_sent_without_those_of_other_services() {
    for protocol in BOTH {
        let (_server, client) = with_services(&["a", "b", "c"]).await;
        let mut ads = AdsClient::open(&client, protocol).await;
        ads.subscribe(Eds, &["a", "b", "c"]);
        let first = ads.accepted(Eds).await;
        register(&client, "b", 2).await;
        let second = ads.accepted(Eds).await;
        assert_eq!((second.names(), second.addresses("b")), ("b".to_owned(), "10.0.0.1:80 10.0.0.2:80".to_owned()));
        assert!(first.version != second.version && first.nonce != second.nonce);
        if protocol == Delta {
            assert_ne!(first.versions["b"], second.versions["b"]);
        }
        ads.assert_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_name_is_answered_at_once_and_healed_by_the_first_registration() {
    for protocol in BOTH {
        let (_server, client) = with_services(&[]).await;
        let mut ads = AdsClient::open(&client, protocol).await;
        for kind in [Lds, Cds, Eds] {
            ads.subscribe(kind, &["a"]);
            assert_eq!(ads.accepted(kind).await.names(), "a");
        }
        register(&client, "a", 7).await;
        let healed = ads.accepted(Eds).await;
        assert_eq!(healed.localities("a"), ["// 1: 10.0.0.7:80"]);
        ads.assert_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_name_among_known_ones_is_sent_alone_when_it_is_registered() {
    for protocol in BOTH {
        let (_server, client) = with_services(&["a"]).await;
        let mut ads = AdsClient::open(&client, protocol).await;
        ads.subscribe(Eds, &["a", "z"]);
        let first = ads.accepted(Eds).await;
        assert_eq!((first.addresses("a"), first.addresses("z")), ("10.0.0.1:80".to_owned(), String::new()));
        register(&client, "z", 1).await;
        let healed = ads.accepted(Eds).await;
        assert_eq!((healed.names(), healed.addresses("z")), ("z".to_owned(), "10.0.0.1:80".to_owned()));
        ads.assert_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn service_that_scales_to_zero_has_an_empty_assignment_and_stays_otherwise() {
    for protocol in BOTH {
        let (_server, client) = with_services(&["a"]).await;
        let mut ads = AdsClient::open(&client, protocol).await;
        for (kind, names) in [(Lds, &["a"][..]), (Cds, &[]), (Eds, &["a"])] {
            ads.subscribe(kind, names);
            assert_eq!(ads.accepted(kind).await.names(), "a");
        }
        deregister(&client, "a", 1).await;
        let empty = ads.accepted(Eds).await;
        assert_eq!((empty.localities("a"), empty.removed.len()), (vec![], 0));
        ads.assert_quiet().await;
        register(&client, "a", 2).await;
        assert_eq!(ads.accepted(Eds).await.addresses("a"), "10.0.0.2:80");
        ads.assert_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn types_of_one_stream_are_answered_and_accepted_independently() {
    for protocol in BOTH {
        let (_server, client) = with_services(&["a", "b"]).await;
        let mut ads = AdsClient::open(&client, protocol).await;
        ads.subscribe(Rds, &["b"]);
        let unanswered = ads.next(Rds).await;
        ads.subscribe(Lds, &["b"]);
        assert_eq!(ads.accepted(Lds).await.names(), "b");
        ads.subscribe(Eds, &["b"]);
        assert_eq!(ads.accepted(Eds).await.names(), "b");
        register(&client, "b", 2).await;
        assert_eq!(ads.accepted(Eds).await.addresses("b"), "10.0.0.1:80 10.0.0.2:80");
        ads.accept(&unanswered);
        ads.assert_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn change_of_one_service_sends_nothing_to_a_stream_of_another() {
    for protocol in BOTH {
        let (_server, client) = with_services(&["a", "b"]).await;
        let mut ads = AdsClient::open(&client, protocol).await;
        for kind in ALL_TYPES {
            ads.subscribe(kind, &["a"]);
            ads.accepted(kind).await;
        }
        for number in 2..20 {
            register(&client, "b", number).await;
        }
        ads.assert_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_streams_of_one_connection_have_their_own_subscriptions() {
    for (one, other) in [(StateOfTheWorld, Delta), (Delta, Delta), (StateOfTheWorld, StateOfTheWorld)] {
        let (_server, client) = with_services(&["a", "b"]).await;
        let mut one = AdsClient::open(&client, one).await;
        let mut other = AdsClient::open(&client, other).await;
        one.subscribe(Eds, &["a"]);
        other.subscribe(Eds, &["b"]);
        one.accepted(Eds).await;
        other.accepted(Eds).await;
        register(&client, "a", 2).await;
        assert_eq!(one.accepted(Eds).await.names(), "a");
        other.assert_quiet().await;
        drop(one);
        register(&client, "b", 2).await;
        assert_eq!(other.accepted(Eds).await.names(), "b");
    }
}

#[tokio::test(start_paused = true)]
async fn stream_whose_requests_end_is_closed_with_ok() {
    for protocol in BOTH {
        let (server, client) = with_services(&["a"]).await;
        let mut ads = AdsClient::open(&client, protocol).await;
        ads.subscribe(Eds, &["a"]);
        ads.accepted(Eds).await;
        assert_eq!(ads.close().await, tonic::Code::Ok);
        assert_eq!(server.stream_count(), 0);
    }
}
