//! Transfer of history between checks.
//!
//! A check moves to another instance when its instance's id moves to another service, and when another instance of its node registers
//! it. Its results and times move with it. When a registration is repeated, the times of its checks start again.

use std::sync::Arc;

use super::{CheckHistory, HealthChecks, history::CheckTimes};
use crate::{
    app::{CheckMemory, FinishPreparation},
    engine::CheckKey,
    model::{CheckId, InstanceId, ServiceName},
    registry::{CheckSource, Command},
};

/// Checks with renewed times, and the times before.
#[derive(Debug)]
struct RenewedChecks(Vec<(CheckTimes, CheckKey, Arc<CheckHistory>)>);

impl CheckMemory for HealthChecks {
    fn prepare(self: Arc<Self>, command: &Command) -> FinishPreparation {
        let sources = self.commands.registry().check_sources(command);
        let (service, id) = command.target();
        let moved: Vec<_> = sources.into_iter().map(|source| (key(service, id, &source.2), source)).collect();
        for (target, source) in &moved {
            self.copy_history(source, target);
        }
        // The times are renewed before the command is submitted. If the instance is removed in the meantime, the command is decided
        // after the removal and registers the instance again.
        let renewed = self.renew(service, id, command.requested_checks());
        let (service, id) = (service.clone(), id.clone());
        Box::new(move |accepted| {
            if !accepted {
                return self.undo_renewal(renewed);
            }
            // If another replica holds the instance, the times have to be renewed there: it is held here from now on.
            self.commands.claim_without_lease(&service, &id);
            // Copies the results that arrived while the command was in progress.
            for (target, source) in &moved {
                self.copy_history(source, target);
            }
        })
    }
}

impl HealthChecks {
    /// Copies the history of a check to the check of another instance.
    fn copy_history(&self, (service, id, check): &CheckSource, target: &CheckKey) {
        let Some(source) = self.history(service, id, check) else { return };
        if let Some(history) = self.history_by_key(target) {
            history.merge(&source);
            self.queue_saving(&history, || target.clone());
            return;
        }
        let copy = Arc::new(source.copied());
        self.histories.insert(target.clone(), Arc::clone(&copy));
        self.queue_saving(&copy, || target.clone());
        // If the command is rejected, no instance has this check, and the runner removes the history.
        self.unconfirmed.lock().push(target.clone());
    }

    /// Restarts the times of these checks.
    fn renew<'a>(
        &self,
        service: &ServiceName,
        id: &InstanceId,
        checks: impl Iterator<Item = &'a CheckId>,
    ) -> RenewedChecks {
        let now = self.clock.now();
        let renewed = checks.filter_map(|check| {
            let key = key(service, id, check);
            let history = self.history_by_key(&key)?;
            let before = history.renew(now);
            self.queue_saving(&history, || key.clone());
            Some((before, key, history))
        });
        RenewedChecks(renewed.collect())
    }

    /// Undoes a renewal after its command was rejected. The renewed times may have been saved, so the earlier ones are saved again.
    fn undo_renewal(&self, renewed: RenewedChecks) {
        for (before, key, history) in renewed.0 {
            history.undo_renewal(before);
            self.queue_saving(&history, || key);
        }
    }
}

fn key(service: &ServiceName, id: &InstanceId, check: &CheckId) -> CheckKey {
    (service.clone(), id.clone(), check.clone())
}
