//! Name that a client's certificate proves.
//!
//! It is the SPIFFE id if there is one, else the first DNS name, else the common name. The form of a name shows which of the three it is. Some
//! authorities let the holders of their certificates choose a common name, so a common name in the form of a SPIFFE id is invalid.

use std::sync::Arc;

use x509_cert::{
    Certificate,
    der::{self, Decode},
    ext::pkix::name::GeneralName,
};

use super::certificate::alternative_names;

const SPIFFE: &str = "spiffe://";
/// Maximum length of a SPIFFE id by its specification, in bytes.
const MAX_SPIFFE_ID_BYTES: usize = 2_048;
/// Maximum length of a DNS name, in bytes.
const MAX_DNS_NAME_BYTES: usize = 253;
/// Maximum length of a common name, in characters.
const MAX_COMMON_NAME_CHARS: usize = 64;

/// Error of a certificate without a usable name.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate is not an X.509 certificate.
    #[error("the certificate is malformed: {0}")]
    Malformed(#[from] der::Error),
    /// It has more than one SPIFFE id.
    #[error("the certificate has {0} SPIFFE ids: it may have one")]
    Several(usize),
    /// A name has an invalid form.
    #[error("invalid {kind} in the certificate: {name:?}")]
    Bad {
        /// Kind of name.
        kind: &'static str,
        /// The name as it is written.
        name: String,
    },
    /// It has no name.
    #[error("the certificate has neither a SPIFFE id nor a DNS name nor a common name")]
    None,
}

/// Reads the name that a certificate in DER proves.
pub(super) fn identity(der: &[u8]) -> Result<Arc<str>, IdentityError> {
    let certificate = Certificate::from_der(der)?;
    let names = alternative_names(&certificate)?;
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str()),
        _ => None,
    });
    // Schemes of URIs ignore case.
    let ids: Vec<_> =
        uris.filter(|uri| uri.get(..SPIFFE.len()).is_some_and(|start| start.eq_ignore_ascii_case(SPIFFE))).collect();
    match *ids {
        [] => {}
        [id] if is_spiffe_id(id) => return Ok(id.into()),
        [id] => return Err(IdentityError::Bad { kind: "SPIFFE id", name: id.to_owned() }),
        _ => return Err(IdentityError::Several(ids.len())),
    }
    let dns = names.iter().find_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str()),
        _ => None,
    });
    if let Some(name) = dns {
        return if is_dns_name(name) {
            Ok(name.to_ascii_lowercase().into())
        } else {
            Err(IdentityError::Bad { kind: "DNS name", name: name.to_owned() })
        };
    }
    let common = certificate.tbs_certificate().subject().common_name()?.ok_or(IdentityError::None)?;
    let common = common.value();
    if is_common_name(&common) {
        Ok((*common).into())
    } else {
        Err(IdentityError::Bad { kind: "common name", name: common.into_owned() })
    }
}

/// Returns whether a text is a SPIFFE id: `spiffe://`, a trust domain, and a path of plain segments.
fn is_spiffe_id(id: &str) -> bool {
    let Some(rest) = id.strip_prefix(SPIFFE).filter(|_| id.len() <= MAX_SPIFFE_ID_BYTES) else { return false };
    let mut segments = rest.split('/');
    let domain = segments.next().unwrap_or_default();
    let in_domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let in_path = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_segment = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(in_path);
    !domain.is_empty() && domain.bytes().all(in_domain) && segments.all(is_segment)
}

fn is_dns_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte);
    (1..=MAX_DNS_NAME_BYTES).contains(&name.len()) && name.bytes().all(plain)
}

fn is_common_name(name: &str) -> bool {
    (1..=MAX_COMMON_NAME_CHARS).contains(&name.chars().count())
        && !name.contains("://")
        && !name.contains(char::is_control)
        && name.trim() == name
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    fn named(names: Vec<SanType>, common: Option<&str>) -> Result<String, String> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(common) = common {
            params.distinguished_name.push(DnType::CommonName, common);
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        identity(certificate.der()).map(|name| name.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn identity_is_the_spiffe_id_then_the_dns_name_then_the_common_name() {
        let id = "spiffe://prod.example/ns/default/sa/web";
        let all = vec![dns("web.example"), uri("https://web.example"), uri(id)];
        assert_eq!(named(all, Some("web")).unwrap(), id);
        assert_eq!(named(vec![uri("https://x"), dns("Web.Example"), dns("b")], Some("web")).unwrap(), "web.example");
        assert_eq!(named(vec![], Some("the web team")).unwrap(), "the web team");
        assert!(named(vec![], None).unwrap_err().contains("neither"));
    }

    #[test]
    fn certificate_with_two_spiffe_ids_is_rejected() {
        let error = named(vec![uri("spiffe://a/x"), uri("SPIFFE://a/y")], Some("web")).unwrap_err();
        assert!(error.contains("2 SPIFFE ids"), "{error}");
    }

    #[test]
    fn name_of_invalid_form_is_rejected() {
        for id in [
            "spiffe://",
            "spiffe:///path",
            "spiffe://a//b",
            "spiffe://a/",
            "spiffe://a/../b",
            "spiffe://A/b",
            "spiffe://a/b?c",
            "SPIFFE://a/b",
            "spiffe://user@a/b",
            "spiffe://a/b%2fc",
        ] {
            let error = named(vec![uri(id)], Some("web")).unwrap_err();
            assert!(error.contains("SPIFFE id"), "{id}: {error}");
        }
        for common in ["spiffe://a/b", "two\nlines", "", " web", &"x".repeat(65)] {
            let error = named(vec![], Some(common)).unwrap_err();
            assert!(error.contains("common name"), "{common:?}: {error}");
        }
        let error = named(vec![dns("spiffe://a/b")], None).unwrap_err();
        assert!(error.contains("DNS name"), "{error}");
        assert!(matches!(identity(b"no certificate"), Err(IdentityError::Malformed(_))));
    }
}
