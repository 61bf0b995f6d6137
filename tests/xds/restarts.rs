//! Reconnects and restarts: versions of earlier streams, settling, shutdown, the maximum age of connections.

use std::time::Duration;

use tonic::Code;
use tonic_types::StatusExt;

use super::{
    ads_client::{ALL_TYPES, AdsClient, AdsProtocol, BOTH, Cds, Delta, Eds, Lds, Rds, StateOfTheWorld},
    register,
};
use crate::harness::{InMemory, ServerProcess, TestClient, TestServer};

/// Longer than the time for which a stream that nothing is sent on must be quiet.
const SETTLE: Duration = Duration::from_secs(40);

/// Returns a version that the server would have given before a restart that lost all registrations.
fn of_another_incarnation(version: &str) -> String {
    let (incarnation, number) = version.split_once('-').unwrap();
    let incarnation = u64::from_str_radix(incarnation, 16).unwrap() ^ 0xff;
    format!("{incarnation:016x}-{number}")
}

/// Subscribes to a service that is gone, with a version of an earlier incarnation.
fn resume_lost(ads: &mut AdsClient, kind: super::ads_client::AdsType, version: &str) {
    ads.resume(kind, &["a"], version, &[("a", version)]);
}

/// Returns a version of this server.
async fn some_version(client: &TestClient, protocol: AdsProtocol) -> String {
    let mut ads = AdsClient::open(client, protocol).await;
    ads.subscribe(Eds, &["some"]);
    let response = ads.accepted(Eds).await;
    response.versions.get("some").unwrap_or(&response.version).clone()
}

#[tokio::test(start_paused = true)]
async fn reconnect_with_an_old_version_and_an_empty_nonce_is_answered() {
    let server = InMemory::open();
    let client = server.client().await;
    register(&client, "a", 1).await;
    for kind in ALL_TYPES {
        let mut before = AdsClient::open(&client, StateOfTheWorld).await;
        before.subscribe(kind, &["a"]);
        let had = before.accepted(kind).await;
        drop(before);
        for version in [&*had.version, "garbage", "", "2024-01-01/7"] {
            let mut ads = AdsClient::open(&client, StateOfTheWorld).await;
            ads.resume(kind, &["a"], version, &[]);
            assert_eq!(ads.accepted(kind).await.resources, had.resources, "{version}");
            ads.assert_quiet().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stream_with_an_earlier_version_gets_no_endpoints_until_the_registry_has_settled() {
    for protocol in BOTH {
        let server = InMemory::settling(SETTLE);
        let client = server.client().await;
        let lost = of_another_incarnation(&some_version(&client, protocol).await);
        let mut ads = AdsClient::open(&client, protocol).await;
        for kind in [Lds, Cds, Rds] {
            resume_lost(&mut ads, kind, &lost);
            assert_eq!(ads.accepted(kind).await.names(), "a", "it does not depend on registrations");
        }
        resume_lost(&mut ads, Eds, &lost);
        for number in 1..4 {
            register(&client, "a", number).await;
            ads.assert_quiet().await;
        }
        assert_eq!(ads.accepted(Eds).await.addresses("a"), "10.0.0.1:80 10.0.0.2:80 10.0.0.3:80");
        assert!((40_000..40_400).contains(&server.now()), "{}", server.now());
        register(&client, "a", 4).await;
        ads.accepted(Eds).await;
        ads.assert_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn wildcard_with_earlier_versions_loses_no_cluster_while_the_registry_settles() {
    let server = InMemory::settling(SETTLE);
    let client = server.client().await;
    let lost = of_another_incarnation(&some_version(&client, Delta).await);
    let mut ads = AdsClient::open(&client, Delta).await;
    ads.resume(Cds, &[], "", &[("a", &lost), ("gone", &lost)]);
    ads.assert_quiet().await;
    register(&client, "a", 1).await;
    ads.assert_quiet().await;
    let response = ads.accepted(Cds).await;
    assert_eq!((response.names(), &*response.removed), ("a".to_owned(), &["gone".to_owned()][..]));
}

#[tokio::test(start_paused = true)]
async fn stream_of_a_new_client_is_answered_while_the_registry_settles() {
    for protocol in BOTH {
        let server = InMemory::settling(SETTLE);
        let client = server.client().await;
        let own = some_version(&client, protocol).await;
        for version in ["", "garbage", &own] {
            let mut ads = AdsClient::open(&client, protocol).await;
            ads.resume(Eds, &["a"], version, &[("a", version)]);
            assert_eq!(ads.accepted(Eds).await.names(), "a", "{version}");
        }
        assert!(server.now() < 1_000, "{}", server.now());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_of_a_registry_on_disk_sends_no_delta_stream_what_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let disk = ["--data-dir", directory.path().to_str().unwrap()];
    let serve = ServerProcess::start(&disk).await;
    let client = serve.client().await;
    register(&client, "a", 1).await;
    let mut before = AdsClient::open(&client, Delta).await;
    let mut had = Vec::new();
    for kind in [Lds, Cds, Eds] {
        before.subscribe(kind, &["a"]);
        had.push((kind, before.accepted(kind).await.versions["a"].clone()));
    }
    let serve = serve.restart(&disk).await;
    let mut ads = AdsClient::open(&serve.client().await, Delta).await;
    for (kind, version) in &had {
        ads.resume(*kind, &["a"], "", &[("a", version)]);
    }
    ads.assert_quiet().await;
    register(&serve.client().await, "a", 2).await;
    assert_eq!(ads.accepted(Eds).await.addresses("a"), "10.0.0.1:80 10.0.0.2:80");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_of_a_registry_in_memory_withholds_endpoints_until_they_are_back() {
    for protocol in BOTH {
        let serve = ServerProcess::start(&[]).await;
        let client = serve.client().await;
        register(&client, "a", 1).await;
        let version = some_version(&client, protocol).await;
        let serve = serve.restart(&["--settle", "2s"]).await;
        let client = serve.client().await;
        let mut ads = AdsClient::open(&client, protocol).await;
        resume_lost(&mut ads, Eds, &version);
        ads.assert_quiet().await;
        register(&client, "a", 1).await;
        let restored = ads.accepted(Eds).await;
        assert_eq!(restored.addresses("a"), "10.0.0.1:80");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_ends_streams_with_unavailable() {
    for protocol in BOTH {
        let server = TestServer::open();
        let client = server.client().await;
        let mut idle = AdsClient::open(&client, protocol).await;
        let mut busy = AdsClient::open(&client, protocol).await;
        busy.subscribe(Eds, &["a"]);
        busy.accepted(Eds).await;
        let leaving = tokio::spawn(server.leave());
        for ads in [&mut idle, &mut busy] {
            let status = ads.ended().await;
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert!(status.get_details_retry_info().is_some(), "{status:?}");
        }
        leaving.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_at_the_maximum_age_of_its_connection_ends_with_unavailable() {
    let server = TestServer::with(|config| {
        config.max_connection_age = Some(Duration::from_millis(500));
        config.max_connection_age_grace = Duration::from_secs(3);
    });
    for protocol in BOTH {
        let client = server.client().await;
        let mut ads = AdsClient::open(&client, protocol).await;
        ads.subscribe(Eds, &["a"]);
        ads.accepted(Eds).await;
        assert_eq!(ads.ended().await.code(), Code::Unavailable);
    }
}
