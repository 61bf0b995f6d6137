//! Reload of changed files, and warnings of certificates that expire soon.
//!
//! The files are polled instead of watched by the kernel. Polling takes three system calls a second, works on every file system, and follows the links of a
//! mounted secret.

use std::{sync::Arc, time::Duration};

use tokio::{task::spawn_blocking, time::sleep};

use super::{CertificateSummary, LoadedTls, TlsError, TlsPaths, TlsState};

/// Time between two polls of the files.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const DAY_SECONDS: u64 = 24 * 60 * 60;

/// Urgency of the renewal of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ExpiryStage {
    Fine,
    Soon,
    Urgent,
    Expired,
}

impl ExpiryStage {
    /// Returns the stage at a time: `Soon` and `Urgent` begin 30 and 7 days before expiry. For certificates with a validity below 90 days they begin when a third
    /// and a tenth of the validity are left: such certificates are replaced often, and a permanent warning would be ignored.
    pub(super) fn at(seconds_since_1970: u64, certificate: &CertificateSummary) -> Self {
        let left = certificate.not_after.saturating_sub(seconds_since_1970);
        let life = certificate.not_after.saturating_sub(certificate.not_before);
        match left {
            0 => Self::Expired,
            left if left < (7 * DAY_SECONDS).min(life / 10) => Self::Urgent,
            left if left < (30 * DAY_SECONDS).min(life / 3) => Self::Soon,
            _ => Self::Fine,
        }
    }
}

impl TlsState {
    /// Reads the files again when they have changed or [`TlsState::reload`] is called, and warns of certificates that expire soon. Does not return.
    pub async fn watch(self: Arc<Self>) {
        let mut read = self.first.clone();
        let mut last = read.clone();
        let mut warned = ExpiryStage::Fine;
        loop {
            self.warn_of_expiry(&mut warned);
            let requested = tokio::select! {
                () = sleep(POLL_INTERVAL) => false,
                () = self.reload_requested.notified() => true,
            };
            let Some(now) = self.blocking(TlsPaths::fingerprints).await else { continue };
            // Certificate and key are rarely replaced at the same moment, so they are read once two polls in a row are
            // equal.
            let changed = now != read && now == last;
            last = now.clone();
            if requested || changed {
                read = now;
                self.load_again().await;
            }
        }
    }

    async fn load_again(&self) {
        let Some(loaded) = self.blocking(TlsPaths::load).await else { return };
        match loaded.and_then(|loaded| self.accept(loaded)) {
            Ok(loaded) => {
                let loaded = Arc::new(loaded);
                *self.loaded.write() = Arc::clone(&loaded);
                self.metrics.tls.reloaded.inc();
                self.report(&loaded, "certificate reloaded: new connections use it");
            }
            Err(error) => {
                self.metrics.tls.reload_failed.inc();
                tracing::error!(%error, until = self.current().own.end(), "certificate not reloaded: the previous one stays in use");
            }
        }
    }

    /// Accepts loaded files, unless they would replace a valid certificate by an expired one.
    pub(super) fn accept(&self, loaded: LoadedTls) -> Result<LoadedTls, TlsError> {
        let now = self.seconds();
        if loaded.own.not_after <= now && now < self.current().own.not_after {
            return Err(TlsError::Expired { path: self.files.certificate.clone(), on: loaded.own.end() });
        }
        Ok(loaded)
    }

    fn warn_of_expiry(&self, warned: &mut ExpiryStage) {
        let loaded = self.current();
        let stage = ExpiryStage::at(self.seconds(), &loaded.own);
        if stage <= std::mem::replace(warned, stage) {
            return;
        }
        let (certificate, until) = (self.files.certificate.display(), loaded.own.end());
        match stage {
            ExpiryStage::Fine => {}
            ExpiryStage::Soon => tracing::warn!(%certificate, until, "the certificate expires soon: renew it"),
            ExpiryStage::Urgent => {
                tracing::warn!(%certificate, until, "the certificate is about to expire: renew it now");
            }
            ExpiryStage::Expired => {
                tracing::error!(%certificate, until, "the certificate has expired and clients reject it: renew it");
            }
        }
    }

    fn seconds(&self) -> u64 {
        self.clock.now().wall.0 / 1_000
    }

    /// Calls a function on a thread for blocking calls: the files may be on a disk that does not answer.
    async fn blocking<T: Send + 'static>(&self, call: fn(&TlsPaths) -> T) -> Option<T> {
        let files = self.files.clone();
        // An error means that the runtime is shutting down.
        spawn_blocking(move || call(&files)).await.ok()
    }
}
