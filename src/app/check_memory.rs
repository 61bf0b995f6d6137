//! Interface to the results and times of checks, which the registry does not store.

use std::{fmt, sync::Arc};

use crate::registry::Command;

/// Completes what was prepared for a command, once it is known whether that was accepted.
pub type Settle = Box<dyn FnOnce(bool) + Send>;

/// Results and times of checks. They go along with a write that gives checks to another instance, and begin anew with one that registers
/// their instance again.
pub trait CheckMemory: fmt::Debug + Send + Sync {
    /// Prepares for a command that registers an instance or gives it checks. A command that is refused changes nothing here either.
    fn prepare(self: Arc<Self>, command: &Command) -> Settle;
}
