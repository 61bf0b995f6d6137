//! What TLS counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Handshakes, reloads, and when certificates end.
#[derive(Debug)]
pub struct TlsMetrics {
    /// Handshakes that succeeded.
    pub shaken: Counter,
    /// Peers that spoke no TLS.
    pub plaintext: Counter,
    /// Peers whose certificate is missing or not accepted.
    pub unidentified: Counter,
    /// Handshakes that failed otherwise.
    pub failed: Counter,
    /// Certificates that were replaced.
    pub reloaded: Counter,
    /// Files that could not be used, so that the certificates before them stayed.
    pub refused: Counter,
    expiry: Family<CertificateLabel, Gauge>,
}

/// Which file of certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateFile {
    /// The server's own.
    Own,
    /// Those that clients' are checked against.
    ClientCa,
}

impl TlsMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let handshakes = Family::<ResultLabel, Counter>::default();
        let reloads = Family::<ResultLabel, Counter>::default();
        let expiry = Family::default();
        registry.register("tls_handshakes", "TLS handshakes, by how they ended", handshakes.clone());
        registry.register("tls_reloads", "Changed certificates, by whether they are used", reloads.clone());
        let help = "When the first of a file's certificates ends, in seconds since 1970";
        registry.register("tls_certificate_expiry_seconds", help, expiry.clone());
        let count = |family: &Family<ResultLabel, Counter>, result| family.get_or_create_owned(&ResultLabel { result });
        Self {
            shaken: count(&handshakes, "ok"),
            plaintext: count(&handshakes, "plaintext"),
            unidentified: count(&handshakes, "client_certificate"),
            failed: count(&handshakes, "failed"),
            reloaded: count(&reloads, "ok"),
            refused: count(&reloads, "refused"),
            expiry,
        }
    }

    /// Notes when the first certificate of a file ends.
    pub fn expires(&self, file: CertificateFile, seconds_since_1970: u64) {
        let certificate = match file {
            CertificateFile::Own => "server",
            CertificateFile::ClientCa => "client_ca",
        };
        let seconds = i64::try_from(seconds_since_1970).unwrap_or(i64::MAX);
        self.expiry.get_or_create(&CertificateLabel { certificate }).set(seconds);
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
