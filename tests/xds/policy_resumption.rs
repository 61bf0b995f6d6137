//! Policies of clients that reconnect: changes meanwhile are made in steps, from what a client has.

use super::{
    ads_client::{BOTH, Cds, Eds, Lds, StateOfTheWorld},
    following_client::{FollowingClient, clusters, rollout, set_policy, split, tonic_node, with_versions},
};

#[tokio::test(start_paused = true)]
async fn policy_that_changed_between_two_streams_is_changed_in_steps() {
    for protocol in BOTH {
        let (_server, client) = with_versions().await;
        let mut web = FollowingClient::open(&client, protocol).await;
        set_policy(&client, "web", &split(90, 10)).await;
        web.reconnect(&client).await;
        assert_eq!((web.selected(), web.listed()), (vec!["web|v1", "web|v2"], vec!["web|v1", "web|v2"]));

        set_policy(&client, "web", "{}").await;
        web.reconnect(&client).await;
        assert_eq!((web.selected(), web.listed()), (vec!["web"], vec!["web"]), "{protocol:?}");
        assert_eq!(rollout(&client).await.synced, 1);
    }
}

/// The client has accepted the routes that list the new clusters, but neither the clusters nor their endpoints.
#[tokio::test(start_paused = true)]
async fn stream_that_ends_in_the_first_step_of_a_change_is_continued_there() {
    for protocol in BOTH {
        let (_server, client) = with_versions().await;
        let mut web = FollowingClient::open(&client, protocol).await;
        set_policy(&client, "web", &split(90, 10)).await;
        let listed = web.next_listener().await;
        web.take_in(&listed);
        assert_eq!((web.selected(), web.listed()), (vec!["web"], vec!["web", "web|v1", "web|v2"]));
        // It fails if clusters are selected before it has their endpoints.
        web.reconnect(&client).await;
        assert_eq!(
            (web.selected(), web.listed()),
            (vec!["web|v1", "web|v2"], vec!["web|v1", "web|v2"]),
            "{protocol:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_has_the_present_policy_is_sent_no_other() {
    for protocol in BOTH {
        let (_server, client) = with_versions().await;
        set_policy(&client, "web", &split(90, 10)).await;
        let mut web = FollowingClient::open(&client, protocol).await;
        let before = web.listeners;
        web.reconnect(&client).await;
        assert!(web.listeners - before <= 1, "{} listeners: {protocol:?}", web.listeners - before);
        assert_eq!(web.selected(), ["web|v1", "web|v2"]);
    }
}

/// tonic-xds never updates a cluster again that left its list and came back.
#[tokio::test(start_paused = true)]
async fn client_that_keeps_clusters_keeps_them_when_it_reconnects() {
    let (_server, client) = with_versions().await;
    let mut web = FollowingClient::open_node(&client, StateOfTheWorld, tonic_node()).await;
    set_policy(&client, "web", &split(100, 0)).await;
    web.settle().await;
    set_policy(&client, "web", "{}").await;
    web.settle().await;
    for _ in 0..2 {
        web.reconnect(&client).await;
        assert_eq!((web.selected(), web.listed()), (vec!["web"], vec!["web", "web|v1", "web|v2"]));
        assert_eq!(web.endpoints["web|v1"], "10.0.0.1:80", "with the instances of its last definition");
    }
    set_policy(&client, "web", &split(100, 0)).await;
    web.settle().await;
    assert_eq!((web.selected(), web.listed()), (vec!["web|v1"], vec!["web", "web|v1", "web|v2"]));
}

/// The client may ask for its types in any order; until it has asked for its routes and its clusters, it is sent nothing.
#[tokio::test(start_paused = true)]
async fn responses_wait_until_the_client_has_asked_for_routes_and_clusters() {
    let (_server, client) = with_versions().await;
    let mut web = FollowingClient::open(&client, StateOfTheWorld).await;
    let version = web.version().to_owned();
    set_policy(&client, "web", &split(0, 100)).await;
    let mut again = FollowingClient::silent(&client, StateOfTheWorld).await;
    again.ads.resume(Eds, &["web"], &version, &[]);
    again.ads.resume(Cds, &["web"], &version, &[]);
    again.ads.resume(Lds, &["web"], &version, &[]);
    let listener = again.next_listener().await;
    assert_eq!(clusters(&listener).0.into_iter().collect::<Vec<_>>(), ["web"], "calls go where they went");
    web.settle().await;

    let mut without_routes = FollowingClient::silent(&client, StateOfTheWorld).await;
    without_routes.ads.resume(Cds, &["web"], &version, &[]);
    without_routes.ads.accepted(Cds).await;
}
