//! The contract in Rust: what `build.rs` made of `proto/`.
//!
//! Only doors, clients and the command line name these types; the registry has its own ([`crate::model`]).

pub mod codec;

/// The contract's packages, nested as their names are.
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

/// The servers of the contract, one module a service.
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
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.Health.rs"));
}

/// The contract's descriptors, encoded, for reflection.
#[cfg(feature = "server")]
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
