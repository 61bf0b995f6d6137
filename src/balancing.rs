//! Arithmetic of load balancing: the parts of the calls that zones and instances get.
//!
//! The functions are pure: instances, load reports, weights and numbers of streams and requests come in as arguments, and so does the time, in
//! milliseconds of a clock that never goes back.
//!
//! A policy can slow the start of new instances and prefer instances that respond faster. Both make factors by which the configured
//! weights are multiplied, so that a changed registration has its effect at once.
//!
//! | file | holds |
//! |---|---|
//! | `zone` | preference for the client's zone |
//! | `weight_factor` | a factor, and the effective weights of a service at one moment |
//! | `slow_start` | factors of new instances, which rise in steps |
//! | `response_time` | factors from response times and errors |
//! | `weight_state` | state of a service: combines the factors and decides when a change is published |
//!
//! Not here: the instances and numbers themselves (`registry`, protocols), the way of weights to readers (`app`), and the form in
//! which clients get the results (protocols).

mod response_time;
mod slow_start;
mod weight_factor;
mod weight_state;
mod zone;

pub use response_time::CallCounts;
pub use weight_factor::{ServiceWeights, WeightFactor};
pub use weight_state::{ObservedInstance, WeightConditions, WeightSettings, WeightState, WeightUpdate};
pub use zone::{
    ClusterQuery, DemandSource, LocalShare, NoPreferenceReason, ReportedZone, ReportingClient, ServiceZones, ZoneClass,
    ZoneInstances, ZoneLayout, ZoneLayoutPhase, ZoneLayoutState, ZoneName, ZonePreference, ZoneReport, ZoneSummary,
    ZoneTargets, ZoneTerms,
};
