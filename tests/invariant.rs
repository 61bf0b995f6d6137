//! What Callboard promises, each as a checker of what was recorded: a history that passes them all kept the promises.
//!
//! | promise | checker | reads |
//! |---|---|---|
//! | Ordered | [`ordered`] | a record |
//! | Gapless | [`gapless`] | a record and the truth |
//! | Unique | [`unique`] | a record |
//! | Resumable | [`resumable`] | a record |
//! | Converges | [`converges`] | what every door shows in the end |
//! | `OpenBeforeRegistration` | [`open_before_registration`] | a record and the truth |
//! | `ReadYourWrites` | [`read_your_writes`] | writes and the reads after them |
//! | `LiveStays` | [`live_stays`] | lives and the truth |
//! | `DeadGoes` | [`dead_goes`] | lives and the truth |
//! | `NeverEmptyByInference` | [`never_empty_by_inference`] | lives and the truth |
//! | `BoundedSlow` | [`bounded_slow`] | what happened while some took nothing |
//! | `FailStatic` | [`fail_static`] | what a client told its program |
//!
//! Through restarts of a registry that forgets, [`live_stays::Kept`] and [`fail_static::Program`] check what a program serves
//! from.
//! [`kept`] is what the disk adds to them: writes, and what was found after a kill.

pub mod bounded_slow;
pub mod converges;
pub mod dead_goes;
pub mod fail_static;
pub mod gapless;
mod held;
mod instance_lifetime;
pub mod kept;
pub mod live_stays;
pub mod never_empty_by_inference;
pub mod open_before_registration;
pub mod ordered;
pub mod read_your_writes;
mod reference_history;
pub mod resumable;
pub mod unique;

pub use held::Held;
pub use instance_lifetime::{InstanceLifetime, Stop};
pub use reference_history::ReferenceHistory;

use crate::harness::Record;

/// Everything that one reader's record can be checked for.
pub fn check_record(record: &Record, truth: &ReferenceHistory) -> Result<(), String> {
    let of = |error: &dyn std::fmt::Display| format!("{}: {error}", record.reader);
    ordered::check(record).map_err(|error| of(&error))?;
    unique::check(record).map_err(|error| of(&error))?;
    resumable::check(record).map_err(|error| of(&error))?;
    gapless::check(record, truth).map_err(|error| of(&error))?;
    open_before_registration::check(record, truth).map_err(|error| of(&error))
}
