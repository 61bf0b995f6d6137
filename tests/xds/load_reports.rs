//! Load reporting service: the conversation with a client, the use of its reports, and limits.

use std::time::Duration;

use callboard::pb::{
    callboard::v1::{DemandSource, ExplainRequest, ExplainedZones, Locality as InstanceLocality, RegisterRequest},
    envoy::{
        config::{
            core::v3::{Locality, Node, node::UserAgentVersionType},
            endpoint::v3::{ClusterStats, UpstreamLocalityStats},
        },
        service::load_stats::v3::{
            LoadStatsRequest, LoadStatsResponse, load_reporting_service_client::LoadReportingServiceClient,
        },
    },
};
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use super::{
    ads_client::{AdsClient, Eds, StateOfTheWorld},
    at,
    following_client::set_policy,
    register,
};
use crate::harness::{
    InMemory, PREFACE, Raw, ServerProcess, TestClient,
    wire::{DATA, END_HEADERS, HEADERS, call_headers, put},
    within,
};

const PATH: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";
/// Interval that the server asks for.
const INTERVAL: Duration = Duration::from_secs(10);

/// Client of one stream of load reports.
#[derive(Debug)]
struct LoadClient {
    requests: UnboundedSender<LoadStatsRequest>,
    responses: Streaming<LoadStatsResponse>,
}

/// A node of grpc-go in this zone.
fn node(zone: &str) -> Node {
    Node {
        id: format!("node in {zone}"),
        locality: Some(Locality { region: "r".to_owned(), zone: zone.to_owned(), sub_zone: String::new() }),
        user_agent_name: "gRPC Go".to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion("1.85.0".to_owned())),
        ..Node::default()
    }
}

fn locality(sub_zone: &str, [issued, successful, failed]: [u64; 3]) -> UpstreamLocalityStats {
    UpstreamLocalityStats {
        locality: Some(Locality { region: "r".to_owned(), zone: "z1".to_owned(), sub_zone: sub_zone.to_owned() }),
        total_issued_requests: issued,
        total_successful_requests: successful,
        total_error_requests: failed,
        total_requests_in_progress: 0,
    }
}

impl LoadClient {
    /// Opens a stream without a request.
    async fn connect(client: &TestClient) -> Self {
        let (requests, receiver) = unbounded_channel();
        let mut service = LoadReportingServiceClient::new(client.channel.clone());
        let stream = service.stream_load_stats(UnboundedReceiverStream::new(receiver));
        Self { requests, responses: within("the stream", stream).await.unwrap().into_inner() }
    }

    /// Opens a stream, sends the node and reads what the server asks for.
    async fn open(client: &TestClient, zone: &str) -> Self {
        let mut this = Self::connect(client).await;
        this.send(LoadStatsRequest { node: Some(node(zone)), cluster_stats: Vec::new() });
        let settings = within("the response", this.responses.message()).await.unwrap().unwrap();
        let interval = settings.load_reporting_interval.unwrap();
        assert_eq!(Duration::try_from(interval).unwrap(), INTERVAL);
        assert!(settings.send_all_clusters && !settings.report_endpoint_granularity, "{settings:?}");
        this
    }

    fn send(&self, request: LoadStatsRequest) {
        // A stream that the server has ended is noticed when it is read.
        let _ended = self.requests.send(request);
    }

    /// Reports the calls to a cluster in the last interval.
    fn report(&self, cluster: &str, localities: Vec<UpstreamLocalityStats>) {
        let stats = ClusterStats {
            cluster_name: cluster.to_owned(),
            upstream_locality_stats: localities,
            load_report_interval: Some(INTERVAL.try_into().unwrap()),
        };
        self.send(LoadStatsRequest { node: None, cluster_stats: vec![stats] });
    }

    async fn ended(&mut self) -> Status {
        within("the end", self.responses.message()).await.unwrap_err()
    }
}

/// Registers `web/NUMBER` in this zone.
async fn register_in(client: &TestClient, zone: &str, number: u8) {
    let locality = InstanceLocality { region: "r".to_owned(), zone: zone.to_owned(), sub_zone: String::new() };
    client.register(RegisterRequest { locality: Some(locality), ..at("web", number) }).await.unwrap();
}

async fn explained_zones(client: &TestClient, zone: &str) -> ExplainedZones {
    let request = ExplainRequest { target: "web".to_owned(), zone: format!("r/{zone}"), ..ExplainRequest::default() };
    let answer = within("Explain", client.explain.clone().explain(request)).await.unwrap().into_inner();
    answer.zones.unwrap()
}

/// Returns the weights of the zones in an assignment of `web`, as far as they are in the first priority: `z1 4`.
fn zone_weights(localities: &[String]) -> Vec<String> {
    let first = localities.iter().filter(|line| !line.contains(" P1"));
    let weight = |line: &String| {
        let (place, rest) = line.split_once(' ').unwrap();
        format!("{} {}", place.split('/').nth(1).unwrap(), rest.split_once(':').unwrap().0)
    };
    first.map(weight).collect()
}

