//! Invalid and excessive requests: a clear answer or status, no growth, and no other stream is disturbed.

mod floods;

use std::time::Duration;

use callboard::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use tokio::sync::mpsc::unbounded_channel;
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;

use super::{
    ads_client::{ALL_TYPES, AdsClient, BOTH, Cds, Delta, Eds, Lds, StateOfTheWorld},
    register,
};
use crate::harness::{InMemory, TestServer, within};

const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Opens streams with these first requests.
async fn send_raw(
    mut xds: AggregatedDiscoveryServiceClient<Channel>,
    whole: Vec<DiscoveryRequest>,
) -> Streaming<DiscoveryResponse> {
    let requests = tokio_stream::iter(whole).chain(tokio_stream::pending());
    within("the stream", xds.stream_aggregated_resources(requests)).await.unwrap().into_inner()
}

async fn send_raw_delta(
    mut xds: AggregatedDiscoveryServiceClient<Channel>,
    delta: Vec<DeltaDiscoveryRequest>,
) -> Streaming<DeltaDiscoveryResponse> {
    let requests = tokio_stream::iter(delta).chain(tokio_stream::pending());
    within("the stream", xds.delta_aggregated_resources(requests)).await.unwrap().into_inner()
}

/// Asserts that a status says what is wrong and what to do.
fn assert_clear(status: &Status, code: Code) {
    assert_eq!(status.code(), code, "{status}");
    let (reason, remedy) = status.message().rsplit_once(": ").unwrap_or_default();
    assert!(!reason.is_empty() && !remedy.is_empty(), "\"{}\" has no remedy", status.message());
    assert!(status.message().len() < 1_000, "a status does not repeat a whole request");
    assert_eq!(status.get_error_details().error_info().unwrap().domain, "callboard.dev");
}

#[tokio::test(start_paused = true)]
async fn unknown_type_is_answered_with_nothing_and_other_types_go_on() {
    let server = InMemory::open();
    let client = server.client().await;
    let unknown = DiscoveryRequest {
        type_url: SECRET.to_owned(),
        resource_names: vec!["certificate".to_owned()],
        ..DiscoveryRequest::default()
    };
    let known = DiscoveryRequest { type_url: Eds.url().to_owned(), ..unknown.clone() };
    let accepts = DiscoveryRequest { response_nonce: "0".to_owned(), version_info: "1".to_owned(), ..unknown.clone() };
    let mut stream = send_raw(client.xds.clone(), vec![unknown, accepts, known]).await;
    let first = within("an answer", stream.message()).await.unwrap().unwrap();
    assert_eq!((&*first.type_url, first.resources.len()), (SECRET, 0));
    let second = within("the endpoints", stream.message()).await.unwrap().unwrap();
    assert_eq!((&*second.type_url, second.resources.len()), (Eds.url(), 1));

    let unknown = DeltaDiscoveryRequest {
        type_url: SECRET.to_owned(),
        resource_names_subscribe: vec!["certificate".to_owned()],
        ..DeltaDiscoveryRequest::default()
    };
    let known = DeltaDiscoveryRequest { type_url: Eds.url().to_owned(), ..unknown.clone() };
    let mut stream = send_raw_delta(client.xds.clone(), vec![unknown, known]).await;
    let first = within("an answer", stream.message()).await.unwrap().unwrap();
    assert_eq!((&*first.type_url, &*first.removed_resources), (SECRET, &["certificate".to_owned()][..]));
    let second = within("the endpoints", stream.message()).await.unwrap().unwrap();
    assert_eq!((&*second.type_url, second.resources.len()), (Eds.url(), 1));
}

