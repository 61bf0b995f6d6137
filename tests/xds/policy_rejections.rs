//! Policies that a client rejects.

use std::collections::BTreeSet;

use super::{
    ads_client::{BOTH, Eds},
    following_client::{FollowingClient, clusters, rollout, set_policy, split, with_versions},
    register,
};

#[tokio::test(start_paused = true)]
async fn client_that_rejects_a_policy_keeps_the_one_before() {
    for protocol in BOTH {
        let (_server, client) = with_versions().await;
        set_policy(&client, "web", &split(100, 0)).await;
        let mut web = FollowingClient::open(&client, protocol).await;
        assert_eq!(web.selected(), ["web|v1"]);

        set_policy(&client, "web", &split(0, 100)).await;
        let rejected = web.next_listener().await;
        web.ads.reject(&rejected, "cannot have it");
        let back = web.next_listener().await;
        assert_eq!(clusters(&back).0, BTreeSet::from(["web|v1".to_owned()]), "the policy before");
        web.take_in(&back);
        web.settle().await;
        let unsynced = rollout(&client).await.unsynced;
        assert!(unsynced[0].reason.contains("cannot have it"), "{unsynced:?}");

        let newer = set_policy(&client, "web", &split(50, 50)).await;
        web.settle().await;
        assert_eq!(web.selected(), ["web|v1", "web|v2"]);
        let rollout = rollout(&client).await;
        assert_eq!((rollout.revision, rollout.synced), (newer, 1), "{rollout:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn earlier_rejection_of_endpoints_does_not_reject_a_later_policy() {
    for protocol in BOTH {
        let (_server, client) = with_versions().await;
        let mut web = FollowingClient::open(&client, protocol).await;
        register(&client, "web", 3).await;
        let endpoints = web.ads.next(Eds).await;
        web.ads.reject(&endpoints, "no");
        let before = web.listeners;
        let revision = set_policy(&client, "web", r#"{"timeout": "5s"}"#).await;
        web.settle().await;
        let rollout = rollout(&client).await;
        assert_eq!((web.listeners - before, rollout.revision, rollout.synced), (1, revision, 1), "{rollout:?}");
    }
}

/// grpc-go fails calls if a cluster is selected in the push that lists it first, or leaves the list in the push that stops selecting it.
/// The following client asserts that this does not happen.
#[tokio::test(start_paused = true)]
async fn client_that_rejects_the_last_step_of_a_change_returns_in_steps() {
    for protocol in BOTH {
        let (_server, client) = with_versions().await;
        set_policy(&client, "web", r#"{"subsets": {"v1": "\"v1\" in tags"}, "default": {"v1": 100}}"#).await;
        let mut web = FollowingClient::open(&client, protocol).await;
        let revision =
            set_policy(&client, "web", r#"{"subsets": {"v2": "\"v2\" in tags"}, "default": {"v2": 100}}"#).await;
        let both = ["web|v1", "web|v2"].map(str::to_owned);
        for (selected, listed) in [("web|v1", &both[..]), ("web|v2", &both[..])] {
            let step = web.next_listener().await;
            let expected = (BTreeSet::from([selected.to_owned()]), listed.iter().cloned().collect());
            assert_eq!(clusters(&step), expected, "{protocol:?}");
            web.take_in(&step);
        }
        let last = web.next_listener().await;
        assert_eq!(clusters(&last).1, BTreeSet::from(["web|v2".to_owned()]));
        web.ads.reject(&last, "not without v1");
        web.settle().await;
        assert_eq!((web.selected(), web.listed()), (vec!["web|v1"], vec!["web|v1"]), "{protocol:?}");
        assert_eq!(web.endpoints["web|v1"].split(' ').next(), Some("10.0.0.1:80"));
        let rollout = rollout(&client).await;
        assert_eq!((rollout.revision, rollout.synced), (revision, 0));
        assert!(rollout.unsynced[0].reason.contains("not without v1"), "{rollout:?}");
    }
}
