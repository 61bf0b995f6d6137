//! Client that follows its listener to clusters and their endpoints, as gRPC does.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use callboard::pb::{
    callboard::v1::{GetPolicyRolloutRequest, GetPolicyRolloutResponse, RegisterRequest, SetPolicyRequest},
    envoy::{
        config::{
            core::v3::{Node, node::UserAgentVersionType},
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
    ads_client::{AdsClient, AdsProtocol, AdsResponse, AdsType, Cds, Eds, Lds},
    at,
};
use crate::harness::{InMemory, TestClient, within};

/// Time without a message after which a change of a policy is over: longer than a step takes.
pub const SETTLED: Duration = Duration::from_secs(3);

/// Client that follows its listener to clusters and their endpoints, as gRPC does.
pub struct FollowingClient {
    pub ads: AdsClient,
    listed: BTreeSet<String>,
    selected: BTreeSet<String>,
    /// Addresses of each cluster, separated by spaces.
    pub endpoints: BTreeMap<String, String>,
    /// Number of listeners.
    pub listeners: usize,
    /// Version of the latest listener.
    version: String,
    /// Versions of all resources, in the delta protocol.
    versions: HashMap<AdsType, HashMap<String, String>>,
    protocol: AdsProtocol,
    node: Option<Node>,
}

impl FollowingClient {
    /// Opens a stream and asks for the listener.
    pub async fn start(client: &TestClient, protocol: AdsProtocol) -> Self {
        Self::begin(AdsClient::open(client, protocol).await, protocol, None)
    }

    /// Opens a stream of a node and takes in all that the server sends.
    pub async fn open_node(client: &TestClient, protocol: AdsProtocol, node: Node) -> Self {
        let mut this = Self::begin(AdsClient::open_node(client, protocol, node.clone()).await, protocol, Some(node));
        this.settle().await;
        this
    }

    /// Opens a stream that has asked for nothing yet.
    pub async fn silent(client: &TestClient, protocol: AdsProtocol) -> Self {
        let ads = AdsClient::open(client, protocol).await;
        Self::of(ads, protocol, None)
    }

    /// Version of the latest listener.
    pub fn version(&self) -> &str {
        &self.version
    }

    fn begin(mut ads: AdsClient, protocol: AdsProtocol, node: Option<Node>) -> Self {
        ads.subscribe(Lds, &["web"]);
        Self::of(ads, protocol, node)
    }

    fn of(ads: AdsClient, protocol: AdsProtocol, node: Option<Node>) -> Self {
        let (listed, selected, endpoints, versions) = Default::default();
        Self { ads, listed, selected, endpoints, listeners: 0, version: String::new(), versions, protocol, node }
    }

    /// Opens a stream and takes in all that the server sends.
    pub async fn open(client: &TestClient, protocol: AdsProtocol) -> Self {
        let mut this = Self::start(client, protocol).await;
        this.settle().await;
        this
    }

    /// Takes in all that the server sends, until it sends nothing more.
    pub async fn settle(&mut self) {
        while let Ok(message) = timeout(SETTLED, self.ads.message()).await {
            self.take_in(&message.unwrap());
        }
    }

    /// Takes in a response, accepts it, and subscribes to what it leads to.
    pub fn take_in(&mut self, response: &AdsResponse) {
        self.ads.accept(response);
        self.versions.entry(response.kind).or_default().extend(response.versions.clone());
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
    pub async fn reconnect(&mut self, client: &TestClient) {
        self.ads = match &self.node {
            Some(node) => AdsClient::open_node(client, self.protocol, node.clone()).await,
            None => AdsClient::open(client, self.protocol).await,
        };
        let clusters: Vec<_> = self.listed.iter().map(String::as_str).collect();
        for (kind, names) in [(Cds, &clusters[..]), (Eds, &clusters[..]), (Lds, &["web"][..])] {
            let known = self.versions.get(&kind).into_iter().flatten();
            let known = known.map(|(name, version)| (name.as_str(), version.as_str()));
            let versions: Vec<_> = known.filter(|(name, _)| names.contains(name)).collect();
            self.ads.resume(kind, names, &self.version, &versions);
        }
        self.settle().await;
    }

    /// Takes in responses up to the next listener, which it does not answer.
    pub async fn next_listener(&mut self) -> AdsResponse {
        loop {
            let response = within("a listener", self.ads.message()).await.unwrap();
            if response.kind == Lds {
                return response;
            }
            self.take_in(&response);
        }
    }

    pub fn selected(&self) -> Vec<&str> {
        self.selected.iter().map(String::as_str).collect()
    }

    pub fn listed(&self) -> Vec<&str> {
        self.listed.iter().map(String::as_str).collect()
    }
}

/// Returns the clusters that the routes of a listener select, and all that they name.
pub fn clusters(response: &AdsResponse) -> (BTreeSet<String>, BTreeSet<String>) {
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

pub async fn set_policy(client: &TestClient, service: &str, json: &str) -> u64 {
    let request = SetPolicyRequest { service: service.to_owned(), policy: Some(document(json)), ..Default::default() };
    within("SetPolicy", client.admin.clone().set_policy(request)).await.unwrap().into_inner().revision
}

pub async fn rollout(client: &TestClient) -> GetPolicyRolloutResponse {
    let request = GetPolicyRolloutRequest { service: "web".to_owned() };
    within("GetPolicyRollout", client.explain.clone().get_policy_rollout(request)).await.unwrap().into_inner()
}

/// Registers `web/1` with the tag `v1`, and `web/2` with the tag `v2`.
pub async fn with_versions() -> (InMemory, TestClient) {
    let server = InMemory::open();
    let client = server.client().await;
    for number in [1, 2] {
        let registration = RegisterRequest { tags: vec![format!("v{number}")], ..at("web", number) };
        client.register(registration).await.unwrap();
    }
    (server, client)
}

/// Returns the node of a client that cannot use a cluster again that left its list.
pub fn tonic_node() -> Node {
    Node {
        user_agent_name: "gRPC Rust tonic-xds".to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion("0.1.0-alpha.4".to_owned())),
        ..Node::default()
    }
}

pub const SUBSETS: &str = r#""subsets": {"v1": "\"v1\" in tags", "v2": "\"v2\" in tags"}"#;

pub fn split(v1: u32, v2: u32) -> String {
    let shares: Vec<_> = [("v1", v1), ("v2", v2)]
        .iter()
        .filter(|(_, share)| *share > 0)
        .map(|(name, share)| format!("\"{name}\": {share}"))
        .collect();
    format!("{{{SUBSETS}, \"default\": {{{}}}}}", shares.join(", "))
}