#[tokio::test(start_paused = true)]
async fn empty_and_very_long_type_end_the_stream_with_a_clear_status() {
    let server = InMemory::open();
    let client = server.client().await;
    let mut bystander = AdsClient::open(&client, StateOfTheWorld).await;
    bystander.subscribe(Eds, &["a"]);
    bystander.accepted(Eds).await;
    for type_url in [String::new(), "x".repeat(257), "é".repeat(100_000)] {
        let request = DiscoveryRequest { type_url: type_url.clone(), ..DiscoveryRequest::default() };
        let status = within("the end", send_raw(client.xds.clone(), vec![request]).await.message()).await.unwrap_err();
        assert_clear(&status, Code::InvalidArgument);
        let request = DeltaDiscoveryRequest { type_url, ..DeltaDiscoveryRequest::default() };
        let mut stream = send_raw_delta(client.xds.clone(), vec![request]).await;
        assert_clear(&within("the end", stream.message()).await.unwrap_err(), Code::InvalidArgument);
    }
    register(&client, "a", 1).await;
    assert_eq!(bystander.accepted(Eds).await.addresses("a"), "10.0.0.1:80");
    assert_eq!(server.stream_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn odd_names_are_answered_at_once_for_every_type() {
    let long = "x".repeat(254);
    let odd =
        [" ", "a b", "a/b", "Ünïcode", "a\u{0}b", "a\nb", "*.example", "xdstp://authority/type/name", "::1", &long];
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        for kind in ALL_TYPES {
            let mut ads = AdsClient::open(&client, protocol).await;
            let mut names = odd.to_vec();
            names.push("good");
            ads.subscribe(kind, &names);
            let response = ads.accepted(kind).await;
            assert_eq!(response.resources.len(), odd.len() + 1);
            assert!(response.removed.is_empty(), "{:?}", response.removed);
            ads.assert_quiet().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stream_without_a_node_or_with_a_huge_one_is_served() {
    let server = InMemory::open();
    let client = server.client().await;
    let huge = || Some(Node { id: "é".repeat(100_000), user_agent_name: "x".repeat(100_000), ..Node::default() });
    for node in [None, Some(Node::default()), huge()] {
        let (type_url, resource_names) = (Lds.url().to_owned(), vec!["a".to_owned()]);
        let request = DiscoveryRequest { node, type_url, resource_names, ..DiscoveryRequest::default() };
        let mut stream = send_raw(client.xds.clone(), vec![request]).await;
        assert_eq!(within("an answer", stream.message()).await.unwrap().unwrap().resources.len(), 1);
        let request = callboard::pb::callboard::v1::ListWatchersRequest::default();
        let listed = client.admin.clone().list_watchers(request).await.unwrap().into_inner();
        assert!(listed.watchers.iter().all(|watcher| watcher.xds.as_ref().unwrap().node_id.len() <= 512));
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_nonces_versions_and_errors_are_ignored() {
    let server = InMemory::open();
    let client = server.client().await;
    let mut ads = AdsClient::open(&client, StateOfTheWorld).await;
    ads.subscribe(Eds, &["a"]);
    let first = ads.accepted(Eds).await;
    let text =
        tonic_types::Status { code: -7, message: "x".repeat(100_000), details: vec![prost_types::Any::default()] };
    for nonce in ["-1", "99999999999999999999999999", "18446744073709551615", "nonce", "\u{1f600}", "77"] {
        ads.send_whole(DiscoveryRequest {
            type_url: Eds.url().to_owned(),
            resource_names: vec!["a".to_owned(), "b".to_owned()],
            version_info: "\u{0}".repeat(1_000),
            response_nonce: nonce.to_owned(),
            error_detail: Some(text.clone()),
            ..DiscoveryRequest::default()
        });
    }
    ads.assert_quiet().await;
    ads.reject(&first, &"y".repeat(100_000));
    ads.assert_quiet().await;
    register(&client, "a", 1).await;
    assert_eq!(ads.accepted(Eds).await.names(), "a");

    let mut delta = AdsClient::open(&client, Delta).await;
    delta.subscribe(Eds, &["a"]);
    delta.accepted(Eds).await;
    for nonce in ["-1", "18446744073709551615", "nonce"] {
        delta.send_delta(DeltaDiscoveryRequest {
            type_url: Eds.url().to_owned(),
            resource_names_unsubscribe: vec!["never subscribed".to_owned()],
            response_nonce: nonce.to_owned(),
            error_detail: Some(text.clone()),
            ..DeltaDiscoveryRequest::default()
        });
    }
    delta.assert_quiet().await;
    register(&client, "a", 2).await;
    assert_eq!(delta.accepted(Eds).await.names(), "a");
}

#[tokio::test(start_paused = true)]
async fn stream_without_a_request_ends_after_a_minute() {
    let server = InMemory::open();
    let client = server.client().await;
    for protocol in BOTH {
        let mut ads = AdsClient::open(&client, protocol).await;
        let since = server.now();
        // Longer than `within` waits: the clock is paused.
        let status = tokio::time::timeout(Duration::from_mins(2), ads.message()).await.unwrap().unwrap_err();
        assert_clear(&status, Code::DeadlineExceeded);
        assert!((60_000..80_000).contains(&(server.now() - since)), "{}", server.now() - since);
    }
    assert_eq!(server.stream_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_names_end_the_stream_with_a_clear_status() {
    let server = TestServer::with(|config| config.max_message_size = 64 * 1024 * 1024);
    let client = server.client().await;
    let mut bystander = AdsClient::open(&client, StateOfTheWorld).await;
    bystander.subscribe(Eds, &["a"]);
    bystander.accepted(Eds).await;
    let names: Vec<_> = (0..100_000).map(|number| format!("service-{number}")).collect();
    let type_url = || Eds.url().to_owned();
    let at_once =
        DiscoveryRequest { type_url: type_url(), resource_names: names.clone(), ..DiscoveryRequest::default() };
    let status = within("the end", send_raw(client.xds.clone(), vec![at_once]).await.message()).await.unwrap_err();
    assert_clear(&status, Code::ResourceExhausted);

    let (sender, receiver) = unbounded_channel();
    let stream = client.xds.clone().delta_aggregated_resources(UnboundedReceiverStream::new(receiver)).await;
    let mut stream = stream.unwrap().into_inner();
    for part in names.chunks(1_000) {
        let (type_url, resource_names_subscribe) = (type_url(), part.to_vec());
        sender.send(DeltaDiscoveryRequest { type_url, resource_names_subscribe, ..Default::default() }).unwrap();
    }
    let mut sent = 0;
    let status = within("the end", async {
        loop {
            match stream.message().await {
                Ok(response) => sent += response.unwrap().resources.len(),
                Err(status) => return status,
            }
        }
    })
    .await;
    assert_clear(&status, Code::ResourceExhausted);
    assert!(sent <= 50_000, "{sent}");
    register(&client, "a", 1).await;
    assert_eq!(bystander.accepted(Eds).await.addresses("a"), "10.0.0.1:80");
}

/// Names that no service can have cost memory too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_names_count_as_several_resources() {
    let server = TestServer::open();
    let client = server.client().await;
    let (sender, receiver) = unbounded_channel();
    let stream = client.xds.clone().delta_aggregated_resources(UnboundedReceiverStream::new(receiver)).await;
    let mut stream = stream.unwrap().into_inner();
    // 14 MB of names. The limit is 12.8 MB.
    for number in 0..14 {
        let (type_url, name) = (Cds.url().to_owned(), format!("{number}{}", "x".repeat(1_000_000)));
        sender
            .send(DeltaDiscoveryRequest { type_url, resource_names_subscribe: vec![name], ..Default::default() })
            .unwrap();
    }
    let status = within("the end", async {
        loop {
            if let Err(status) = stream.message().await {
                return status;
            }
        }
    })
    .await;
    assert_clear(&status, Code::ResourceExhausted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_that_is_too_large_ends_the_stream_with_a_clear_status() {
    let server = TestServer::open();
    let client = server.client().await;
    let resource_names = (0..60_000).map(|number| format!("{number}{}", "x".repeat(100))).collect();
    let request = DiscoveryRequest { type_url: Lds.url().to_owned(), resource_names, ..DiscoveryRequest::default() };
    let status = within("the end", send_raw(client.xds.clone(), vec![request]).await.message()).await.unwrap_err();
    assert!(matches!(status.code(), Code::ResourceExhausted | Code::OutOfRange), "{status}");
    assert_clear(&status, status.code());
}
