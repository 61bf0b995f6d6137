//! Changes of policies, as a client sees them that follows its listener to clusters and their endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use callboard::pb::{
    callboard::v1::{GetPolicyRolloutRequest, GetPolicyRolloutResponse, SetPolicyRequest},
    envoy::{
        config::{
            listener::v3::Listener,
            route::v3::{
                Route, RouteAction, route::Action, route_action::ClusterSpecifier, weighted_cluster::ClusterWeight,
            },
        },
        extensions::filters::network::http_connection_manager::v3::{
            HttpConnectionManager, http_connection_manager::RouteSpecifier,
        },
    },
};
use prost::Message;
use prost_types::{Struct, Value, value::Kind};
use tokio::time::timeout;

use super::{
    ads_client::{AdsClient, AdsProtocol, AdsResponse, BOTH, Cds, Delta, Eds, Lds, StateOfTheWorld},
    at, deregister, register,
};
use crate::harness::{InMemory, TestClient, within};

/// Time without a message after which a change of a policy is over: longer than a step takes.
const SETTLED: Duration = Duration::from_secs(3);

/// Client that follows its listener to clusters and their endpoints, as gRPC does.
struct FollowingClient {
    ads: AdsClient,
    listed: BTreeSet<String>,
    selected: BTreeSet<String>,
    /// Addresses of each cluster, separated by spaces.
    endpoints: BTreeMap<String, String>,
    listeners: usize,
    /// Version of the latest listener.
    version: String,
}

impl FollowingClient {
    /// Opens a stream and asks for the listener.
    async fn start(client: &TestClient, protocol: AdsProtocol) -> Self {
        let mut ads = AdsClient::open(client, protocol).await;
        ads.subscribe(Lds, &["web"]);
        let (listed, selected, endpoints) = Default::default();
        Self { ads, listed, selected, endpoints, listeners: 0, version: String::new() }
    }

    /// Opens a stream and takes in all that the server sends.
    async fn open(client: &TestClient, protocol: AdsProtocol) -> Self {
        let mut this = Self::start(client, protocol).await;
        this.settle().await;
        this
    }

    /// Takes in all that the server sends, until it sends nothing more.
    async fn settle(&mut self) {
        while let Ok(message) = timeout(SETTLED, self.ads.message()).await {
            self.take_in(&message.unwrap());
        }
    }

    /// Takes in a response, accepts it, and subscribes to what it leads to.
    fn take_in(&mut self, response: &AdsResponse) {
        self.ads.accept(response);
        match response.kind {
            Lds => self.take_listener(response),
            Eds => {
                for name in response.resources.keys() {
                    self.endpoints.insert(name.clone(), response.addresses(name));
                }
            }
            _ => {}
        }
    }

    fn take_listener(&mut self, response: &AdsResponse) {
        self.listeners += 1;
        self.version.clone_from(&response.version);
        let (selected, listed) = clusters(response);
        if !self.listed.is_empty() {
            for cluster in selected.difference(&self.selected) {
                assert!(self.listed.contains(cluster), "{cluster} is selected in the push that lists it first");
                assert!(self.endpoints.contains_key(cluster), "{cluster} is selected before its endpoints are there");
            }
            for cluster in &self.selected {
                assert!(listed.contains(cluster), "{cluster} leaves the list in the push that stops selecting it");
            }
        }
        let names = |set: &BTreeSet<String>, other: &BTreeSet<String>| -> Vec<String> {
            set.difference(other).cloned().collect()
        };
        let (added, removed) = (names(&listed, &self.listed), names(&self.listed, &listed));
        (self.selected, self.listed) = (selected, listed);
        for kind in [Cds, Eds] {
            let as_refs = |names: &[String]| names.to_vec();
            let (added, removed) = (as_refs(&added), as_refs(&removed));
            if !added.is_empty() {
                self.ads.subscribe(kind, &added.iter().map(String::as_str).collect::<Vec<_>>());
            }
            if !removed.is_empty() {
                self.ads.unsubscribe(kind, &removed.iter().map(String::as_str).collect::<Vec<_>>());
            }
        }
        self.endpoints.retain(|cluster, _| self.listed.contains(cluster));
    }

    /// Opens another stream with what it has, and takes in all that the server sends.
    async fn reconnect(&mut self, client: &TestClient) {
        self.ads = AdsClient::open(client, StateOfTheWorld).await;
        let clusters: Vec<_> = self.listed.iter().map(String::as_str).collect();
        for (kind, names) in [(Cds, &clusters[..]), (Eds, &clusters[..]), (Lds, &["web"][..])] {
            self.ads.resume(kind, names, &self.version, &[]);
        }
        self.settle().await;
    }

    /// Takes in responses up to the next listener, which it does not answer.
    async fn next_listener(&mut self) -> AdsResponse {
        loop {
            let response = within("a listener", self.ads.message()).await.unwrap();
            if response.kind == Lds {
                return response;
            }
            self.take_in(&response);
        }
    }

    fn selected(&self) -> Vec<&str> {
        self.selected.iter().map(String::as_str).collect()
    }

