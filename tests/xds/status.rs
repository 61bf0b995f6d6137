//! The list of watchers, and the client status discovery service (CSDS).

use callboard::pb::{
    callboard::v1::{ListWatchersRequest, WatchProtocol, XdsState, XdsStream},
    envoy::{
        admin::v3::ClientResourceStatus,
        service::status::v3::{ClientConfig, ClientStatusRequest, ConfigStatus},
        r#type::matcher::v3::{NodeMatcher, StringMatcher, string_matcher::MatchPattern},
    },
};

use super::{
    ads_client::{AdsClient, BOTH, Cds, Delta, Eds, Lds, StateOfTheWorld},
    register,
};
use crate::harness::{InMemory, TestClient, within};

/// Returns the xDS streams that read a service, or with an empty name all of them.
async fn streams(client: &TestClient, service: &str) -> Vec<XdsStream> {
    let request = ListWatchersRequest { service: service.to_owned(), ..ListWatchersRequest::default() };
    let listed = within("ListWatchers", client.admin.clone().list_watchers(request)).await.unwrap().into_inner();
    let streams = listed.watchers.into_iter().map(|watcher| {
        assert_eq!(watcher.protocol(), WatchProtocol::Xds);
        watcher.xds.expect("it is an xDS stream")
    });
    streams.collect()
}

/// Returns the subscriptions of the only stream, as `TYPE RESOURCES STATE text`.
async fn subscriptions(client: &TestClient) -> Vec<String> {
    let streams = streams(client, "").await;
    let [stream] = &*streams else { panic!("{streams:?}") };
    let line = |subscription: &callboard::pb::callboard::v1::XdsSubscription| {
        let state = match subscription.state() {
            XdsState::Unspecified => "?",
            XdsState::NotSent => "NOT_SENT",
            XdsState::Synced => "SYNCED",
            XdsState::Stale => "STALE",
            XdsState::Nacked => "NACKED",
        };
        format!("{} {} {state} {}", subscription.r#type, subscription.resources, subscription.error)
    };
    stream.subscriptions.iter().map(line).collect()
}

#[tokio::test(start_paused = true)]
async fn list_of_watchers_shows_each_stream_with_its_types_and_their_states() {
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        register(&client, "a", 1).await;
        let mut ads = AdsClient::open_as(&client, protocol, "node-1").await;
        ads.subscribe(Eds, &["a", "b"]);
        let unanswered = ads.next(Eds).await;
        assert_eq!(subscriptions(&client).await, ["EDS 2 STALE "]);
        ads.accept(&unanswered);
        ads.assert_quiet().await;
        assert_eq!(subscriptions(&client).await, ["EDS 2 SYNCED "]);
        ads.subscribe(Lds, &["a"]);
        ads.accepted(Lds).await;
        register(&client, "a", 2).await;
        let rejected = ads.next(Eds).await;
        ads.reject(&rejected, "weight of locality is 0");
        ads.assert_quiet().await;
        assert_eq!(subscriptions(&client).await, ["EDS 2 NACKED weight of locality is 0", "LDS 1 SYNCED "]);
        register(&client, "b", 1).await;
        ads.accepted(Eds).await;
        ads.assert_quiet().await;
        let still = "EDS 2 NACKED weight of locality is 0";
        assert_eq!(subscriptions(&client).await[0], still, "the client still lacks the rejected resource");
        register(&client, "a", 3).await;
        ads.accepted(Eds).await;
        ads.assert_quiet().await;
        assert_eq!(subscriptions(&client).await, ["EDS 2 SYNCED ", "LDS 1 SYNCED "]);
        let stream = &streams(&client, "").await[0];
        assert_eq!((&*stream.node_id, &*stream.agent, stream.delta), ("node-1", "test agent", protocol == Delta));
        drop(ads);
        within("the end", async { while !streams(&client, "").await.is_empty() {} }).await;
    }
}

#[tokio::test(start_paused = true)]
async fn rejection_after_a_request_that_seemed_to_accept_is_shown() {
    let server = InMemory::open();
    let client = server.client().await;
    let mut ads = AdsClient::open(&client, StateOfTheWorld).await;
    ads.subscribe(Eds, &["a"]);
    let response = ads.next(Eds).await;
    // The client has the nonce of the response already, and has not looked at its resources.
    ads.subscribe(Eds, &["a"]);
    ads.reject(&response, "no");
    ads.assert_quiet().await;
    assert_eq!(subscriptions(&client).await, ["EDS 1 NACKED no"]);
}

