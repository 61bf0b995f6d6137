//! xDS streams for operators: `callboard clients`, `callboard xds explain`, CSDS and metrics.

mod limitations;
mod policy;

use callboard::pb::{
    callboard::v1::{
        Address, ExplainRequest, ExplainResponse, Locality, OmissionReason, RegisterRequest, XdsOutcome, XdsState,
        xds_service_client::XdsServiceClient,
    },
    envoy::{
        config::core::v3::{Node, node::UserAgentVersionType},
        service::{
            discovery::v3::{
                DiscoveryRequest, DiscoveryResponse,
                aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
            },
            status::v3::{
                ClientStatusRequest, ConfigStatus,
                client_status_discovery_service_client::ClientStatusDiscoveryServiceClient,
            },
        },
    },
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::HealthCheckRequest;
use tonic_types::StatusExt;

use crate::harness::{Child, Ended, ServerProcess, TestClient, TestServer, instance, metric_becomes, seconds, within};

const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ASSIGNMENT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

/// State-of-the-world stream of a client.
struct XdsClient {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl XdsClient {
    /// Opens a stream, and subscribes to the resources of a service as a gRPC client does, without accepting any response.
    async fn subscribe(address: &str, node: &str, service: &str) -> (Self, Vec<DiscoveryResponse>) {
        Self::subscribe_with(address, node, ("gRPC Test", "1.0"), service).await
    }

    /// Subscribes as a client with this library and version does.
    async fn subscribe_with(
        address: &str,
        node: &str,
        (library, version): (&str, &str),
        service: &str,
    ) -> (Self, Vec<DiscoveryResponse>) {
        let (requests, outgoing) = mpsc::channel(8);
        let mut opening = AggregatedDiscoveryServiceClient::new(channel(address).await);
        let responses = within("the stream", opening.stream_aggregated_resources(ReceiverStream::new(outgoing))).await;
        let mut client = Self { requests, responses: responses.unwrap().into_inner() };
        let mut first = Vec::new();
        for kind in [LISTENER, CLUSTER, ASSIGNMENT] {
            let node = first.is_empty().then(|| Node {
                id: node.to_owned(),
                user_agent_name: library.to_owned(),
                user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(version.to_owned())),
                ..Node::default()
            });
            let names = vec![service.to_owned()];
            let request = DiscoveryRequest {
                node,
                type_url: kind.to_owned(),
                resource_names: names,
                ..DiscoveryRequest::default()
            };
            client.requests.send(request).await.unwrap();
            first.push(client.response().await);
        }
        (client, first)
    }

    async fn response(&mut self) -> DiscoveryResponse {
        within("a response", self.responses.message()).await.unwrap().unwrap()
    }

    /// Answers a response: accepts it, or rejects it with an error.
    async fn answer(&self, response: &DiscoveryResponse, service: &str, error: Option<&str>) {
        let error_detail = error.map(|message| tonic_types::Status {
            code: Code::InvalidArgument.into(),
            message: message.to_owned(),
            ..tonic_types::Status::default()
        });
        let request = DiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            version_info: response.version_info.clone(),
            resource_names: vec![service.to_owned()],
            error_detail,
            ..DiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }
}

async fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    within("a connection", endpoint.connect()).await.unwrap()
}

async fn explain(server: &TestServer, request: ExplainRequest) -> Result<ExplainResponse, Status> {
    let mut client = XdsServiceClient::new(channel(&server.grpc().to_string()).await);
    within("Explain", client.explain(request)).await.map(tonic::Response::into_inner)
}

fn target(target: &str) -> ExplainRequest {
    ExplainRequest { target: target.to_owned(), ..ExplainRequest::default() }
}

/// Instance of `web` at this address, with a lease that outlives the test.
fn web(id: &str, host: &str, weight: u32) -> RegisterRequest {
    let addresses = vec![Address { host: host.to_owned(), port: 80, name: String::new() }];
    RegisterRequest { addresses, weight: Some(weight), ttl: seconds(600.0), ..instance("web", id) }
}

/// Registers instances in two localities, and some that clients cannot use.
async fn register(client: &TestClient) {
    let zone = |zone: &str| Some(Locality { region: "eu".to_owned(), zone: zone.to_owned(), sub_zone: String::new() });
    for request in [
        RegisterRequest { locality: zone("a"), ..web("one", "10.0.0.1", 1) },
        RegisterRequest { locality: zone("b"), ..web("three", "10.0.0.3", 3) },
        web("host", "web.internal", 1),
        web("old", "10.0.0.9", 1),
        web("successor", "10.0.0.9", 1),
        RegisterRequest { starting: true, ..web("new", "10.0.0.4", 1) },
    ] {
        client.register(request).await.unwrap();
    }
}

async fn run(serve: &ServerProcess, arguments: &[&str]) -> Ended {
    Child::run(&[arguments, &["--server", &serve.address()]].concat()).await
}

