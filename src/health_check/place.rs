//! What is known of checks that change hands: with an id that moves to another service, and with a check that another instance of the
//! node takes. A registration that is repeated gives its checks all their time again.

use std::sync::Arc;

use super::{HealthChecks, Key, RenewedChecks};
use crate::{
    app::{CheckMemory, Settle},
    model::{CheckId, InstanceId, ServiceName},
    registry::{CheckSource, Command},
};

impl CheckMemory for HealthChecks {
    fn prepare(self: Arc<Self>, command: &Command) -> Settle {
        let sources = self.commands.registry().check_sources(command);
        let (service, id) = command.target();
        let carried: Vec<_> = sources.into_iter().map(|source| (to(service, id, &source.2), source)).collect();
        for (to, source) in &carried {
            self.carry(source, to.clone());
        }
        // Before it is submitted: an instance that is to be removed until then goes first, and is registered anew.
        let renewed = self.renew(service, id, command.asked_checks());
        Box::new(move |accepted| {
            if !accepted {
                return self.take_back(renewed);
            }
            // What came while the command was under way.
            for (to, source) in &carried {
                self.carry(source, to.clone());
            }
        })
    }
}

impl HealthChecks {
    /// Has a check of another instance know what is known of the one that it comes from.
    fn carry(&self, (service, id, check): &CheckSource, to: Key) {
        let Some(from) = self.record(service, id, check) else { return };
        if let Some(known) = self.records.get(&to) {
            known.catch_up(&from);
            self.note(&known, || to.clone());
            return;
        }
        let carried = Arc::new(from.carried());
        self.records.insert(to.clone(), Arc::clone(&carried));
        self.note(&carried, || to.clone());
        // If the command is refused, nothing comes to have it.
        self.unheard.lock().push(to);
    }

    /// Gives these checks of an instance that is registered once more all their time again.
    fn renew<'a>(
        &self,
        service: &ServiceName,
        id: &InstanceId,
        checks: impl Iterator<Item = &'a CheckId>,
    ) -> RenewedChecks {
        let now = self.clock.now();
        let renewed = checks.filter_map(|check| {
            let record = self.record(service, id, check)?;
            let (before, key) = (record.renew(now), to(service, id, check));
            self.note(&record, || key.clone());
            Some((before, key, record))
        });
        RenewedChecks(renewed.collect())
    }

    /// Takes a renewal back: the registration that it was for is refused. It may have been saved meanwhile.
    fn take_back(&self, renewed: RenewedChecks) {
        for (before, key, record) in renewed.0 {
            record.take_back(before);
            self.note(&record, || key);
        }
    }
}

fn to(service: &ServiceName, id: &InstanceId, check: &CheckId) -> Key {
    (service.clone(), id.clone(), check.clone())
}
