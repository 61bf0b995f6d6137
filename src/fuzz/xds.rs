//! Requests of an xDS stream of either protocol, load reports, and requests for the status of clients.

use prost::Message as _;
use tonic_types::Status;

use super::{
    input_cursor::InputCursor,
    messages::{FuzzSession, framed, word},
    server::{FuzzServer, runtime},
};
use crate::{
    pb::envoy::{
        config::{
            core::v3::{Locality, Node},
            endpoint::v3::{ClusterStats, UpstreamLocalityStats},
        },
        service::{
            discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
            load_stats::v3::LoadStatsRequest,
        },
    },
    protocol::xds::{DELTA, LOAD_REPORTS, STATE_OF_THE_WORLD},
};

pub(super) const CLIENT_STATUS: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus";

/// Maximum number of requests of a stream.
const MAX_REQUESTS: usize = 64;
const NAMES: &[&str] = &["web", "web:80", "*", "not valid"];
const VERSIONS: &[&str] = &["", "0000000000000007-0000000000000001", "0000000000000008-0000000000000001"];
const SUB_ZONES: &[&str] = &["", "rack~w3", "~0012abcd", "~ffffffff~@", "~@web"];
const NONCES: &[&str] = &["", "1", "2", "3", "4"];
const TYPES: &[&str] = &[
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    "type.googleapis.com/envoy.config.listener.v3.Listener",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    "type.googleapis.com/envoy.service.runtime.v3.Runtime",
];

/// Sends requests on one stream. Each response must decode, and the stream must end with a status other than an internal error.
pub(super) fn run(input: &[u8]) {
    let runtime = runtime();
    let _within = runtime.enter();
    FuzzServer::with(|server| {
        let mut session = FuzzSession::new(server);
        let mut input = InputCursor::new(input);
        let path = input.one_of(&[STATE_OF_THE_WORLD, DELTA, CLIENT_STATUS, LOAD_REPORTS]);
        let mut requests = Vec::new();
        for _ in 0..MAX_REQUESTS {
            if input.is_empty() {
                break;
            }
            let message = match (input.below(4), path) {
                (0, _) | (_, CLIENT_STATUS) => input.bytes().to_vec(),
                (_, LOAD_REPORTS) => load_report(&mut input).encode_to_vec(),
                (_, DELTA) => delta(&mut input).encode_to_vec(),
                _ => whole(&mut input).encode_to_vec(),
            };
            requests.extend(framed(0, &message));
        }
        session.call(path, requests);
    });
}

fn names(input: &mut InputCursor<'_>) -> Vec<String> {
    (0..input.below(4)).map(|_| word(input, NAMES)).collect()
}

fn node(input: &mut InputCursor<'_>) -> Option<Node> {
    input.flag().then(|| Node { id: word(input, &["node"]), ..Node::default() })
}

fn error(input: &mut InputCursor<'_>) -> Option<Status> {
    input.flag().then(|| Status { code: 3, message: word(input, &["no"]), details: Vec::new() })
}

fn whole(input: &mut InputCursor<'_>) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: word(input, TYPES),
        resource_names: names(input),
        response_nonce: word(input, NONCES),
        version_info: word(input, VERSIONS),
        error_detail: error(input),
        node: node(input),
    }
}

fn delta(input: &mut InputCursor<'_>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: word(input, TYPES),
        resource_names_subscribe: names(input),
        resource_names_unsubscribe: names(input),
        initial_resource_versions: (0..input.below(3)).map(|_| (word(input, NAMES), word(input, VERSIONS))).collect(),
        response_nonce: word(input, NONCES),
        error_detail: error(input),
        node: node(input),
    }
}

fn load_report(input: &mut InputCursor<'_>) -> LoadStatsRequest {
    let number = |input: &mut InputCursor<'_>| if input.flag() { u64::MAX } else { u64::from(input.below(200)) };
    let locality = |input: &mut InputCursor<'_>| UpstreamLocalityStats {
        locality: input.flag().then(|| Locality { sub_zone: word(input, SUB_ZONES), ..Locality::default() }),
        total_successful_requests: number(input),
        total_requests_in_progress: number(input),
        total_error_requests: number(input),
        total_issued_requests: number(input),
    };
    let cluster = |input: &mut InputCursor<'_>| ClusterStats {
        cluster_name: word(input, NAMES),
        upstream_locality_stats: (0..input.below(4)).map(|_| locality(input)).collect(),
        load_report_interval: input.flag().then_some(prost_types::Duration { seconds: 10, nanos: -1 }),
    };
    LoadStatsRequest { node: node(input), cluster_stats: (0..input.below(4)).map(|_| cluster(input)).collect() }
}
