//! Registrations and checks that reach into other instances: an id that moves to another service, a check that another instance
//! of the node has.
//!
//! In Consul an id and a check are one on their node. So a registration may take the id from another service and a check from
//! another instance; what is known of them goes along. That is several commands, of which the first decides, and all the others
//! follow from what is there then: so they can be repeated, and [`Checks::finish_placing`] does after a restart what a kill left.

use super::{Checks, Key};
use crate::{
    engine::{EngineError, feel_node, finish_moves},
    model::{CheckId, nodes},
    registry::{CheckSource, Command, Entry, Holder, Outcome, TakenCheck},
};

impl Checks {
    /// Orders a command that registers an instance without a lease or gives it a check, and then what follows from it for other
    /// instances. Half of that must not stay: call this in a task of its own, which goes on when its client hangs up.
    ///
    /// # Errors
    ///
    /// When the engine does not take it.
    pub async fn place(&self, command: Command) -> Result<Outcome, EngineError> {
        let (service, id) = command.target();
        let (service, id) = (service.clone(), id.clone());
        let asked: Vec<CheckId> = match &command {
            Command::Enroll(asked) => asked.checks.iter().map(|check| check.definition.id.clone()).collect(),
            Command::AddCheck { check, .. } => vec![check.definition.id.clone()],
            _ => Vec::new(),
        };
        let registry = self.engine.registry();
        let moves = match &command {
            Command::Enroll(_) => registry.catalog().service_of(id.as_str()).filter(|before| *before != service),
            _ => None,
        };
        let sources = registry.check_sources(&command);
        let to = |check: &CheckId| (service.clone(), id.clone(), check.clone());
        for source in &sources {
            self.carry(source, to(&source.2));
        }
        // Before it is ordered: an instance that is to be removed until then goes first, and is registered anew.
        self.renew(&service, &id, &asked);
        let outcome = self.engine.order(command, self.clock.now()).await?;
        for source in &sources {
            self.carry(source, to(&source.2));
        }
        if outcome.changed && service.is_reserved() {
            feel_node(&*self.engine, id.as_str(), self.clock.now()).await?;
        }
        if let Some(before) = moves {
            let goodbye = Command::Deregister { service: before, id, of: Holder::Anyone };
            gone_or_done(self.engine.order(goodbye, self.clock.now()).await)?;
        }
        if let Some(entry) = &outcome.entry {
            self.release(self.taken_by(entry, |check| asked.contains(check))).await?;
        }
        Ok(outcome)
    }

    /// Finishes what a process that was killed had begun to place.
    ///
    /// # Errors
    ///
    /// When the engine does not take it.
    pub async fn finish_placing(&self) -> Result<(), EngineError> {
        finish_moves(&*self.engine, self.clock.now()).await?;
        let registry = self.engine.registry();
        let services = registry.each_service().map(|summary| summary.name);
        let taken: Vec<_> = std::iter::once(nodes())
            .chain(services)
            .flat_map(|service| registry.page(&service, "", usize::MAX))
            .flat_map(|entry| self.taken_by(&entry, |_| true))
            .collect();
        self.release(taken).await
    }

    /// Checks with the ids of an instance's own ones that other instances of its node are to lose.
    fn taken_by(&self, entry: &Entry, wanted: impl Fn(&CheckId) -> bool) -> Vec<TakenCheck> {
        let Some(listing) = &entry.instance.listing else { return Vec::new() };
        let catalog = self.engine.registry().catalog();
        let ids = entry.instance.checks.iter().map(crate::model::Check::id).filter(|id| wanted(id));
        ids.flat_map(|id| catalog.taken_from(&listing.node, id)).collect()
    }

    /// Takes checks away from instances that have lost them.
    async fn release(&self, taken: Vec<TakenCheck>) -> Result<(), EngineError> {
        for TakenCheck { service, id, check, created } in taken {
            let of_node = service.is_reserved().then(|| id.clone());
            let command = Command::RemoveCheck { service, id, check, created: Some(created) };
            let changed = gone_or_done(self.engine.order(command, self.clock.now()).await)?;
            if let Some(node) = of_node.filter(|_| changed) {
                feel_node(&*self.engine, node.as_str(), self.clock.now()).await?;
            }
        }
        Ok(())
    }

    /// Has a check of another instance know what is known of the one that it comes from.
    fn carry(&self, (service, id, check): &CheckSource, to: Key) {
        let Some(from) = self.record(service, id, check) else { return };
        if let Some(known) = self.records.get(&to) {
            known.catch_up(&from);
            return;
        }
        self.records.insert(to.clone(), from.carried().into());
        // If the command is refused, nothing comes to have it.
        self.unheard.lock().push(to);
    }
}

/// Whether a command changed anything. What it was about may be gone.
fn gone_or_done(outcome: Result<Outcome, EngineError>) -> Result<bool, EngineError> {
    match outcome {
        Ok(outcome) => Ok(outcome.changed),
        Err(EngineError::Refused(_)) => Ok(false),
        Err(error) => Err(error),
    }
}
