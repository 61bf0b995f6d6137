//! Rules of the layers: what each may use. ARCHITECTURE.md has the same table, with reasons.

/// Rule of a layer.
#[derive(Debug)]
pub struct Rule {
    /// File or folder of `src/`.
    pub layer: &'static str,
    /// Layers that it may use, besides itself.
    pub uses: &'static [&'static str],
    /// Layers that only its tests may use.
    pub tests_use: &'static [&'static str],
    /// Groups of other crates and of `std` that it may not use outside of its tests.
    pub never: &'static [Group],
}

/// Name of a group of paths, and the paths.
pub type Group = (&'static str, &'static [&'static str]);

pub const CLOCK: Group = ("clock", &["std::time::Instant", "std::time::SystemTime", "std::thread::sleep"]);
pub const IO: Group = (
    "IO",
    &[
        "std::fs",
        "std::net::TcpListener",
        "std::net::TcpStream",
        "std::net::UdpSocket",
        "std::net::ToSocketAddrs",
        "socket2",
        "getrandom",
    ],
);
pub const RUNTIME: Group = ("runtime", &["tokio", "tokio_stream", "tokio_util"]);
pub const GRPC: Group = ("gRPC", &["tonic", "tonic_prost", "tonic_types"]);
pub const PROTOBUF: Group = ("protobuf", &["prost", "prost_types"]);
pub const HTTP: Group = ("HTTP", &["hyper", "http", "axum"]);
pub const ENCODED_BYTES: Group = ("encoded bytes", &["bytes"]);
pub const AXUM: Group = ("axum", &["axum"]);
pub const SHARED_STATE: Group =
    ("shared state", &["dashmap", "parking_lot", "std::sync::Mutex", "std::sync::RwLock", "std::sync::atomic"]);

/// Rules of all layers, from the top down.
pub const RULES: &[Rule] = &[
    Rule {
        layer: "reference",
        uses: &["cli", "config", "metrics", "pb", "protocol/consul"],
        tests_use: &[],
        never: &[AXUM, PROTOBUF],
    },
    Rule {
        layer: "cli",
        uses: &["client", "clock", "config", "engine", "pb", "random", "server", "telemetry"],
        tests_use: &[],
        never: &[AXUM],
    },
    Rule {
        layer: "server",
        uses: &[
            "app",
            "clock",
            "config",
            "engine",
            "etcd",
            "health_check",
            "metrics",
            "model",
            "protocol/consul",
            "protocol/dns",
            "protocol/grpc",
            "protocol/http",
            "protocol/xds",
            "random",
            "registry",
            "transport",
        ],
        tests_use: &[],
        never: &[AXUM, PROTOBUF],
    },
    Rule {
        layer: "config",
        uses: &["engine", "model", "telemetry"],
        tests_use: &[],
        never: &[GRPC, AXUM, PROTOBUF, RUNTIME],
    },
    Rule { layer: "telemetry", uses: &[], tests_use: &[], never: &[GRPC, AXUM, PROTOBUF] },
    Rule {
        layer: "protocol/grpc",
        uses: &[
            "app",
            "balancing",
            "engine",
            "health_check",
            "metrics",
            "model",
            "pb",
            "random",
            "registry",
            "transport",
        ],
        tests_use: &[],
        never: &[],
    },
    Rule {
        layer: "protocol/consul",
        uses: &["app", "engine", "health_check", "model", "random", "registry", "transport"],
        tests_use: &[],
        never: &[GRPC, PROTOBUF],
    },
    Rule {
        layer: "protocol/dns",
        uses: &["app", "balancing", "clock", "engine", "metrics", "model", "registry", "transport"],
        tests_use: &["clock", "engine", "random", "app", "health_check"],
        never: &[AXUM, GRPC, PROTOBUF],
    },
    Rule {
        layer: "protocol/xds",
        uses: &["app", "balancing", "metrics", "model", "pb", "transport"],
        tests_use: &["registry"],
        never: &[],
    },
    Rule {
        layer: "protocol/http",
        uses: &["app", "metrics", "model", "protocol/consul", "transport"],
        tests_use: &["registry", "app", "engine", "clock", "health_check", "random"],
        never: &[GRPC, PROTOBUF],
    },
    Rule {
        layer: "health_check",
        uses: &["app", "clock", "engine", "model", "random", "registry"],
        tests_use: &[],
        never: &[AXUM, PROTOBUF],
    },
    Rule {
        layer: "transport",
        uses: &["clock", "metrics", "model", "random", "registry", "sync"],
        tests_use: &["engine"],
        never: &[AXUM],
    },
    Rule {
        layer: "app",
        uses: &["balancing", "clock", "engine", "metrics", "model", "registry", "transport"],
        tests_use: &[],
        never: &[HTTP, GRPC, PROTOBUF],
    },
    Rule {
        layer: "engine",
        uses: &["clock", "etcd", "metrics", "model", "random", "registry"],
        tests_use: &[],
        never: &[AXUM, GRPC],
    },
    Rule { layer: "etcd", uses: &["client", "pb"], tests_use: &[], never: &[AXUM] },
    Rule {
        layer: "registry",
        uses: &["model", "sync"],
        tests_use: &["engine"],
        never: &[HTTP, IO, CLOCK, GRPC, PROTOBUF, RUNTIME, ENCODED_BYTES],
    },
    Rule {
        layer: "balancing",
        uses: &["model"],
        tests_use: &["registry"],
        never: &[HTTP, IO, CLOCK, GRPC, PROTOBUF, RUNTIME, SHARED_STATE],
    },
    Rule {
        layer: "model",
        uses: &[],
        tests_use: &["registry"],
        never: &[HTTP, IO, CLOCK, GRPC, PROTOBUF, RUNTIME, SHARED_STATE],
    },
    Rule { layer: "client", uses: &["pb"], tests_use: &[], never: &[AXUM] },
    Rule { layer: "pb", uses: &["model"], tests_use: &[], never: &[] },
    Rule { layer: "metrics", uses: &[], tests_use: &[], never: &[AXUM, GRPC, PROTOBUF] },
    Rule { layer: "clock", uses: &["model", "registry"], tests_use: &[], never: &[] },
    Rule { layer: "random", uses: &[], tests_use: &[], never: &[] },
    Rule { layer: "sync", uses: &[], tests_use: &[], never: &[HTTP, GRPC, PROTOBUF, RUNTIME] },
    Rule {
        layer: "fuzz",
        uses: &[],
        tests_use: &[
            "app",
            "clock",
            "engine",
            "health_check",
            "client",
            "config",
            "metrics",
            "model",
            "protocol/grpc",
            "protocol/consul",
            "protocol/dns",
            "protocol/http",
            "protocol/xds",
            "pb",
            "random",
            "registry",
            "sync",
            "transport",
        ],
        never: &[],
    },
];
