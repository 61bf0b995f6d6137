//! Reports of TTL checks.

use std::{sync::Arc, time::Duration};

use super::{CheckHistory, HealthChecks};
use crate::{
    engine::EngineError,
    model::{Caller, Check, CheckId, CheckStatus, InstanceId, Probe, ServiceName},
    registry::{ChangeListener, Command, CommandError, Entry},
};

/// Error of a report that was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The check is not a TTL check.
    #[error("check \"{0}\" takes no reports, because the registry probes it: report to a TTL check")]
    NotTtl(CheckId),
    /// The engine rejected the new status.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl HealthChecks {
    /// Reports the status of a TTL check. When this returns, every read shows it.
    ///
    /// # Errors
    ///
    /// If the check does not exist, is not a TTL check, or the engine rejects the new status.
    pub async fn report(
        &self,
        service: &ServiceName,
        id: &InstanceId,
        check: &CheckId,
        status: CheckStatus,
        output: &str,
        caller: &Arc<Caller>,
    ) -> Result<(), ReportError> {
        let mut entry = self.entry_of(service, id)?;
        let history = self.history_to_report(&entry, check)?;
        self.results.inc();
        let registry = self.commands.registry();
        if !registry.holds(&entry)
            && entry.lease.is_none()
            && history.may_claim(longest_interval(&entry), self.clock.now())
        {
            let (service, id) = (service.clone(), id.clone());
            let claim = Command::Claim { service, id, lease: None, from: entry.holder };
            self.commands.on_behalf_of(caller).submit(claim).await.map_err(ReportError::Engine)?;
            entry = self.entry_of(&entry.instance.service, &entry.instance.id)?;
        }
        if !registry.holds(&entry) {
            return self.report_to_holder(&entry, check, &history, status, caller).await;
        }
        history.report(status, output, self.clock.now());
        self.queue_saving(&history, || (service.clone(), id.clone(), check.clone()));
        // A report about a node is submitted even if it changes nothing: the response waits for the effects of earlier reports on the
        // node's instances.
        if ttl_check(&entry, check)?.status == status && !service.is_reserved() {
            return Ok(());
        }
        let (service, id, check) = (service.clone(), id.clone(), check.clone());
        self.set_status(Command::SetCheckStatus { service, id, check, definition_revision: None, status }, caller)
            .await?;
        Ok(())
    }

    /// Announces a report to the replica that holds the instance, now or later.
    async fn report_to_holder(
        &self,
        entry: &Arc<Entry>,
        check: &CheckId,
        history: &CheckHistory,
        status: CheckStatus,
        caller: &Arc<Caller>,
    ) -> Result<(), ReportError> {
        let is_first = history.defer_report(self.clock.now());
        let changed = (ttl_check(entry, check)?.status != status).then_some(status);
        if changed.is_some() || history.is_announcement_due(self.clock.now()) {
            let (service, id) = (entry.instance.service.clone(), entry.instance.id.clone());
            let command = Command::AnnounceReport { service, id, check: check.clone(), status: changed };
            self.set_status(command, caller).await?;
            history.set_announced(self.clock.now());
        } else if is_first {
            // The runner announces it when it is due.
            self.changes.holder_changed(entry);
        }
        Ok(())
    }

    fn entry_of(&self, service: &ServiceName, id: &InstanceId) -> Result<Arc<Entry>, EngineError> {
        let no_instance = || CommandError::NoSuchInstance { service: service.clone(), id: id.clone() };
        Ok(self.commands.registry().get(service, id.as_str()).ok_or_else(no_instance)?)
    }

    /// Returns the history of a TTL check, and creates it if there is none.
    fn history_to_report(&self, entry: &Entry, check: &CheckId) -> Result<Arc<CheckHistory>, ReportError> {
        let known = ttl_check(entry, check)?;
        let key = (entry.instance.service.clone(), entry.instance.id.clone(), check.clone());
        Ok(self.history_by_key(&key).unwrap_or_else(|| {
            let created = self.history_of(entry, known);
            self.unconfirmed.lock().push(key);
            created
        }))
    }
}

/// Returns the TTL check of an instance with this id.
fn ttl_check<'a>(entry: &'a Entry, check: &CheckId) -> Result<&'a Check, ReportError> {
    let Some(known) = entry.instance.checks.get(check.as_str()) else {
        let (service, id) = (entry.instance.service.clone(), entry.instance.id.clone());
        return Err(EngineError::from(CommandError::NoSuchCheck { service, id, check: check.clone() }).into());
    };
    if known.definition.probe == Probe::Ttl { Ok(known) } else { Err(ReportError::NotTtl(check.clone())) }
}

/// Returns the longest interval or TTL of an instance's checks.
fn longest_interval(entry: &Entry) -> Duration {
    let checks = entry.instance.checks.iter().filter(|check| check.definition.probe != Probe::Static);
    checks.map(|check| check.definition.interval).max().unwrap_or_default()
}
