//! Names and ids: of services, instances and program starts.

use std::{borrow::Borrow, fmt, hash::Hasher, sync::Arc};

use siphasher::{
    sip,
    sip128::{Hasher128, SipHasher13},
};

use super::FieldError;

/// Maximum length of the name of a service or the id of an instance in bytes: that of a DNS name.
const MAX_NAME_BYTES: usize = 253;
/// Maximum length of the id of a Consul registration in bytes: a node and an id of 512 bytes each, with every byte escaped.
const MAX_CONSUL_ID_BYTES: usize = 2 + 2 * 3 * 512;
/// Maximum length of a boot id in bytes.
const MAX_BOOT_ID_BYTES: usize = 64;
/// First character of the ids that the registry makes for Consul registrations.
pub(super) const RESERVED_PREFIX: char = '@';
/// Name of the reserved service whose instances are the nodes.
const NODE_SERVICE: &str = "_nodes";

/// Name of a service: 1 to 253 of `[A-Za-z0-9._-]`, starting alphanumeric, case-sensitive. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// Parses a name.
    ///
    /// # Errors
    ///
    /// When the name is empty, too long, does not start alphanumeric, or contains another character.
    pub fn parse(name: &str) -> Result<Self, FieldError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let problem = if name.is_empty() {
            "is empty"
        } else if name.len() > MAX_NAME_BYTES {
            "is longer than 253 bytes"
        } else if !name.bytes().all(allowed) {
            "contains an invalid character"
        } else if !name.as_bytes()[0].is_ascii_alphanumeric() {
            "does not start with a letter or a digit"
        } else {
            return Ok(Self(name.into()));
        };
        Err(FieldError::new(
            "service",
            name,
            problem,
            "use 1 to 253 letters, digits, '.', '_' or '-', starting with a letter or digit",
        ))
    }

    /// A name that no service can have, because [`ServiceName::parse`] rejects it.
    pub(super) fn reserved(name: &str) -> Self {
        Self(name.into())
    }

    /// Parses a stored name: that of a service, or of the nodes.
    ///
    /// # Errors
    ///
    /// As [`ServiceName::parse`].
    pub fn parse_stored(name: &str) -> Result<Self, FieldError> {
        if name == NODE_SERVICE { Ok(node_service()) } else { Self::parse(name) }
    }

    /// Returns whether the name is reserved for the registry itself. Reserved names are in no list of services.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('_')
    }

    /// Returns the name in lower case, or `None` if it is in lower case.
    #[must_use]
    pub fn folded(&self) -> Option<Self> {
        let upper = self.0.bytes().any(|byte| byte.is_ascii_uppercase());
        upper.then(|| Self(self.0.to_ascii_lowercase().into()))
    }

    /// Text of the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the reserved service whose instances are the nodes.
///
/// For a node, address, metadata, checks and draining mean the same as for an instance, so it is stored and changed like one.
#[must_use]
pub fn node_service() -> ServiceName {
    ServiceName::reserved(NODE_SERVICE)
}

/// Id of an instance, unique within its service: visible ASCII characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    /// Parses an id of the native API: 1 to 253 visible ASCII characters, the first of which is not `@`.
    ///
    /// # Errors
    ///
    /// When the id is empty, too long, contains a space, a control character or a character beyond ASCII, or starts with `@`.
    pub fn parse(id: &str) -> Result<Self, FieldError> {
        validate_visible("id", id, MAX_NAME_BYTES, "use 1 to 253 visible ASCII characters, unique within the service")?;
        if id.starts_with(RESERVED_PREFIX) {
            let problem = "starts with '@', like the ids that the registry makes for Consul registrations";
            return Err(FieldError::new("id", id, problem, "start it with another character"));
        }
        Ok(Self(id.into()))
    }

    /// Parses any id, also one that the registry made for a Consul registration.
    ///
    /// # Errors
    ///
    /// When no instance can have the id.
    pub fn parse_any(id: &str) -> Result<Self, FieldError> {
        validate_visible(
            "id",
            id,
            MAX_CONSUL_ID_BYTES,
            "use an id as the registry shows it: list the service to see them",
        )?;
        Ok(Self(id.into()))
    }

    /// An id without validation, for those that the registry makes.
    pub(super) fn unchecked(id: &str) -> Self {
        Self(id.into())
    }

    /// Returns 32 bits of the hash of the id, which are the same in every process.
    #[must_use]
    pub fn short_hash(&self) -> u32 {
        let mut hasher = sip::SipHasher13::new();
        hasher.write(self.0.as_bytes());
        let [.., a, b, c, d] = hasher.finish().to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    /// Text of the id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Id of one start of a program: 1 to 64 visible ASCII characters, chosen at random by the program.
///
/// It is a secret that authorizes writes to the registration, so readers never see it. Only a digest is kept, which is smaller.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BootId(u128);

impl BootId {
    /// Parses a boot id.
    ///
    /// # Errors
    ///
    /// When the id is empty, too long, or contains a space, a control character or a character beyond ASCII.
    pub fn parse(id: &str) -> Result<Self, FieldError> {
        let hint = "send a random string of 1 to 64 visible ASCII characters, made once by each start of the program";
        validate_visible("boot_id", id, MAX_BOOT_ID_BYTES, hint)?;
        let mut digest = SipHasher13::new();
        digest.write(id.as_bytes());
        Ok(Self(digest.finish128().as_u128()))
    }

    /// A boot id with this stored digest.
    #[must_use]
    pub fn from_digest(digest: u128) -> Self {
        Self(digest)
    }

    /// Digest of the id, which is the same in every build.
    #[must_use]
    pub fn digest(self) -> u128 {
        self.0
    }
}

fn validate_visible(field: &'static str, text: &str, max_bytes: usize, hint: &'static str) -> Result<(), FieldError> {
    let problem = if text.is_empty() {
        "is empty".into()
    } else if text.len() > max_bytes {
        format!("is longer than {max_bytes} bytes")
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        "contains a character that is not visible ASCII".into()
    } else {
        return Ok(());
    };
    Err(FieldError::new(field, text, problem, hint))
}

macro_rules! as_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

as_text!(ServiceName);
as_text!(InstanceId);

impl fmt::Debug for BootId {
    /// Omits the id, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BootId(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_name_with_invalid_character_or_length_is_rejected() {
        for good in ["a", "web", "Web.v2_x-1", "0", &"a".repeat(253)] {
            assert_eq!(ServiceName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "-web", ".web", "_x", "we b", "wéb", "web/1", "web\n", &"a".repeat(254)] {
            let error = ServiceName::parse(bad).unwrap_err();
            assert_eq!(error.field, "service", "{bad}");
        }
    }

    #[test]
    fn instance_or_boot_id_with_invalid_character_or_length_is_rejected() {
        assert!(InstanceId::parse("10.0.0.1:80/x?").is_ok());
        for bad in ["", "a b", "a\u{7f}", "ü", "@a", &"a".repeat(254)] {
            assert!(InstanceId::parse(bad).is_err(), "{bad}");
        }
        let error = InstanceId::parse("@n2/web").unwrap_err().to_string();
        assert!(error.starts_with("id \"@n2/web\" starts with '@'"), "{error}");
        assert_eq!(InstanceId::parse_any("@n2/web").unwrap().as_str(), "@n2/web");
        assert!(BootId::parse(&"b".repeat(64)).is_ok());
        assert!(BootId::parse(&"b".repeat(65)).is_err());
        assert_ne!(BootId::parse("b"), BootId::parse("B"));
    }
}
