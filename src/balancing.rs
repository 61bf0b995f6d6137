//! Arithmetic of load balancing: the parts of the calls that zones and instances get.
//!
//! The functions are pure: numbers of instances, weights and streams come in as arguments, and so does the time.
//!
//! | file | holds |
//! |---|---|
//! | `zone` | preference for the client's zone |
//!
//! Not here: the numbers themselves (`registry`, protocols), and the form in which clients get the results (protocols).

mod zone;

pub use zone::{
    LocalShare, NoPreferenceReason, ServiceZones, ZoneCapacity, ZoneClass, ZoneInstances, ZoneLayout, ZoneLayoutState,
    ZoneName, ZonePreference, ZoneTargets,
};
