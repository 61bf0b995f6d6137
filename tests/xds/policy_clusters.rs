//! Clusters of subsets: those that a change of a policy waits for, and those that no policy defines any more.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{Instant, timeout};

use super::{
    ads_client::{AdsClient, AdsResponse, BOTH, Cds, Eds, Lds, StateOfTheWorld},
    following_client::{FollowingClient, SETTLED, clusters, rollout, set_policy, split, tonic_node, with_versions},
};

/// Maximum number of clusters of removed subsets that a client keeps.
const MAX_RETIRED: usize = 32;

#[tokio::test(start_paused = true)]
async fn cluster_whose_endpoints_the_client_has_not_accepted_is_not_selected() {
    for protocol in BOTH {
        let (_server, client) = with_versions().await;
        let mut web = FollowingClient::open(&client, protocol).await;
        set_policy(&client, "web", &split(90, 10)).await;
        let mut unanswered = Vec::new();
        while let Ok(response) = timeout(SETTLED, web.ads.message()).await {
            let response = response.unwrap();
            if response.kind == Eds {
                unanswered.push(response);
            } else {
                web.take_in(&response);
            }
        }
        assert_eq!(web.selected(), ["web"], "{protocol:?}");
        for response in &unanswered {
            web.take_in(response);
        }
        web.settle().await;
        assert_eq!(web.selected(), ["web|v1", "web|v2"], "{protocol:?}");
    }
}

/// A client that lists the clusters of new subsets and asks for their endpoints only when it selects them would wait for ever, so a change
/// goes on two seconds after the client has accepted the routes. Nothing that another client does or does not ask for delays a change.
#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "the time is the paused one of the test")]
async fn client_that_does_not_ask_for_endpoints_waits_for_two_seconds_and_delays_no_other() {
    for protocol in BOTH {
        let (_server, client) = with_versions().await;
        let mut withheld = AdsClient::open_as(&client, protocol, "withheld").await;
        withheld.subscribe(Lds, &["web"]);
        withheld.accepted(Lds).await;
        for kind in [Cds, Eds] {
            withheld.subscribe(kind, &["web"]);
            withheld.accepted(kind).await;
        }
        let mut web = FollowingClient::open(&client, protocol).await;

        let began = Instant::now();
        set_policy(&client, "web", &split(0, 100)).await;
        let listed = withheld.accepted(Lds).await;
        assert_eq!(clusters(&listed).0, BTreeSet::from(["web".to_owned()]), "calls go where they went: {protocol:?}");
        let listed = clusters(&listed).1;
        assert_eq!(listed, ["web", "web|v1", "web|v2"].map(str::to_owned).into());
        // It asks for the clusters, but not for the endpoints of `v2`.
        withheld.subscribe(Cds, &["web|v1", "web|v2"]);
        withheld.accepted(Cds).await;
        withheld.subscribe(Eds, &["web|v1"]);
        withheld.accepted(Eds).await;

        while !web.selected().contains(&"web|v2") {
            let message = timeout(SETTLED, web.ads.message()).await.unwrap().unwrap();
            web.take_in(&message);
        }
        assert!(began.elapsed() < Duration::from_millis(500), "another client: {:?}", began.elapsed());
        let state = rollout(&client).await;
        let waiting: Vec<_> = state.unsynced.iter().filter(|stream| stream.node_id == "withheld").collect();
        assert_eq!(waiting[0].reason, "the client has not accepted EDS web|v2 yet", "{state:?}");

        let selecting = withheld.next(Lds).await;
        let waited = began.elapsed();
        assert!((Duration::from_secs(2)..Duration::from_millis(2_500)).contains(&waited), "{waited:?}");
        assert_eq!(clusters(&selecting).0, BTreeSet::from(["web|v2".to_owned()]));

        // The endpoints are there whenever it asks for them.
        withheld.accept(&selecting);
        tokio::time::sleep(Duration::from_secs(20)).await;
        withheld.subscribe(Eds, &["web|v2"]);
        let mut addresses = String::new();
        while let Ok(message) = timeout(SETTLED, withheld.message()).await {
            let message = message.unwrap();
            withheld.accept(&message);
            if message.kind == Eds && message.resources.contains_key("web|v2") {
                addresses = message.addresses("web|v2");
            }
        }
        assert_eq!(addresses.split(' ').next(), Some("10.0.0.2:80"), "{protocol:?}");
        web.settle().await;
        let state = rollout(&client).await;
        assert_eq!((state.streams, state.synced), (2, 2), "{state:?}");
    }
}

/// Takes in all that the server sends, and subscribes to the endpoints of all clusters. Returns the clusters that the client has.
async fn settle_all_clusters(envoy: &mut AdsClient, known: &mut BTreeSet<String>) {
    while let Ok(message) = timeout(SETTLED, envoy.message()).await {
        let message = message.unwrap();
        envoy.accept(&message);
        if message.kind == Cds {
            take_clusters(envoy, &message, known);
        }
    }
}

fn take_clusters(envoy: &mut AdsClient, message: &AdsResponse, known: &mut BTreeSet<String>) {
    let mut present: BTreeSet<_> = message.resources.keys().cloned().collect();
    if !message.versions.is_empty() || !message.removed.is_empty() {
        present.extend(known.iter().filter(|name| !message.removed.contains(name)).cloned());
    }
    let added: Vec<_> = present.difference(known).map(String::as_str).collect();
    let removed: Vec<_> = known.difference(&present).map(String::as_str).collect();
    if !added.is_empty() {
        envoy.subscribe(Eds, &added);
    }
    if !removed.is_empty() {
        envoy.unsubscribe(Eds, &removed);
    }
    *known = present;
}

fn one_subset(name: &str) -> String {
    format!(r#"{{"subsets": {{"{name}": "\"v1\" in tags"}}, "default": {{"{name}": 100}}}}"#)
}

#[tokio::test(start_paused = true)]
async fn client_of_all_clusters_keeps_the_last_clusters_of_removed_subsets() {
    for protocol in BOTH {
        let (_server, client) = with_versions().await;
        let mut envoy = AdsClient::open(&client, protocol).await;
        let mut known = BTreeSet::new();
        envoy.subscribe(Cds, &[]);
        settle_all_clusters(&mut envoy, &mut known).await;
        for round in 0..MAX_RETIRED + 8 {
            set_policy(&client, "web", &one_subset(&format!("s{round}"))).await;
            settle_all_clusters(&mut envoy, &mut known).await;
            assert!(known.len() <= MAX_RETIRED + 3, "{protocol:?} {known:?}");
        }
        assert!(known.contains(&format!("web|s{}", MAX_RETIRED + 7)), "{known:?}");
        assert!(known.contains("web|s10"), "a removed subset: {known:?}");
        assert!(!known.contains("web|s0"), "the oldest one: {known:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_keeps_clusters_listed_keeps_the_last_of_removed_subsets() {
    let (_server, client) = with_versions().await;
    let mut web = FollowingClient::open_node(&client, StateOfTheWorld, tonic_node()).await;
    for round in 0..MAX_RETIRED + 8 {
        set_policy(&client, "web", &one_subset(&format!("s{round}"))).await;
        web.settle().await;
        assert!(web.listed().len() <= MAX_RETIRED + 2, "{:?}", web.listed());
    }
    let last = format!("web|s{}", MAX_RETIRED + 7);
    assert_eq!(web.selected(), [&*last]);
    assert!(web.listed().contains(&"web|s10") && !web.listed().contains(&"web|s0"), "{:?}", web.listed());
    assert_eq!(web.endpoints["web|s10"], web.endpoints[&last], "a removed subset keeps its instances");
}
