//! What the registry speaks of: names, instances, revisions, selections. Validated types, no IO, no clock.
//!
//! A value of these types is right by construction: every parser refuses with an [`Invalid`] that names the field,
//! the value and the remedy. What a refusal becomes on the wire is a door's business.

mod check;
pub mod filter;
mod identity;
mod instance;
mod instance_filter;
mod invalid;
mod label;
mod lease;
mod listing;
mod name;
mod revision;
mod selection;
mod topic;

pub(crate) use check::MAX_STATED_OUTPUT_BYTES;
pub use check::{
    Check, CheckId, Checks, Definition, HttpProbe, Probe, ProbeTls, StatedCheck, Target, Thresholds, Verdict,
};
pub use identity::{id_on_node, is_on_node, node_id, same_node};
pub use instance::{Address, Instance, Locality, Marks, Status, Weight};
pub use instance_filter::{InstanceField, InstanceFilter};
pub use invalid::Invalid;
pub use label::{Metadata, Tags};
pub use lease::{LeaseId, LoadReport, Terms};
pub use listing::{Listing, TaggedAddress, nodes};
pub use name::{BootId, InstanceId, ServiceName};
pub use revision::{Incarnation, Revision, Token, WallTime};
pub use selection::Selection;
pub use topic::{topic_of_node, topic_of_nodes};
