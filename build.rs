//! Generates Rust code from `proto/` without protoc: messages, clients, servers, and the descriptor set for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;
use tonic_build::manual;

const PROTO_FILES: [&str; 4] = [
    "callboard/v1/registry.proto",
    "callboard/v1/discovery.proto",
    "callboard/v1/admin.proto",
    "grpc/health/v1/health.proto",
];

/// Path of the codec that the generated clients and servers use.
const CODEC: &str = "crate::pb::codec::SmallBuffers";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(PROTO_FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), files.encode_to_vec())?;

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
        manual::Builder::new().build_client(false).compile(&services(&files));
    }
    Ok(())
}

/// Returns the services in the form that the manual builder takes. Unlike the builder for descriptors, it can leave out a
/// method: `DiscoveryService.Watch` has its own response body (`src/protocol/grpc/watch/body.rs`).
fn services(files: &prost_types::FileDescriptorSet) -> Vec<manual::Service> {
    let mut services = Vec::new();
    for file in &files.file {
        for service in &file.service {
            let mut builder = manual::Service::builder().name(service.name()).package(file.package());
            for method in &service.method {
                if service.name() != "DiscoveryService" || method.name() != "Watch" {
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
