//! Whom a client's certificate names.
//!
//! Its SPIFFE id if it has one, else its first DNS name, else its common name. The three are told apart by how they
//! look, since whoever issues certificates may let their holders choose a common name: none that looks like a SPIFFE id is
//! taken for one.

use std::sync::Arc;

use x509_cert::{
    Certificate,
    der::{self, Decode},
    ext::pkix::name::GeneralName,
};

use super::certificate::alternative_names;

const SPIFFE: &str = "spiffe://";
/// Longest SPIFFE id, by its specification.
const LONGEST_ID: usize = 2_048;
/// Longest DNS name.
const LONGEST_NAME: usize = 253;
/// Longest common name, in characters.
const LONGEST_COMMON_NAME: usize = 64;

/// Why a certificate names nobody.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not readable as a certificate.
    #[error("the certificate is malformed: {0}")]
    Malformed(#[from] der::Error),
    /// Which of them it is cannot be told.
    #[error("the certificate has {0} SPIFFE ids, and may have one")]
    Several(usize),
    /// A name that is none.
    #[error("the certificate's {kind} {name:?} is not one")]
    Bad {
        /// Which kind of name.
        kind: &'static str,
        /// As it is written there.
        name: String,
    },
    /// No name at all.
    #[error("the certificate has neither a SPIFFE id nor a DNS name nor a common name")]
    None,
}

/// Whom a certificate in DER names.
pub(super) fn identity(der: &[u8]) -> Result<Arc<str>, IdentityError> {
    let certificate = Certificate::from_der(der)?;
    let names = alternative_names(&certificate)?;
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str()),
        _ => None,
    });
    // Schemes are spelt in any case.
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

/// `spiffe://`, a trust domain, and a path of plain segments.
fn is_spiffe_id(id: &str) -> bool {
    let Some(rest) = id.strip_prefix(SPIFFE).filter(|_| id.len() <= LONGEST_ID) else { return false };
    let mut segments = rest.split('/');
    let domain = segments.next().unwrap_or_default();
    let in_domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let in_path = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_segment = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(in_path);
    !domain.is_empty() && domain.bytes().all(in_domain) && segments.all(is_segment)
}

fn is_dns_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte);
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(plain)
}

fn is_common_name(name: &str) -> bool {
    (1..=LONGEST_COMMON_NAME).contains(&name.chars().count())
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
    fn the_spiffe_id_comes_first_then_dns_then_the_common_name() {
        let id = "spiffe://prod.example/ns/default/sa/web";
        let all = vec![dns("web.example"), uri("https://web.example"), uri(id)];
        assert_eq!(named(all, Some("web")).unwrap(), id);
        assert_eq!(named(vec![uri("https://x"), dns("Web.Example"), dns("b")], Some("web")).unwrap(), "web.example");
        assert_eq!(named(vec![], Some("the web team")).unwrap(), "the web team");
        assert!(named(vec![], None).unwrap_err().contains("neither"));
    }

    #[test]
    fn two_spiffe_ids_are_nobody() {
        let said = named(vec![uri("spiffe://a/x"), uri("SPIFFE://a/y")], Some("web")).unwrap_err();
        assert!(said.contains("2 SPIFFE ids"), "{said}");
    }

    #[test]
    fn a_name_that_only_looks_like_one_is_nobody() {
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
            let said = named(vec![uri(id)], Some("web")).unwrap_err();
            assert!(said.contains("SPIFFE id"), "{id}: {said}");
        }
        for common in ["spiffe://a/b", "two\nlines", "", " web", &"x".repeat(65)] {
            let said = named(vec![], Some(common)).unwrap_err();
            assert!(said.contains("common name"), "{common:?}: {said}");
        }
        let said = named(vec![dns("spiffe://a/b")], None).unwrap_err();
        assert!(said.contains("DNS name"), "{said}");
        assert!(matches!(identity(b"no certificate"), Err(IdentityError::Malformed(_))));
    }
}