#[tokio::test(start_paused = true)]
async fn requests_decide_the_shares_of_zones_while_clients_report_them() {
    let server = InMemory::open();
    let client = server.client().await;
    for number in 0..8 {
        register_in(&client, if number < 4 { "z1" } else { "z2" }, number).await;
    }
    set_policy(&client, "web", r#"{"zone": "prefer"}"#).await;
    let mut streams = Vec::new();
    for zone in ["z1", "z2"] {
        for _ in 0..5 {
            let mut ads = AdsClient::open_node(&client, StateOfTheWorld, node(zone)).await;
            ads.subscribe(Eds, &["web"]);
            let localities = ads.accepted(Eds).await.localities("web");
            assert_eq!(zone_weights(&localities), [format!("{zone} 4")]);
            streams.push(ads);
        }
    }
    let explained = explained_zones(&client, "z1").await;
    assert_eq!((explained.demand_source(), explained.zones[0].demand), (DemandSource::Streams, Some(0.5)));

    let (many, few) = (LoadClient::open(&client, "z1").await, LoadClient::open(&client, "z2").await);
    let mut reports = std::pin::pin!(async {
        loop {
            many.report("web", vec![locality("", [3_000, 2_990, 10])]);
            few.report("web", vec![locality("", [1_000, 1_000, 0])]);
            sleep(INTERVAL).await;
        }
    });
    tokio::select! {
        () = &mut reports => {}
        response = streams[0].accepted(Eds) => {
            assert_eq!(zone_weights(&response.localities("web")), ["z1 6667000", "z2 3333000"]);
        }
    }
    let explained = explained_zones(&client, "z1").await;
    assert_eq!(explained.demand_source(), DemandSource::Requests);
    let rates: Vec<_> = explained.zones.iter().map(|zone| zone.requests_per_second.unwrap().round()).collect();
    assert_eq!(rates, [300.0, 100.0]);

    // A client that does not report may make any number of requests, so the numbers of streams count again.
    for number in 0..2 {
        let mut envoy = node("z2");
        (envoy.id, envoy.user_agent_name) = (format!("envoy {number}"), "envoy".to_owned());
        let mut ads = AdsClient::open_node(&client, StateOfTheWorld, envoy).await;
        ads.subscribe(Eds, &["web"]);
        ads.accepted(Eds).await;
        streams.push(ads);
    }
    tokio::select! {
        () = &mut reports => {}
        () = sleep(Duration::from_secs(32)) => {}
    }
    assert_eq!(explained_zones(&client, "z1").await.demand_source(), DemandSource::Streams);
}

#[tokio::test(start_paused = true)]
async fn errors_of_one_instance_reduce_its_weight() {
    let server = InMemory::open();
    let client = server.client().await;
    for number in 0..3 {
        register(&client, "web", number).await;
    }
    set_policy(&client, "web", r#"{"weights": "response_time"}"#).await;
    let mut ads = AdsClient::open_node(&client, StateOfTheWorld, node("z1")).await;
    ads.subscribe(Eds, &["web"]);
    let places = |localities: Vec<String>| -> Vec<(String, u32)> {
        let parsed = localities.iter().map(|line| {
            let (place, weight) = line.split_once(':').unwrap().0.rsplit_once(' ').unwrap();
            (place.rsplit('/').next().unwrap().to_owned(), weight.parse().unwrap())
        });
        parsed.collect()
    };
    let before = places(ads.accepted(Eds).await.localities("web"));
    let load = LoadClient::open(&client, "z1").await;
    let reports = async {
        loop {
            let calls = |(at, (sub_zone, _)): (usize, &(String, u32))| {
                locality(sub_zone, if at == 1 { [100, 40, 60] } else { [100, 100, 0] })
            };
            load.report("web", before.iter().enumerate().map(calls).collect());
            sleep(INTERVAL).await;
        }
    };
    let after = tokio::select! {
        () = reports => unreachable!("it never ends"),
        response = ads.accepted(Eds) => places(response.localities("web")),
    };
    let (names, weights): (Vec<_>, Vec<_>) = after.into_iter().unzip();
    assert_eq!(names, before.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), "no client connects anew");
    assert!(weights[0] == 100 && weights[2] == 100 && (50..=80).contains(&weights[1]), "{weights:?}");
}

#[tokio::test(start_paused = true)]
async fn reports_are_counted_by_library() {
    let server = InMemory::open();
    let client = server.client().await;
    let load = LoadClient::open(&client, "z1").await;
    let metrics = &server.shared().metrics.xds;
    assert_eq!(metrics.load_report_streams.get(), 1);
    load.report("unknown", vec![locality("", [7, 5, 1]), locality("x", [3, 0, 0])]);
    within("the report", async {
        while metrics.load_reports.get() < 1 {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!((metrics.reported_requests("go").get(), metrics.reported_requests("java").get()), (10, 0));
    drop(load);
    within("the end", async {
        while server.stream_count() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(metrics.load_report_streams.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn too_many_reports_and_too_large_ones_end_the_stream() {
    let server = InMemory::open();
    let client = server.client().await;
    let mut fast = LoadClient::open(&client, "z1").await;
    for _ in 0..12 {
        fast.report("web", Vec::new());
    }
    let status = fast.ended().await;
    assert_eq!((status.code(), reason(&status)), (Code::ResourceExhausted, "TOO_MANY_LOAD_REPORTS".to_owned()));

    let mut wide = LoadClient::open(&client, "z1").await;
    wide.report("web", vec![UpstreamLocalityStats::default(); 50_000]);
    assert_eq!(reason(&wide.ended().await), "TOO_MANY_LOAD_REPORTS");
    let mut large = LoadClient::open(&client, "z1").await;
    large.report(&"x".repeat(5 * 1024 * 1024), Vec::new());
    assert_eq!(reason(&large.ended().await), "MESSAGE_TOO_LARGE");
    assert_eq!(server.stream_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn stream_without_a_request_ends_after_a_minute_and_one_without_reports_does_not() {
    let server = InMemory::open();
    let client = server.client().await;
    let mut silent = LoadClient::connect(&client).await;
    let mut idle = LoadClient::open(&client, "z1").await;
    let start = server.now();
    let status = silent.responses.message().await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::DeadlineExceeded, "STREAM_TIMEOUT".to_owned()));
    assert!((60_000..61_000).contains(&(server.now() - start)), "{}", server.now() - start);
    // C-core sends nothing while it makes no calls.
    assert!(timeout(Duration::from_hours(1), idle.responses.message()).await.is_err());
    drop(idle.requests);
    assert!(within("the end", idle.responses.message()).await.unwrap().is_none(), "the client has ended its half");
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_the_stream_with_a_status() {
    let server = InMemory::open();
    let client = server.client().await;
    let mut load = LoadClient::open(&client, "z1").await;
    server.leave();
    let status = load.ended().await;
    assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "SHUTTING_DOWN".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_its_stream_alone() {
    let serve = ServerProcess::start(&["--settle", "0"]).await;
    let client = serve.client().await;
    let load = LoadClient::open(&client, "z1").await;
    let mut garbage = PREFACE.to_vec();
    for (stream, message) in
        [&[0xff_u8; 40][..], &[0x12, 0x05, 0x0a, 0xff, 0xff, 0xff, 0x7f], &[0x08; 9]].into_iter().enumerate()
    {
        let stream = 2 * u32::try_from(stream).unwrap() + 1;
        let length = u8::try_from(message.len()).unwrap();
        put(&mut garbage, HEADERS, END_HEADERS, stream, &call_headers(PATH));
        put(&mut garbage, DATA, 0, stream, &[&[0, 0, 0, 0, length][..], message].concat());
    }
    let raw = Raw::saying(serve.grpc, &garbage).await;
    load.report("web", vec![locality("", [1, 1, 0])]);
    let requests = "callboard_xds_reported_requests_total{library=\"go\"}";
    within("the report", async { while serve.metric(requests).await < 1.0 {} }).await;
    within("one stream", async { while serve.metric("callboard_xds_load_report_streams").await > 1.0 {} }).await;
    drop(raw);
}

/// Memory of a stream that reports 32 localities in each interval.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_streams_take_little_memory() {
    const STREAMS: usize = 10_000;
    const MAX_STREAM_KIB: usize = 8;
    let serve = ServerProcess::start(&["--settle", "0", "--max-streams-per-address", "20000"]).await;
    let mut open = Vec::new();
    let localities: Vec<_> = (0..32).map(|number| locality(&format!("~{number:08x}"), [100, 99, 1])).collect();
    let first = serve.client().await;
    open.push(LoadClient::open(&first, "z1").await);
    let before = serve.resident();
    let mut clients = Vec::new();
    while open.len() < STREAMS {
        if open.len() % 1_000 == 1 {
            clients.push(serve.client().await);
        }
        let load = LoadClient::open(clients.last().unwrap(), "z1").await;
        load.report("web", localities.clone());
        open.push(load);
    }
    let reports = 1.0 * f64::from(u32::try_from(STREAMS - 1).unwrap());
    within("all reports", async {
        while serve.metric("callboard_xds_load_reports_total").await < reports {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let grew = usize::try_from(serve.resident().saturating_sub(before)).unwrap();
    println!("{STREAMS} streams took {grew} KiB");
    assert!(grew <= STREAMS * MAX_STREAM_KIB, "{STREAMS} streams took {grew} KiB");
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}
