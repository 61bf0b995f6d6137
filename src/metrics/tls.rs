//! Counters of TLS handshakes and of certificate reloads.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::registrar::{Label, Registrar};

/// Metrics of TLS: handshakes, reloads, and the expiry of certificates.
#[derive(Debug)]
pub struct TlsMetrics {
    /// Handshakes that succeeded.
    pub succeeded: Counter,
    /// Handshakes of peers that did not speak TLS.
    pub plaintext: Counter,
    /// Handshakes of peers whose certificate is missing or not accepted.
    pub client_certificate: Counter,
    /// Handshakes that failed for another reason.
    pub failed: Counter,
    /// Reloads that put new certificates into use.
    pub reloaded: Counter,
    /// Reloads that failed, so that the earlier certificates stayed in use.
    pub reload_failed: Counter,
    expiry: Family<CertificateLabel, Gauge>,
}

/// File that certificates were read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateFile {
    /// File of the server's certificate.
    Own,
    /// File of the authorities that sign client certificates.
    ClientCa,
}

impl CertificateFile {
    const ALL: [Self; 2] = [Self::Own, Self::ClientCa];

    fn label(self) -> &'static str {
        match self {
            Self::Own => "server",
            Self::ClientCa => "client_ca",
        }
    }
}

impl TlsMetrics {
    pub(super) fn new(registrar: &mut Registrar) -> Self {
        let results = |values: &[&'static str]| vec![Label::new("result", values)];
        let handshakes: Family<ResultLabel, Counter> = registrar.counter_family(
            "tls_handshakes",
            "TLS handshakes, by result",
            results(&["ok", "plaintext", "client_certificate", "failed"]),
        );
        let reloads: Family<ResultLabel, Counter> = registrar.counter_family(
            "tls_reloads",
            "Reloads of changed certificate files; after a failed one the earlier certificates stay in use",
            results(&["ok", "failed"]),
        );
        let expiry = registrar.gauge_family(
            "tls_certificate_expiry_timestamp_seconds",
            "Time at which the first certificate of a file expires, in seconds since 1970",
            vec![Label { name: "certificate", values: CertificateFile::ALL.map(CertificateFile::label).to_vec() }],
        );
        let count = |family: &Family<ResultLabel, Counter>, result| family.get_or_create_owned(&ResultLabel { result });
        Self {
            succeeded: count(&handshakes, "ok"),
            plaintext: count(&handshakes, "plaintext"),
            client_certificate: count(&handshakes, "client_certificate"),
            failed: count(&handshakes, "failed"),
            reloaded: count(&reloads, "ok"),
            reload_failed: count(&reloads, "failed"),
            expiry,
        }
    }

    /// Sets the time at which the first certificate of a file expires.
    pub fn expires(&self, file: CertificateFile, seconds_since_1970: u64) {
        let seconds = i64::try_from(seconds_since_1970).unwrap_or(i64::MAX);
        self.expiry.get_or_create(&CertificateLabel { certificate: file.label() }).set(seconds);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabel {
    certificate: &'static str,
}