    fn listed(&self) -> Vec<&str> {
        self.listed.iter().map(String::as_str).collect()
    }
}

/// Returns the clusters that the routes of a listener select, and all that they name.
fn clusters(response: &AdsResponse) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut selected, mut listed) = (BTreeSet::new(), BTreeSet::new());
    for route in routes(response) {
        let is_warm =
            route.r#match.iter().flat_map(|matches| &matches.headers).any(|header| header.name == "x-callboard-warm");
        let names = targets(&route);
        if !is_warm {
            selected.extend(names.iter().cloned());
        }
        listed.extend(names);
    }
    (selected, listed)
}

fn routes(response: &AdsResponse) -> Vec<Route> {
    let listener = Listener::decode(&*response.resources["web"].value).unwrap();
    let manager = listener.api_listener.unwrap().api_listener.unwrap();
    let manager = HttpConnectionManager::decode(&*manager.value).unwrap();
    let Some(RouteSpecifier::RouteConfig(config)) = manager.route_specifier else { panic!("no routes") };
    config.virtual_hosts.into_iter().flat_map(|host| host.routes).collect()
}

fn targets(route: &Route) -> Vec<String> {
    let Some(Action::Route(RouteAction { cluster_specifier: Some(specifier), .. })) = &route.action else {
        panic!("{route:?}")
    };
    match specifier {
        ClusterSpecifier::Cluster(name) => vec![name.clone()],
        ClusterSpecifier::WeightedClusters(split) => {
            split.clusters.iter().map(|ClusterWeight { name, .. }| name.clone()).collect()
        }
    }
}

/// Returns a document in JSON as a message.
fn document(json: &str) -> Struct {
    fn value(json: serde_json::Value) -> Value {
        let kind = match json {
            serde_json::Value::Null => Kind::NullValue(0),
            serde_json::Value::Bool(flag) => Kind::BoolValue(flag),
            serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
            serde_json::Value::String(text) => Kind::StringValue(text),
            serde_json::Value::Array(values) => {
                Kind::ListValue(prost_types::ListValue { values: values.into_iter().map(value).collect() })
            }
            serde_json::Value::Object(fields) => Kind::StructValue(Struct {
                fields: fields.into_iter().map(|(name, field)| (name, value(field))).collect(),
            }),
        };
        Value { kind: Some(kind) }
    }
    match value(serde_json::from_str(json).unwrap()).kind {
        Some(Kind::StructValue(fields)) => fields,
        other => panic!("{other:?}"),
    }
}

async fn set_policy(client: &TestClient, service: &str, json: &str) -> u64 {
    let request = SetPolicyRequest { service: service.to_owned(), policy: Some(document(json)), ..Default::default() };
    within("SetPolicy", client.admin.clone().set_policy(request)).await.unwrap().into_inner().revision
}

async fn rollout(client: &TestClient) -> GetPolicyRolloutResponse {
    let request = GetPolicyRolloutRequest { service: "web".to_owned() };
    within("GetPolicyRollout", client.explain.clone().get_policy_rollout(request)).await.unwrap().into_inner()
}

/// Registers `web/1` with the tag `v1`, and `web/2` with the tag `v2`.
async fn with_versions() -> (InMemory, TestClient) {
    let server = InMemory::open();
    let client = server.client().await;
    for number in [1, 2] {
        let registration =
            callboard::pb::callboard::v1::RegisterRequest { tags: vec![format!("v{number}")], ..at("web", number) };
        client.register(registration).await.unwrap();
    }
    (server, client)
}

const SUBSETS: &str = r#""subsets": {"v1": "\"v1\" in tags", "v2": "\"v2\" in tags"}"#;

fn split(v1: u32, v2: u32) -> String {
    let shares: Vec<_> = [("v1", v1), ("v2", v2)]
        .iter()
        .filter(|(_, share)| *share > 0)
        .map(|(name, share)| format!("\"{name}\": {share}"))
        .collect();
    format!("{{{SUBSETS}, \"default\": {{{}}}}}", shares.join(", "))
}

#[tokio::test(start_paused = true)]
async fn change_of_a_policy_is_made_in_steps() {
    for protocol in BOTH {
        let (_server, client) = with_versions().await;
        let mut web = FollowingClient::open(&client, protocol).await;
        assert_eq!(web.selected(), ["web"]);
        let revision = set_policy(&client, "web", &split(90, 10)).await;
        assert_eq!(rollout(&client).await.synced, 0);
        web.settle().await;
        assert_eq!(
            (web.selected(), web.listed()),
            (vec!["web|v1", "web|v2"], vec!["web|v1", "web|v2"]),
            "{protocol:?}"
        );
        assert_eq!(web.endpoints["web|v1"].split(' ').next(), Some("10.0.0.1:80"));
        let rollout = rollout(&client).await;
        assert_eq!((rollout.revision, rollout.streams, rollout.synced), (revision, 1, 1), "{rollout:?}");

        let before = web.listeners;
        set_policy(&client, "web", &split(0, 100)).await;
        web.settle().await;
        assert_eq!((web.selected(), web.listed()), (vec!["web|v2"], vec!["web|v1", "web|v2"]), "subsets stay warm");
        assert_eq!(web.listeners - before, 1, "a shift is one push");

        set_policy(&client, "web", "{}").await;
        web.settle().await;
        assert_eq!((web.selected(), web.listed()), (vec!["web"], vec!["web"]));
    }
}

