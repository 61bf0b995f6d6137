//! wip
pub mod pb;
