//! What the registry speaks of: names, instances, revisions, selections. Validated types, no IO, no clock.
//!
//! A value of these types is right by construction: every parser refuses with an [`FieldError`] that names the field,
//! the value and the remedy. What a refusal becomes on the wire is a door's business.

mod caller;
mod check;
mod consul_registration;
mod field_error;
pub mod filter;
mod identity;
mod instance;
mod instance_diff;
mod instance_filter;
mod label;
mod lease;
mod name;
mod revision;
mod selector;
mod topic;

pub use caller::{Caller, CallerProtocol, ServerActor};
pub(crate) use check::MAX_DESCRIBED_OUTPUT_BYTES;
pub use check::{
    Check, CheckDefinition, CheckDescription, CheckId, CheckStatus, HttpProbe, InstanceChecks, Probe, ProbeTarget,
    ProbeTls, Thresholds,
};
pub use consul_registration::{ConsulRegistration, TaggedAddress, node_service};
pub use field_error::FieldError;
pub use identity::{id_on_node, is_on_node, node_id, same_node};
pub use instance::{Address, Conditions, Instance, Locality, Status, Weight};
pub use instance_diff::InstanceDiff;
pub use instance_filter::{InstanceField, InstanceFilter};
pub use label::{Metadata, Tags};
pub use lease::{LeaseId, LeaseTerms, LoadReport};
pub use name::{BootId, InstanceId, ServiceName};
pub use revision::{Incarnation, ResumeToken, Revision, UnixMillis};
pub use selector::Selector;
pub use topic::{topic_of_node, topic_of_nodes};
