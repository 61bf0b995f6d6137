//! Invariants of Callboard, each with a checker of recorded histories.
//!
//! | invariant | checker | input |
//! |---|---|---|
//! | Ordered | [`ordered`] | a record |
//! | Gapless | [`gapless`] | a record and the reference history |
//! | Unique | [`unique`] | a record |
//! | Resumable | [`resumable`] | a record |
//! | Converges | [`converges`] | the final state of every reader |
//! | `OpenBeforeRegistration` | [`open_before_registration`] | a record and the reference history |
//! | `ReadYourWrites` | [`read_your_writes`] | writes, and reads after them |
//! | `LiveStays` | [`live_stays`] | lifetimes and the reference history |
//! | `DeadGoes` | [`dead_goes`] | lifetimes and the reference history |
//! | `NeverEmptyByInference` | [`never_empty_by_inference`] | lifetimes and the reference history |
//! | `BoundedSlow` | [`bounded_slow`] | measurements while some readers stall |
//! | `LivePresent` | [`live_present`] | lifetimes, and the instances that watchers of all replicas lost |
//! | `OrphanGoes` | [`orphan_goes`] | lifetimes, removals and faults of a cluster |
//! | `OneBoot` | [`one_boot`] | times in which boots held an id |
//! | `FailStatic` | [`fail_static`] | events that a client passed to its program |
//!
//! Through restarts of a registry in memory, [`live_stays::Kept`] and [`fail_static::Program`] check the set that a program uses.
//! [`kept`] checks the disk engine: writes, and the state after a kill.

pub mod bounded_slow;
pub mod converges;
pub mod dead_goes;
pub mod fail_static;
pub mod gapless;
mod held;
mod instance_lifetime;
pub mod kept;
pub mod live_present;
pub mod live_stays;
pub mod never_empty_by_inference;
pub mod one_boot;
pub mod open_before_registration;
pub mod ordered;
pub mod orphan_goes;
pub mod read_your_writes;
mod reference_history;
pub mod resumable;
pub mod unique;

pub use held::Held;
pub use instance_lifetime::{InstanceLifetime, Stop};
pub use reference_history::ReferenceHistory;

use crate::harness::Record;

/// Runs all checks of one reader's record.
pub fn check_record(record: &Record, reference: &ReferenceHistory) -> Result<(), String> {
    let of = |error: &dyn std::fmt::Display| format!("{}: {error}", record.reader);
    ordered::check(record).map_err(|error| of(&error))?;
    unique::check(record).map_err(|error| of(&error))?;
    resumable::check(record).map_err(|error| of(&error))?;
    gapless::check(record, reference).map_err(|error| of(&error))?;
    open_before_registration::check(record, reference).map_err(|error| of(&error))
}