#[tokio::test(start_paused = true)]
async fn policy_that_is_set_a_hundred_times_reaches_the_client_as_the_last_one() {
    for protocol in BOTH {
        let (_server, client) = with_versions().await;
        let mut web = FollowingClient::open(&client, protocol).await;
        for round in 0..100 {
            let json = match round % 3 {
                0 => split(50, 50),
                1 => "{}".to_owned(),
                _ => split(1, 99),
            };
            set_policy(&client, "web", &json).await;
            if round % 7 == 0 {
                // The client takes in what is there and is soon behind again.
                if let Ok(message) = timeout(Duration::from_millis(1), web.ads.message()).await {
                    web.take_in(&message.unwrap());
                }
            }
        }
        set_policy(&client, "web", &split(30, 70)).await;
        web.settle().await;
        let state = rollout(&client).await;
        assert_eq!(web.selected(), ["web|v1", "web|v2"], "{protocol:?} {state:?}");
        assert!(web.listeners < 40, "{} listeners for 101 policies", web.listeners);
        let rollout = rollout(&client).await;
        assert_eq!((rollout.streams, rollout.synced), (1, 1), "{rollout:?}");
    }
}

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
async fn client_that_answers_nothing_delays_no_other() {
    let (_server, client) = with_versions().await;
    let mut stalled = FollowingClient::open(&client, Delta).await;
    let mut web = FollowingClient::open(&client, StateOfTheWorld).await;
    set_policy(&client, "web", &split(10, 90)).await;
    web.settle().await;
    assert_eq!(web.selected(), ["web|v1", "web|v2"]);
    let state = rollout(&client).await;
    assert_eq!((state.streams, state.synced, state.unsynced.len()), (2, 1, 1), "{state:?}");
    stalled.settle().await;
    assert_eq!(rollout(&client).await.synced, 2);
}

#[tokio::test(start_paused = true)]
async fn instances_of_the_fallback_take_the_calls_of_an_empty_service() {
    for protocol in BOTH {
        let server = InMemory::open();
        let client = server.client().await;
        register(&client, "web", 1).await;
        register(&client, "web-dr", 7).await;
        set_policy(&client, "web", r#"{"fallback": ["web-dr"]}"#).await;
        let mut web = FollowingClient::open(&client, protocol).await;
        assert_eq!(web.endpoints["web"], "10.0.0.1:80 10.0.0.7:80");
        deregister(&client, "web", 1).await;
        web.settle().await;
        assert_eq!(web.endpoints["web"], "10.0.0.7:80");
        register(&client, "web-dr", 8).await;
        web.settle().await;
        assert_eq!(web.endpoints["web"], "10.0.0.7:80 10.0.0.8:80", "a change of the fallback wakes the stream");
        set_policy(&client, "web", "{}").await;
        web.settle().await;
        assert_eq!(web.endpoints["web"], "");
    }
}

#[tokio::test(start_paused = true)]
async fn defaults_hold_for_services_without_a_policy() {
    let (_server, client) = with_versions().await;
    let mut web = FollowingClient::open(&client, Delta).await;
    let before = web.listeners;
    set_policy(&client, "", r#"{"timeout": "5s"}"#).await;
    web.settle().await;
    assert_eq!((web.listeners - before, web.selected()), (1, vec!["web"]));
    set_policy(&client, "other", r#"{"timeout": "7s"}"#).await;
    web.settle().await;
    assert_eq!(web.listeners - before, 1, "the policy of another service");
}

/// Changes while no stream is open are made in steps, too: the version of its resources tells which policy a client has.
#[tokio::test(start_paused = true)]
async fn policy_that_changed_between_two_streams_is_changed_in_steps() {
    let (_server, client) = with_versions().await;
    let mut web = FollowingClient::open(&client, StateOfTheWorld).await;
    set_policy(&client, "web", &split(90, 10)).await;
    web.reconnect(&client).await;
    assert_eq!((web.selected(), web.listed()), (vec!["web|v1", "web|v2"], vec!["web|v1", "web|v2"]));

    set_policy(&client, "web", "{}").await;
    web.reconnect(&client).await;
    assert_eq!((web.selected(), web.listed()), (vec!["web"], vec!["web"]));
    assert_eq!(rollout(&client).await.synced, 1);
}

#[tokio::test(start_paused = true)]
async fn policy_that_is_set_before_the_endpoints_are_requested_reaches_the_client() {
    for protocol in BOTH {
        let (_server, client) = with_versions().await;
        let mut web = FollowingClient::start(&client, protocol).await;
        let listener = web.next_listener().await;
        set_policy(&client, "web", &split(90, 10)).await;
        web.take_in(&listener);
        web.settle().await;
        assert_eq!(web.selected(), ["web|v1", "web|v2"], "{protocol:?}");
        assert_eq!(rollout(&client).await.synced, 1);
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
