//! The protocols through which clients reach the registry. They never import each other: what they share is in [`crate::app`].
//!
//! | module | protocol |
//! |---|---|
//! | [`grpc`] | the native gRPC API, health and reflection |
//! | [`xds`] | discovery for unmodified gRPC clients and Envoy |
//! | [`consul`] | the discovery part of Consul's HTTP API |
//! | [`dns`] | DNS over UDP and TCP |
//! | [`http`] | metrics, readiness and Prometheus targets; passes `/v1/` to [`consul`] |

pub mod consul;
pub mod dns;
pub mod grpc;
pub mod http;
pub mod xds;
