//! Interface to check results and check times, which the registry does not store.

use std::{fmt, sync::Arc};

use crate::registry::Command;

/// Completes the preparation for a command. The argument says whether the command was accepted.
pub type FinishPreparation = Box<dyn FnOnce(bool) + Send>;

/// Results and times of checks. A write that gives checks to another instance moves them; one that registers their instance again
/// resets them.
pub trait CheckMemory: fmt::Debug + Send + Sync {
    /// Prepares for a command that registers an instance or gives it checks. A rejected command changes nothing.
    fn prepare(self: Arc<Self>, command: &Command) -> FinishPreparation;
}
