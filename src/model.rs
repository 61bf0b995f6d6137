//! Domain types: names, instances, checks, revisions, selectors, filters. They do no IO and read no clock.
//!
//! Values of these types are valid by construction. Every parser returns a [`FieldError`] that names the field, the value and the
//! remedy. The protocols translate it to their own errors.

mod address;
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
mod locality;
mod name;
mod policy;
mod revision;
mod selector;
mod topic;

pub use address::Address;
pub use caller::{Caller, CallerProtocol, ServerActor};
pub(crate) use check::MAX_DESCRIBED_OUTPUT_BYTES;
pub use check::{
    Check, CheckDefinition, CheckDescription, CheckId, CheckStatus, HttpProbe, InstanceChecks, Probe, ProbeTarget,
    ProbeTls, ShownChecks, Thresholds,
};
pub use consul_registration::{ConsulRegistration, TaggedAddress};
pub use field_error::FieldError;
pub use identity::{id_on_node, is_on_node, node_id, same_node};
pub use instance::{Conditions, Instance, Status, Weight};
pub use instance_diff::InstanceDiff;
pub use instance_filter::{InstanceField, InstanceFilter};
pub use label::{Metadata, Tags};
pub use lease::{LeaseId, LeaseTerms, LoadReport};
pub use locality::Locality;
pub use name::{BootId, InstanceId, ServiceName, node_service};
pub use policy::{
    DocumentTable, DocumentValue, EffectivePolicy, EmptySubset, HeaderCondition, HeaderMatch, LoadBalancing,
    MethodMatch, OutlierDetection, PolicyDocument, PolicyRoute, PolicyScope, PolicySettings, PolicyWarning,
    RetryPolicy, RetryableCode, ServicePolicy, Split, Subset, SubsetName, WeightSource, ZoneMode,
};
pub use revision::{Incarnation, ResumeToken, Revision, UnixMillis};
pub use selector::Selector;
pub use topic::{topic_of_node, topic_of_nodes, topic_of_policies};
