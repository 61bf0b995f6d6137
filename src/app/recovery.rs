//! Completes writes that the end of an earlier process interrupted, before anything is served.
//!
//! With several replicas, each does this at its start, while others write. A command of the recovery is decided against the state at that
//! time, and changes nothing if another replica has completed the write. An instance that differs from its node because another
//! replica is propagating the node's state is refreshed by either.
//!
//! There is no write-ahead log of such writes. The stored state shows which part of a write is missing:
//!
//! * an instance whose id leads to another service has moved there: its old entry is removed;
//! * a check that two instances of a node have stays with the later one;
//! * an instance that differs from its node takes over the node's state.
//!
//! A node and everything on it are removed in one transaction, so a partial removal is never stored. An instance on an unregistered
//! node stays, because versions before 0.1 registered such instances with `SkipNodeUpdate`.

use std::{io, iter, sync::Arc, thread};

use super::Commands;
use crate::{
    engine::EngineError,
    model::{Check, Instance, ServerActor, node_service},
    registry::{Command, DeregisterGuard, Entry, Registry},
};

/// Maximum number of commands in flight.
const MAX_IN_FLIGHT: usize = 1_024;

/// Error of a recovery that did not complete the interrupted writes.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The operating system does not start a thread.
    #[error("cannot start a thread to complete interrupted writes: {0}: allow this user more threads")]
    Thread(#[from] io::Error),
    /// The engine rejects the commands.
    #[error("cannot complete interrupted writes: {0}")]
    Engine(#[from] EngineError),
}

impl Commands {
    /// Completes writes that the end of an earlier process interrupted. Blocks.
    ///
    /// # Errors
    ///
    /// When the engine does not accept the commands.
    pub fn recover(&self) -> Result<(), RecoveryError> {
        for find in [misplaced, differing] {
            loop {
                let missing = find(self.registry());
                // Another replica may change a node after a refresh is decided here, so the instances are compared once more.
                if missing.is_empty() || !self.complete(&missing)? || !self.registry().has_replicas() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Carries out the commands. Returns whether any changed something.
    fn complete(&self, missing: &[Command]) -> Result<bool, RecoveryError> {
        tracing::info!(commands = missing.len(), "completing writes that the end of an earlier process interrupted");
        thread::scope(|scope| {
            let waits = thread::Builder::new().name("callboard-recovery".to_owned());
            let done = waits.spawn_scoped(scope, || self.carry_out(missing))?;
            Ok(done.join().unwrap_or(Err(EngineError::OutcomeUnknown))?)
        })
    }

    fn carry_out(&self, commands: &[Command]) -> Result<bool, EngineError> {
        let mut changed = false;
        for commands in commands.chunks(MAX_IN_FLIGHT) {
            let sent: Vec<_> = commands
                .iter()
                .map(|command| self.submit_one(command.clone(), ServerActor::Recovery.caller()))
                .collect();
            for submission in sent {
                match submission.wait() {
                    Ok(outcome) => changed |= outcome.changed,
                    Err(EngineError::Rejected(_)) => {}
                    Err(
                        error @ (EngineError::PolicyRejected(_)
                        | EngineError::Overloaded { .. }
                        | EngineError::Unavailable { .. }
                        | EngineError::NotCurrent { .. }
                        | EngineError::TooLarge { .. }
                        | EngineError::Unconfirmed { .. }
                        | EngineError::Stopped
                        | EngineError::OutcomeUnknown),
                    ) => return Err(error),
                }
            }
        }
        Ok(changed)
    }
}

/// Returns commands that remove instances whose ids have moved to another service, and checks that another instance of the node has
/// taken over.
fn misplaced(registry: &Registry) -> Vec<Command> {
    let command = |instance: &Instance| {
        let moved = registry.entry_of_id(instance).is_some_and(|found| found.instance.service != instance.service);
        let (service, id) = (instance.service.clone(), instance.id.clone());
        moved.then_some(Command::Deregister { service, id, guard: DeregisterGuard::Consul })
    };
    let taken = |instance: &Instance| {
        let node = instance.consul_registration.as_ref().map(|registration| registration.node.clone());
        let of = |check| node.as_ref().map(|node| registry.consul_index().taken_from(node, check)).unwrap_or_default();
        let taken: Vec<_> = instance.checks.iter().map(Check::id).flat_map(of).collect();
        taken.into_iter().map(Command::from)
    };
    entries(registry).flat_map(|entry| command(&entry.instance).into_iter().chain(taken(&entry.instance))).collect()
}

/// Returns commands that refresh the instances which differ from their nodes.
fn differing(registry: &Registry) -> Vec<Command> {
    let command = |instance: &Instance| {
        let (service, id) = (instance.service.clone(), instance.id.clone());
        (!registry.has_node_state(instance)).then_some(Command::RefreshNodeStatus { service, id })
    };
    let listed = entries(registry).filter(|entry| entry.instance.consul_registration.is_some());
    listed.filter_map(|entry| command(&entry.instance)).collect()
}

/// Returns all entries, including nodes.
fn entries(registry: &Registry) -> impl Iterator<Item = Arc<Entry>> {
    let services = iter::once(node_service()).chain(registry.each_service().map(|summary| summary.name));
    services.flat_map(|service| registry.page(&service, "", usize::MAX))
}