/// Runs a command until its output is as wanted, because a client's answer takes effect after it was sent.
async fn run_until(serve: &ServerProcess, arguments: &[&str], wanted: impl Fn(&str) -> bool) -> String {
    within("the output", async {
        loop {
            let ended = run(serve, arguments).await;
            if wanted(&ended.stdout) {
                return ended.stdout;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_lists_xds_streams_with_their_states() {
    let serve = ServerProcess::start(&["--settle", "0"]).await;
    register(&serve.client().await).await;
    let (client, first) = XdsClient::subscribe(&serve.address(), "n1", "web").await;
    let stale = run_until(&serve, &["clients"], |out| out.contains("EDS STALE since 20")).await;
    assert!(stale.contains("LDS 1, CDS 1, EDS 1"), "{stale}");
    for response in &first[..2] {
        client.answer(response, "web", None).await;
    }
    let error = "endpoint 10.0.0.1:80: ".repeat(10);
    client.answer(&first[2], "web", Some(&error)).await;
    let table = run_until(&serve, &["clients"], |out| out.contains("EDS NACKED: endpoint")).await;
    assert!(!table.contains("LDS STALE") && !table.contains(&error), "the error is cut: {table}");
    let wide = run(&serve, &["clients", "-o", "wide"]).await.stdout;
    assert!(wide.contains(error.trim_end()) && wide.contains("gRPC Test 1.0") && wide.contains("n1"), "{wide}");
    let json: Value = serde_json::from_str(&run(&serve, &["clients", "-o", "json"]).await.stdout).unwrap();
    let stream = &json[0]["xds"];
    assert_eq!((&json[0]["protocol"], &json[0]["services"]), (&"xds".into(), &serde_json::json!(["web"])));
    assert_eq!(
        (&stream["node_id"], &stream["agent"], &stream["delta"]),
        (&"n1".into(), &"gRPC Test 1.0".into(), &false.into())
    );
    let states: Vec<_> =
        stream["subscriptions"].as_array().unwrap().iter().map(|of| (&of["type"], &of["state"])).collect();
    let expected =
        [("LDS", "SYNCED"), ("CDS", "SYNCED"), ("EDS", "NACKED")].map(|(kind, state)| (kind.into(), state.into()));
    assert!(states.iter().copied().eq(expected.iter().map(|(kind, state)| (kind, state))), "{states:?}");
    assert_eq!(stream["subscriptions"][2]["error"], error.as_str());
    assert_eq!(run(&serve, &["clients", "--service", "other", "-o", "json"]).await.stdout.trim(), "[]");
    drop(client);
    run_until(&serve, &["clients", "-o", "json"], |out| out.trim() == "[]").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_shows_resources_endpoints_omissions_and_streams() {
    let server = TestServer::open();
    register(&server.client().await).await;
    let (client, first) = XdsClient::subscribe(&server.grpc().to_string(), "n1", "web").await;
    client.answer(&first[2], "web", Some("not today")).await;
    let nacked = |answer: &ExplainResponse| answer.streams[0].subscriptions[1].state() == XdsState::Nacked;
    let answer = within("the rejection", async {
        loop {
            let answer = explain(&server, target("xds:///web:50051")).await.unwrap();
            if nacked(&answer) {
                return answer;
            }
        }
    })
    .await;
    assert_eq!((&*answer.listener, &*answer.service), ("web:50051", "web"));
    assert_eq!((answer.outcome(), answer.instances, answer.routable), (XdsOutcome::Routable, 6, 3));
    let resources: Vec<_> = answer.resources.iter().map(|resource| (&*resource.r#type, &*resource.name)).collect();
    assert_eq!(resources, [("LDS", "web:50051"), ("RDS", "web"), ("CDS", "web"), ("EDS", "web")]);
    let assignment = &first[2].resources[0];
    assert_eq!(answer.resources[3].type_url, assignment.type_url);
    assert!(answer.resources.iter().all(|resource| resource.version.len() == 33 && resource.bytes > 0), "{answer:?}");
    let localities: Vec<_> = answer
        .localities
        .iter()
        .map(|locality| {
            (format!("{}/{}/{}", locality.region, locality.zone, locality.sub_zone), locality.percent.round())
        })
        .collect();
    let expected = [("//", 20.0), ("eu/a/", 20.0), ("eu/b/~w3", 60.0)];
    assert_eq!(localities, expected.map(|(name, percent)| (name.to_owned(), percent)));
    let omitted: Vec<_> = answer.omitted.iter().map(|omitted| (&*omitted.instance_id, omitted.reason())).collect();
    let expected =
        [("host", OmissionReason::HostName), ("new", OmissionReason::Starting), ("old", OmissionReason::SameAddress)];
    assert_eq!(omitted, expected);
    assert_eq!((answer.streams.len(), answer.stream_count), (1, 1));
    let stream = &answer.streams[0];
    assert_eq!((&*stream.node_id, &*stream.agent), ("n1", "gRPC Test 1.0"));
    // The stream has subscribed to the listener `web`, not to `web:50051`.
    let kinds: Vec<_> = stream.subscriptions.iter().map(|subscription| &*subscription.r#type).collect();
    assert_eq!(kinds, ["CDS", "EDS"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explanation_has_pages_and_rejects_a_foreign_token() {
    let server = TestServer::open();
    let client = server.client().await;
    register(&client).await;
    let (mut ids, mut request) = (Vec::new(), ExplainRequest { page_size: 2, ..target("web") });
    loop {
        let page = explain(&server, request.clone()).await.unwrap();
        // The clusters are not explained again for each page.
        let is_first = request.page_token.is_empty();
        let clusters = if is_first { (XdsOutcome::Routable, 3, 4) } else { (XdsOutcome::Unspecified, 0, 0) };
        assert_eq!((page.outcome(), page.routable, page.resources.len()), clusters);
        let endpoints = page.localities.iter().flat_map(|locality| &locality.endpoints);
        let found = endpoints.map(|endpoint| endpoint.instance_id.clone());
        ids.extend(found.chain(page.omitted.iter().map(|omitted| omitted.instance_id.clone())));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    ids.sort_unstable();
    assert_eq!(ids, ["host", "new", "old", "one", "successor", "three"]);
    let status = explain(&server, ExplainRequest { page_token: "\n".to_owned(), ..target("web") }).await.unwrap_err();
    let details = status.get_error_details();
    assert_eq!((status.code(), &*details.error_info().unwrap().reason), (Code::InvalidArgument, "INVALID_FIELD"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn command_explains_a_service_and_says_why_calls_fail() {
    let serve = ServerProcess::start(&["--settle", "0"]).await;
    register(&serve.client().await).await;
    let explained = run(&serve, &["xds", "explain", "xds:///web"]).await;
    assert_eq!(explained.code(), Some(0), "{}", explained.stderr);
    for part in [
        "Service   web",
        "go to 3 of 6 instances",
        "eu/b/~w3",
        "60.0%",
        "10.0.0.3:80",
        "web.internal",
        "callboard deregister web/old",
    ] {
        assert!(explained.stdout.contains(part), "{part}: {}", explained.stdout);
    }
    for (name, outcome, part) in [
        ("nothing", "NOT_REGISTERED", "no instance is registered"),
        ("a b", "INVALID_NAME", "a b"),
        ("xds://eu/web", "INVALID_NAME", "dial xds:///web"),
    ] {
        let text = run(&serve, &["xds", "explain", name]).await;
        assert_eq!(text.code(), Some(6), "{name}: {}", text.stderr);
        assert!(text.stdout.contains("fail with UNAVAILABLE at once") && text.stdout.contains(part), "{}", text.stdout);
        let json: Value =
            serde_json::from_str(&run(&serve, &["xds", "explain", name, "-o", "json"]).await.stdout).unwrap();
        assert_eq!(json["outcome"], outcome, "{json}");
    }
    assert_eq!(run(&serve, &["xds", "explain", "web", "-o", "name"]).await.stdout, "web\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_and_client_status_follow_a_stream() {
    let server = TestServer::open();
    let client = server.client().await;
    client.register(web("one", "10.0.0.1", 1)).await.unwrap();
    let (mut stream, first) = XdsClient::subscribe(&server.grpc().to_string(), "n1", "web").await;
    let http = server.http();
    metric_becomes(http, "callboard_xds_streams", |streams| streams >= 1.0).await;
    for kind in ["LDS", "CDS", "EDS"] {
        let name = format!("callboard_xds_responses_total{{type=\"{kind}\"}}");
        metric_becomes(http, &name, |responses| responses >= 1.0).await;
    }
    stream.answer(&first[2], "web", Some("not today")).await;
    metric_becomes(http, "callboard_xds_rejections_total{type=\"EDS\"}", |rejections| rejections >= 1.0).await;
    let mut status = ClientStatusDiscoveryServiceClient::new(channel(&server.grpc().to_string()).await);
    let answer = within("FetchClientStatus", status.fetch_client_status(ClientStatusRequest::default())).await;
    let config = answer.unwrap().into_inner().config.remove(0);
    assert_eq!(config.node.unwrap().id, "n1");
    let found: Vec<_> = config.generic_xds_configs.iter().map(|of| (&*of.type_url, of.config_status())).collect();
    let stale = ConfigStatus::Stale;
    assert_eq!(found, [(CLUSTER, stale), (ASSIGNMENT, ConfigStatus::Error), (LISTENER, stale)]);
    assert_eq!(config.generic_xds_configs[1].error_state.as_ref().unwrap().details, "not today");
    // A change is sent although the client rejected the endpoints before.
    client.register(web("two", "10.0.0.2", 1)).await.unwrap();
    let changed = stream.response().await;
    assert_eq!(changed.type_url, ASSIGNMENT);
    stream.answer(&changed, "web", None).await;
    drop(stream);
    metric_becomes(http, "callboard_xds_streams", |streams| streams < 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_knows_the_services_of_xds() {
    let server = TestServer::open();
    let client = server.client().await;
    for service in [
        "callboard.v1.XdsService",
        "envoy.service.discovery.v3.AggregatedDiscoveryService",
        "envoy.service.load_stats.v3.LoadReportingService",
        "envoy.service.status.v3.ClientStatusDiscoveryService",
    ] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = within("Health/Check", client.health.clone().check(request)).await.unwrap();
        assert_eq!(answer.into_inner().status, 1, "{service} serves");
    }
}
