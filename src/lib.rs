//! wip
pub mod pb;
#[cfg(feature = "server")]
pub mod model;
#[cfg(feature = "server")]
pub mod registry;
#[cfg(feature = "server")]
pub mod engine;
