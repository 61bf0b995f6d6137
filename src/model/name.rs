//! The names that identify things: services, instances, boots.

use std::{borrow::Borrow, fmt, hash::Hasher, sync::Arc};

use siphasher::sip128::{Hasher128, SipHasher13};

use super::{FieldError, identity};

/// Longest name of a service or an instance, in bytes: that of a DNS name.
const LONGEST: usize = 253;
/// Longest id that an instance can have, in bytes: that of a node and an id of 512 bytes each, all of them escaped.
const LONGEST_MADE: usize = 2 + 2 * 3 * 512;
/// Longest boot id, in bytes.
const LONGEST_BOOT: usize = 64;

/// The name of a service: 1 to 253 of `[A-Za-z0-9._-]`, starting alphanumeric, case-sensitive. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// Takes a name as given.
    ///
    /// # Errors
    ///
    /// When it is empty, too long, starts with punctuation, or has any other character.
    pub fn parse(name: &str) -> Result<Self, FieldError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let problem = if name.is_empty() {
            "is empty"
        } else if name.len() > LONGEST {
            "is longer than 253 bytes"
        } else if !name.bytes().all(allowed) {
            "has a character that names may not have"
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

    /// A name that none that is given can be.
    pub(super) fn reserved(name: &str) -> Self {
        Self(name.into())
    }

    /// Takes a name as it was kept: one of a service, or one that the registry keeps for itself.
    ///
    /// # Errors
    ///
    /// As [`ServiceName::parse`].
    pub fn parse_stored(name: &str) -> Result<Self, FieldError> {
        let nodes = super::node_service();
        if name == nodes.as_str() { Ok(nodes) } else { Self::parse(name) }
    }

    /// Whether it is one of those that the registry keeps for itself: no service, and in no list of them.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('_')
    }

    /// Returns the name in lower case. `None`: it is so already.
    #[must_use]
    pub fn folded(&self) -> Option<Self> {
        let upper = self.0.bytes().any(|byte| byte.is_ascii_uppercase());
        upper.then(|| Self(self.0.to_ascii_lowercase().into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Identifies an instance within its service: visible ASCII characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    /// Takes an id as given: 1 to 253 visible ASCII characters, of which the first is not `@`.
    ///
    /// # Errors
    ///
    /// When it is empty, too long, has a space, a control character or anything beyond ASCII, or starts with `@`.
    pub fn parse(id: &str) -> Result<Self, FieldError> {
        visible("id", id, LONGEST, "use 1 to 253 visible ASCII characters, unique within the service")?;
        if id.starts_with(identity::RESERVED) {
            let problem = "starts with '@', as ids do that the registry makes for Consul registrations";
            return Err(FieldError::new("id", id, problem, "start it with another character"));
        }
        Ok(Self(id.into()))
    }

    /// Takes the id of an instance that may be registered, also one that the registry has made.
    ///
    /// # Errors
    ///
    /// When no instance can have it.
    pub fn parse_any(id: &str) -> Result<Self, FieldError> {
        visible("id", id, LONGEST_MADE, "use an id as the registry shows it: list the service to see them")?;
        Ok(Self(id.into()))
    }

    /// An id that the registry makes.
    pub(super) fn made(id: &str) -> Self {
        Self(id.into())
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What tells one start of a program from the next: 1 to 64 visible ASCII characters, made at random by the program.
/// It is never shown to readers: whoever repeats it speaks for the registration. Kept as a digest, which is smaller.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BootId(u128);

impl BootId {
    /// Takes a boot id as given.
    ///
    /// # Errors
    ///
    /// When it is empty, too long, or has a space, a control character or anything beyond ASCII.
    pub fn parse(id: &str) -> Result<Self, FieldError> {
        let remedy = "send a random string of 1 to 64 visible ASCII characters, made once by each start of the program";
        visible("boot_id", id, LONGEST_BOOT, remedy)?;
        let mut digest = SipHasher13::new();
        digest.write(id.as_bytes());
        Ok(Self(digest.finish128().as_u128()))
    }

    /// The digest, as it was stored.
    #[must_use]
    pub fn from_digest(digest: u128) -> Self {
        Self(digest)
    }

    /// The digest, to be stored. It is the same in every build.
    #[must_use]
    pub fn digest(self) -> u128 {
        self.0
    }
}

fn visible(field: &'static str, text: &str, longest: usize, remedy: &'static str) -> Result<(), FieldError> {
    let problem = if text.is_empty() {
        "is empty".into()
    } else if text.len() > longest {
        format!("is longer than {longest} bytes")
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        "has a character that is not visible ASCII".into()
    } else {
        return Ok(());
    };
    Err(FieldError::new(field, text, problem, remedy))
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
    /// A boot id is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BootId(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names() {
        for good in ["a", "web", "Web.v2_x-1", "0", &"a".repeat(253)] {
            assert_eq!(ServiceName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "-web", ".web", "_x", "we b", "wéb", "web/1", "web\n", &"a".repeat(254)] {
            let refusal = ServiceName::parse(bad).unwrap_err();
            assert_eq!(refusal.field, "service", "{bad}");
        }
    }

    #[test]
    fn instance_and_boot_ids() {
        assert!(InstanceId::parse("10.0.0.1:80/x?").is_ok());
        for bad in ["", "a b", "a\u{7f}", "ü", "@a", &"a".repeat(254)] {
            assert!(InstanceId::parse(bad).is_err(), "{bad}");
        }
        let refusal = InstanceId::parse("@n2/web").unwrap_err().to_string();
        assert!(refusal.starts_with("id \"@n2/web\" starts with '@'"), "{refusal}");
        assert_eq!(InstanceId::parse_any("@n2/web").unwrap().as_str(), "@n2/web");
        assert!(BootId::parse(&"b".repeat(64)).is_ok());
        assert!(BootId::parse(&"b".repeat(65)).is_err());
        assert_ne!(BootId::parse("b"), BootId::parse("B"));
    }
}
