//! Generates Rust code from `proto/` without protoc: messages, clients, servers, and the descriptor set for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;
use tonic_build::manual;

const PROTO_FILES: [&str; 5] = [
    "callboard/v1/registry.proto",
    "callboard/v1/discovery.proto",
    "callboard/v1/admin.proto",
    "callboard/v1/xds.proto",
    "grpc/health/v1/health.proto",
];
/// Services of xDS, and the messages that they carry as `Any`.
const XDS_PROTO_FILES: [&str; 15] = [
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/load_balancing_policies/client_side_weighted_round_robin/v3/client_side_weighted_round_robin.proto",
    "envoy/extensions/load_balancing_policies/least_request/v3/least_request.proto",
    "envoy/extensions/load_balancing_policies/ring_hash/v3/ring_hash.proto",
    "envoy/extensions/load_balancing_policies/round_robin/v3/round_robin.proto",
    "envoy/extensions/load_balancing_policies/wrr_locality/v3/wrr_locality.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/service/discovery/v3/ads.proto",
    "envoy/service/load_stats/v3/lrs.proto",
    "envoy/service/status/v3/csds.proto",
];

/// Services of etcd that the engine on etcd calls. They are not served, so they are not in the descriptor set.
const ETCD_PROTO_FILES: [&str; 1] = ["etcd/etcdserverpb/rpc.proto"];
/// Fields of requests that are `Bytes`, so that a request is repeated without copies. Those of responses are vectors, so that a
/// key does not keep the buffer of a whole response in memory.
const ETCD_REQUEST_BYTES: [&str; 4] = [
    ".etcdserverpb.RangeRequest",
    ".etcdserverpb.PutRequest",
    ".etcdserverpb.DeleteRangeRequest",
    ".etcdserverpb.Compare",
];

/// Path of the codec that the generated clients and servers use.
const CODEC: &str = "crate::pb::codec::SmallBuffers";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(PROTO_FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let health = "::tonic_health::pb";
    let servers = env::var_os("CARGO_FEATURE_SERVER").is_some();
    let mut messages =
        tonic_prost_build::configure().build_server(false).codec_path(CODEC).bytes(".callboard.v1").bytes(".grpc");
    if servers {
        // tonic-health has these two messages, but its generated service lacks List.
        for message in ["HealthCheckRequest", "HealthCheckResponse"] {
            messages = messages.extern_path(format!(".grpc.health.v1.{message}"), format!("{health}::{message}"));
        }
    }
    messages.compile_fds(files.clone())?;
    if servers {
        let xds = protox::compile(XDS_PROTO_FILES, ["proto"])?;
        let mut names = tonic_prost_build::Config::new();
        names.enable_type_names();
        tonic_prost_build::configure()
            .build_server(false)
            .codec_path(CODEC)
            .bytes(".envoy")
            .extern_path(".google.rpc.Status", "::tonic_types::Status")
            .include_file("xds.rs")
            .compile_fds_with_config(xds.clone(), names)?;
        let all = prost_types::FileDescriptorSet { file: files.file.into_iter().chain(xds.file).collect() };
        fs::write(out.join("descriptors.bin"), all.encode_to_vec())?;
        manual::Builder::new().build_client(false).compile(&services(&all));
        let etcd = tonic_prost_build::configure().build_server(false).codec_path(CODEC).include_file("etcd.rs");
        let etcd = ETCD_REQUEST_BYTES.iter().fold(etcd, tonic_prost_build::Builder::bytes);
        etcd.compile_fds(protox::compile(ETCD_PROTO_FILES, ["proto"])?)?;
    }
    Ok(())
}

/// Methods with a response body of their own (`src/transport/message_body.rs`), which have no generated server.
const HANDWRITTEN: [(&str, &str); 4] = [
    ("DiscoveryService", "Watch"),
    ("AggregatedDiscoveryService", "StreamAggregatedResources"),
    ("AggregatedDiscoveryService", "DeltaAggregatedResources"),
    ("LoadReportingService", "StreamLoadStats"),
];

/// Returns the services in the form that the manual builder takes. Unlike the builder for descriptors, it can leave out a method.
fn services(files: &prost_types::FileDescriptorSet) -> Vec<manual::Service> {
    let mut services = Vec::new();
    for file in &files.file {
        for service in &file.service {
            let mut builder = manual::Service::builder().name(service.name()).package(file.package());
            for method in &service.method {
                if !HANDWRITTEN.contains(&(service.name(), method.name())) {
                    builder = builder.method(self::method(method));
                }
            }
            services.push(builder.build());
        }
    }
    services
}

fn method(method: &prost_types::MethodDescriptorProto) -> manual::Method {
    let mut builder = manual::Method::builder()
        .name(snake_case(method.name()))
        .route_name(method.name())
        .input_type(rust_type(method.input_type()))
        .output_type(rust_type(method.output_type()))
        .codec_path(CODEC);
    if method.client_streaming() {
        builder = builder.client_streaming();
    }
    if method.server_streaming() {
        builder = builder.server_streaming();
    }
    builder.build()
}

/// Returns the Rust path of a message: `.callboard.v1.WatchRequest` is in `crate::pb::callboard::v1`.
fn rust_type(proto: &str) -> String {
    format!("crate::pb{}", proto.replace('.', "::"))
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}
