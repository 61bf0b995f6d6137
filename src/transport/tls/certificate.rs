//! Names and validity of a certificate.

use std::time::Duration;

use x509_cert::{
    Certificate,
    der::{self, Decode},
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// Summary of a certificate, for logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CertificateSummary {
    /// DNS names, addresses and URIs of the certificate; if there are none, its common name.
    pub(super) names: Vec<String>,
    /// Seconds since 1970 from which it is valid.
    pub(super) not_before: u64,
    /// Seconds since 1970 until which it is valid.
    pub(super) not_after: u64,
}

impl CertificateSummary {
    /// Reads a certificate in DER.
    pub(super) fn read(der: &[u8]) -> Result<Self, der::Error> {
        let certificate = Certificate::from_der(der)?;
        let validity = certificate.tbs_certificate().validity();
        let mut names: Vec<_> = alternative_names(&certificate)?.iter().filter_map(shown).collect();
        if names.is_empty() {
            names.extend(certificate.tbs_certificate().subject().common_name()?.map(|name| name.value().into_owned()));
        }
        Ok(Self {
            names,
            not_before: validity.not_before.to_unix_duration().as_secs(),
            not_after: validity.not_after.to_unix_duration().as_secs(),
        })
    }

    /// End of its validity in RFC 3339.
    pub(super) fn end(&self) -> String {
        let end = std::time::UNIX_EPOCH + Duration::from_secs(self.not_after);
        humantime::format_rfc3339_seconds(end).to_string()
    }
}

/// Reads the subject alternative names.
pub(super) fn alternative_names(certificate: &Certificate) -> Result<Vec<GeneralName>, der::Error> {
    let found = certificate.tbs_certificate().get_extension::<SubjectAltName>()?;
    Ok(found.map_or_else(Vec::new, |(_, names)| names.0))
}

fn shown(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) | GeneralName::UniformResourceIdentifier(name) => Some(name.as_str().to_owned()),
        GeneralName::IpAddress(address) => address_of(address.as_bytes()),
        GeneralName::OtherName(_)
        | GeneralName::Rfc822Name(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EdiPartyName(_)
        | GeneralName::RegisteredId(_) => None,
    }
}

fn address_of(bytes: &[u8]) -> Option<String> {
    let four = <[u8; 4]>::try_from(bytes).map(|bytes| std::net::Ipv4Addr::from(bytes).to_string());
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| std::net::Ipv6Addr::from(bytes).to_string())).ok()
}
