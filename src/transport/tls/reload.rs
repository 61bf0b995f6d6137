//! Notices changed files, and certificates that are about to end.
//!
//! Files are looked at, not watched by the kernel: a look is three system calls a second, works on every file system,
//! and does not care by how many links a mounted secret is reached.

use std::{sync::Arc, time::Duration};

use tokio::{task::spawn_blocking, time::sleep};

use super::{CertificateSummary, LoadedTls, TlsError, TlsPaths, TlsState};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
const DAY: u64 = 24 * 60 * 60;

/// How near the end of a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ExpiryStage {
    Fine,
    Soon,
    Urgent,
    Over,
}

impl ExpiryStage {
    /// 30 and 7 days before the end; for certificates that live shorter than 90 days, when a third and a tenth of their time is
    /// left: those are replaced often, and a warning that is always there warns nobody.
    pub(super) fn at(seconds_since_1970: u64, certificate: &CertificateSummary) -> Self {
        let left = certificate.not_after.saturating_sub(seconds_since_1970);
        let life = certificate.not_after.saturating_sub(certificate.not_before);
        match left {
            0 => Self::Over,
            left if left < (7 * DAY).min(life / 10) => Self::Urgent,
            left if left < (30 * DAY).min(life / 3) => Self::Soon,
            _ => Self::Fine,
        }
    }
}

impl TlsState {
    /// Reads the files again when they have changed, or when it is asked to, and warns of certificates that are about to
    /// end. It does not end.
    pub async fn watch(self: Arc<Self>) {
        let mut read = self.first.clone();
        let mut last = read.clone();
        let mut told = ExpiryStage::Fine;
        loop {
            self.warn_of_end(&mut told);
            let asked = tokio::select! {
                () = sleep(LOOK) => false,
                () = self.asked.notified() => true,
            };
            let Some(look) = self.off_thread(TlsPaths::look).await else { continue };
            // Certificate and key are seldom replaced in one instant: they are read once they have come to rest.
            let changed = look != read && look == last;
            last = look.clone();
            if asked || changed {
                read = look;
                self.read_again().await;
            }
        }
    }

    async fn read_again(&self) {
        let Some(loaded) = self.off_thread(TlsPaths::load).await else { return };
        match loaded.and_then(|loaded| self.accept(loaded)) {
            Ok(loaded) => {
                let loaded = Arc::new(loaded);
                *self.loaded.write() = Arc::clone(&loaded);
                self.metrics.tls.reloaded.inc();
                self.announce(&loaded, "certificate reloaded: new connections get it");
            }
            Err(error) => {
                self.metrics.tls.reload_failed.inc();
                tracing::error!(%error, until = self.now().own.end(), "the certificate stays the one before");
            }
        }
    }

    /// Whoever checks would rather have one that holds than the newest.
    pub(super) fn accept(&self, loaded: LoadedTls) -> Result<LoadedTls, TlsError> {
        let now = self.seconds();
        if loaded.own.not_after <= now && now < self.now().own.not_after {
            return Err(TlsError::Expired { path: self.files.certificate.clone(), on: loaded.own.end() });
        }
        Ok(loaded)
    }

    fn warn_of_end(&self, told: &mut ExpiryStage) {
        let loaded = self.now();
        let stage = ExpiryStage::at(self.seconds(), &loaded.own);
        if stage <= std::mem::replace(told, stage) {
            return;
        }
        let (certificate, until) = (self.files.certificate.display(), loaded.own.end());
        match stage {
            ExpiryStage::Fine => {}
            ExpiryStage::Soon => tracing::warn!(%certificate, until, "the certificate ends soon: renew it"),
            ExpiryStage::Urgent => tracing::warn!(%certificate, until, "the certificate is about to end: renew it now"),
            ExpiryStage::Over => {
                tracing::error!(%certificate, until, "the certificate has ended and clients refuse it: renew it");
            }
        }
    }

    fn seconds(&self) -> u64 {
        self.clock.now().wall.0 / 1_000
    }

    /// Files may be on a disk that does not answer.
    async fn off_thread<T: Send + 'static>(&self, ask: fn(&TlsPaths) -> T) -> Option<T> {
        let files = self.files.clone();
        // An error means that the runtime is going away.
        spawn_blocking(move || ask(&files)).await.ok()
    }
}
