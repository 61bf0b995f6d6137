//! Selection of the services that a reader watches or lists.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::{FieldError, ServiceName};

/// Maximum number of names in a selector.
const MAX_NAMES: usize = 10_000;
/// Maximum length of a prefix in bytes: that of a name.
const MAX_PREFIX_BYTES: usize = 253;

/// Selection of services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// Services with these names: sorted, unique, at least one.
    Names(Box<[ServiceName]>),
    /// Services whose names start with this prefix, which is not empty.
    Prefix(Box<str>),
    /// All services.
    Everything,
}

impl Selector {
    /// Parses a selector. Exactly one of names, prefix and everything must be given.
    ///
    /// # Errors
    ///
    /// When none or several are given, a name is invalid, or there are more than 10,000 names.
    pub fn parse(names: &[String], prefix: &str, everything: bool) -> Result<Self, FieldError> {
        let given = [!names.is_empty(), !prefix.is_empty(), everything];
        match given.iter().filter(|used| **used).count() {
            0 => Err(FieldError::without_value(
                "services",
                "are not given",
                "give services, a prefix, or everything: true",
            )),
            1 if everything => Ok(Self::Everything),
            1 if names.is_empty() => Self::prefix(prefix),
            1 => Self::names(names),
            _ => {
                let problem = "are given together with prefix or everything";
                Err(FieldError::without_value(
                    "services",
                    problem,
                    "use exactly one of services, prefix and everything",
                ))
            }
        }
    }

    fn prefix(prefix: &str) -> Result<Self, FieldError> {
        let hint = "use the first characters of a service's name: letters, digits, '.', '_' or '-'";
        if prefix.len() > MAX_PREFIX_BYTES {
            return Err(FieldError::new("prefix", prefix, "is longer than 253 bytes", hint));
        }
        // Every prefix of a name is a valid name itself.
        ServiceName::parse(prefix)
            .map_err(|_| FieldError::new("prefix", prefix, "is not the start of a service name", hint))
            .map(|_| Self::Prefix(prefix.into()))
    }

    fn names(given: &[String]) -> Result<Self, FieldError> {
        if given.len() > MAX_NAMES {
            let hint = "name at most 10000, open several streams, or use a prefix or everything";
            return Err(FieldError::without_value("services", format!("have {} entries", given.len()), hint));
        }
        let mut names = Vec::with_capacity(given.len());
        for (at, name) in given.iter().enumerate() {
            names.push(ServiceName::parse(name).map_err(|error| error.with_field(format!("services[{at}]")))?);
        }
        names.sort_unstable();
        names.dedup();
        Ok(Self::Names(names.into()))
    }

    /// Returns whether the service is selected.
    #[must_use]
    pub fn includes(&self, service: &ServiceName) -> bool {
        match self {
            Self::Names(names) => names.binary_search(service).is_ok(),
            Self::Prefix(prefix) => service.as_str().starts_with(&**prefix),
            Self::Everything => !service.is_reserved(),
        }
    }

    /// Computes the digest of a resume token. It is the same in every build for equal selectors with equal filters.
    #[must_use]
    pub fn digest(&self, filter: &str) -> u64 {
        let mut hasher = SipHasher13::new();
        match self {
            Self::Names(names) => {
                for name in names {
                    hasher.write(name.as_str().as_bytes());
                    hasher.write_u8(b'\n');
                }
            }
            Self::Prefix(prefix) => {
                hasher.write_u8(b'^');
                hasher.write(prefix.as_bytes());
            }
            Self::Everything => hasher.write_u8(b'*'),
        }
        hasher.write_u8(0);
        hasher.write(filter.trim().as_bytes());
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(given: &[&str]) -> Result<Selector, FieldError> {
        Selector::parse(&given.iter().map(ToString::to_string).collect::<Vec<_>>(), "", false)
    }

    #[test]
    fn selector_with_none_or_several_criteria_is_rejected() {
        assert!(Selector::parse(&[], "", false).is_err());
        assert!(Selector::parse(&[], "a", true).is_err());
        assert!(Selector::parse(&["a".into()], "a", false).is_err());
        assert_eq!(Selector::parse(&[], "", true), Ok(Selector::Everything));
        assert_eq!(Selector::parse(&[], "pay", false), Ok(Selector::Prefix("pay".into())));
        assert!(Selector::parse(&[], "-pay", false).is_err());
        assert_eq!(names(&["a", "b c"]).unwrap_err().field, "services[1]");
        assert!(names(&vec!["a"; 10_001]).is_err());
    }

    #[test]
    fn digest_ignores_order_and_repetition_of_names() {
        let one = names(&["b", "a", "b"]).unwrap();
        assert_eq!(one, names(&["a", "b"]).unwrap());
        assert_eq!(one.digest(" x "), names(&["a", "b"]).unwrap().digest("x"));
        assert_ne!(one.digest(""), names(&["ab"]).unwrap().digest(""));
        assert_ne!(one.digest(""), one.digest("x"));
        assert_ne!(Selector::Prefix("a".into()).digest(""), names(&["a"]).unwrap().digest(""));
    }

    #[test]
    fn selector_includes_services_by_name_prefix_or_all() {
        let web = ServiceName::parse("web").unwrap();
        assert!(names(&["api", "web"]).unwrap().includes(&web));
        assert!(!names(&["api"]).unwrap().includes(&web));
        assert!(Selector::Prefix("we".into()).includes(&web));
        assert!(!Selector::Prefix("webs".into()).includes(&web));
        assert!(Selector::Everything.includes(&web));
    }
}