#[tokio::test(start_paused = true)]
async fn list_of_watchers_of_a_service_has_only_its_streams() {
    let server = InMemory::open();
    let client = server.client().await;
    register(&client, "b", 1).await;
    let mut one = AdsClient::open_as(&client, StateOfTheWorld, "one").await;
    one.subscribe(Eds, &["a"]);
    one.accepted(Eds).await;
    let mut all = AdsClient::open_as(&client, Delta, "all").await;
    all.subscribe(Cds, &[]);
    all.accepted(Cds).await;
    for (service, expected) in [("a", &["one"][..]), ("b", &["all"]), ("", &["one", "all"]), ("c", &[])] {
        let streams = streams(&client, service).await;
        assert_eq!(streams.iter().map(|stream| &*stream.node_id).collect::<Vec<_>>(), expected, "{service}");
    }
    let subscription = &streams(&client, "b").await[0].subscriptions[0];
    assert!(subscription.wildcard && subscription.resources == 1, "{subscription:?}");
}

fn selecting(pattern: MatchPattern, ignore_case: bool) -> ClientStatusRequest {
    let node_id = Some(StringMatcher { match_pattern: Some(pattern), ignore_case });
    ClientStatusRequest { node_matchers: vec![NodeMatcher { node_id }], ..ClientStatusRequest::default() }
}

fn ids(configs: &[ClientConfig]) -> Vec<&str> {
    configs.iter().map(|config| &*config.node.as_ref().unwrap().id).collect()
}

#[tokio::test(start_paused = true)]
async fn client_status_shows_the_resources_of_each_stream_that_matches() {
    let server = InMemory::open();
    let client = server.client().await;
    register(&client, "a", 1).await;
    let mut open = Vec::new();
    for id in ["web-1", "web-2", "Proxy"] {
        let mut ads = AdsClient::open_as(&client, StateOfTheWorld, id).await;
        ads.subscribe(Eds, &["a", "none"]);
        open.push((ads.next(Eds).await, ads));
    }
    let (response, ads) = &mut open[0];
    ads.accept(response);
    ads.assert_quiet().await;
    let (response, ads) = &mut open[1];
    ads.reject(response, "no thanks");
    ads.assert_quiet().await;

    let fetch = async |request| {
        within("FetchClientStatus", client.xds_status.clone().fetch_client_status(request))
            .await
            .unwrap()
            .into_inner()
            .config
    };
    let all = fetch(ClientStatusRequest::default()).await;
    assert_eq!(ids(&all), ["web-1", "web-2", "Proxy"]);
    let expected = [
        (ConfigStatus::Synced, ClientResourceStatus::Acked),
        (ConfigStatus::Error, ClientResourceStatus::Nacked),
        (ConfigStatus::Stale, ClientResourceStatus::Requested),
    ];
    for (config, (status, client_status)) in all.iter().zip(expected) {
        assert_eq!(config.generic_xds_configs.len(), 2);
        let resource = &config.generic_xds_configs[0];
        assert_eq!((&*resource.name, &*resource.type_url), ("a", Eds.url()));
        assert_eq!((resource.config_status(), resource.client_status()), (status, client_status));
        assert!(resource.xds_config.is_some() && resource.last_updated.is_some());
    }
    let error = all[1].generic_xds_configs[0].error_state.as_ref().unwrap();
    assert_eq!(error.details, "no thanks");

    let cases = [
        (selecting(MatchPattern::Exact("web-2".to_owned()), false), &["web-2"][..]),
        (selecting(MatchPattern::Prefix("web".to_owned()), false), &["web-1", "web-2"]),
        (selecting(MatchPattern::Suffix("Y".to_owned()), true), &["Proxy"]),
        (selecting(MatchPattern::Contains("rox".to_owned()), false), &["Proxy"]),
        (selecting(MatchPattern::Exact("web".to_owned()), false), &[]),
    ];
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let requests = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
    let mut stream = client.xds_status.clone().stream_client_status(requests).await.unwrap().into_inner();
    for (request, expected) in cases {
        let request = ClientStatusRequest { exclude_resource_contents: true, ..request };
        sender.send(request.clone()).unwrap();
        let streamed = within("StreamClientStatus", stream.message()).await.unwrap().unwrap().config;
        assert_eq!(ids(&streamed), expected);
        assert!(streamed.iter().flat_map(|config| &config.generic_xds_configs).all(|one| one.xds_config.is_none()));
        assert_eq!(ids(&fetch(request).await), expected);
    }
}
