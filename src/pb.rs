//! Rust types, clients and servers that `build.rs` generates from `proto/`, and the reasons of errors, which are part of the contract.
//!
//! Only protocols, clients and the command line use these types. The registry has its own types ([`crate::model`]).

pub mod codec;
#[cfg(feature = "server")]
pub(crate) mod error_reason;
#[cfg(feature = "server")]
pub(crate) mod policy_document;
#[cfg(feature = "server")]
pub(crate) mod request_error;
#[cfg(feature = "server")]
pub(crate) mod time;

/// Protobuf packages. The modules are nested like the package names.
pub mod callboard {
    /// Messages and clients of `callboard.v1`.
    #[allow(
        missing_docs,
        missing_debug_implementations,
        clippy::allow_attributes_without_reason,
        clippy::pedantic,
        clippy::large_enum_variant,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("callboard.v1");
    }
}

#[cfg(feature = "server")]
#[allow(
    missing_docs,
    missing_debug_implementations,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    reason = "generated code"
)]
pub(crate) mod grpc {
    pub mod health {
        pub mod v1 {
            pub use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
            tonic::include_proto!("grpc.health.v1");
        }
    }
}

/// Subset of Envoy's API: the xDS services, and the resources that they carry.
#[cfg(feature = "server")]
#[allow(
    missing_docs,
    missing_debug_implementations,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    clippy::large_enum_variant,
    reason = "generated code"
)]
mod xds {
    include!(concat!(env!("OUT_DIR"), "/xds.rs"));
}
#[cfg(feature = "server")]
pub use xds::envoy;

/// Subset of etcd's API.
#[cfg(feature = "server")]
#[allow(
    dead_code,
    missing_docs,
    missing_debug_implementations,
    clippy::allow_attributes_without_reason,
    clippy::all,
    clippy::pedantic,
    reason = "generated code"
)]
mod etcd {
    include!(concat!(env!("OUT_DIR"), "/etcd.rs"));
}
#[cfg(feature = "server")]
pub(crate) use etcd::{etcdserverpb, mvccpb};

/// Generated servers, with one module per service.
#[cfg(feature = "server")]
#[allow(
    missing_docs,
    missing_debug_implementations,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    reason = "generated code"
)]
pub(crate) mod server {
    include!(concat!(env!("OUT_DIR"), "/callboard.v1.RegistryService.rs"));
    include!(concat!(env!("OUT_DIR"), "/callboard.v1.DiscoveryService.rs"));
    include!(concat!(env!("OUT_DIR"), "/callboard.v1.AdminService.rs"));
    include!(concat!(env!("OUT_DIR"), "/callboard.v1.XdsService.rs"));
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.Health.rs"));
    include!(concat!(env!("OUT_DIR"), "/envoy.service.status.v3.ClientStatusDiscoveryService.rs"));
}

/// Encoded file descriptor set of `proto/`, for reflection.
#[cfg(feature = "server")]
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
