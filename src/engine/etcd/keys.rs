//! Keys of one cluster of replicas in etcd.
//!
//! | key, below `/callboard/v1/CLUSTER/` | value |
//! |---|---|
//! | `meta` | [`RegistryMeta`](super::RegistryMeta) |
//! | `s/SESSION` | [`ReplicaSession`](super::ReplicaSession) |
//! | `i/SERVICE/ID` | [`InstanceValue`](super::InstanceValue) |
//! | `p/SERVICE`, `p/` for the defaults | [`PolicyValue`](super::PolicyValue) |
//! | `b/SESSION/LANE` | [`BatchNote`](super::BatchNote) |
//! | `r/SESSION` | [`ReleaseRequest`](super::ReleaseRequest) |
//! | `x/SERVICE` | [`ExpirationWindow`](super::ExpirationWindow) |
//! | `import` | empty; exists while an import writes the other keys |
//!
//! The keys of a session (`s/`, `b/`, `r/`) have its lease of etcd, which deletes them when the replica is gone.
//!
//! Clusters, services and ids are percent-encoded: all characters but letters, digits and `-._~`. So each identity has one key, a
//! segment has no slash, and the keys of a service have a prefix that no other service has.

use std::{fmt, str};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_decode_str, utf8_percent_encode};

use super::replica_session::SessionId;
use crate::model::{FieldError, InstanceId, PolicyScope, ServiceName};

/// Beginning of all keys. The version rises if the form of the keys changes.
const ROOT: &str = "/callboard/v1/";
/// Characters that are encoded: all but the unreserved ones of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Advice for a key that no version writes.
const REMOVE: &str = "remove it, and keep other data under other prefixes";
/// Reason and advice for a key of a kind that a later version may have.
const UNKNOWN_KIND: (&str, &str) =
    ("this version knows no such kind of key", "leave it if a later version runs as well, and remove it otherwise");
/// Maximum number of bytes of a foreign key in an error.
const MAX_SHOWN_BYTES: usize = 256;

const META: &str = "meta";
const SESSIONS: &str = "s/";
const INSTANCES: &str = "i/";
const POLICIES: &str = "p/";
const NOTES: &str = "b/";
const RELEASE_REQUESTS: &str = "r/";
const EXPIRATIONS: &str = "x/";
const IMPORT: &str = "import";

/// Key of a value in etcd.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RegistryKey {
    /// Format and incarnation of the registry.
    Meta,
    /// Session of a running replica.
    Session(SessionId),
    /// Instance.
    Instance(ServiceName, InstanceId),
    /// Policy of a service, or of all services.
    Policy(PolicyScope),
    /// Newest batch of one lane of a session.
    BatchNote(SessionId, u8),
    /// Newest request of a session to release instances.
    ReleaseRequest(SessionId),
    /// Expired leases of a service.
    Expirations(ServiceName),
}

/// Key that no version with this form of keys writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key:?} is not a key of callboard: {reason}: {hint}")]
pub struct ForeignKey {
    /// Key as text, shortened.
    pub key: String,
    /// Reason.
    pub reason: String,
    /// Remedy.
    pub hint: &'static str,
}

/// Keys of one cluster of replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpace {
    /// Beginning of all keys of the cluster, with a slash at its end.
    prefix: String,
}

impl KeySpace {
    /// Keys of the cluster with this name.
    #[must_use]
    pub fn new(cluster: &str) -> Self {
        Self { prefix: format!("{ROOT}{}/", encoded(cluster)) }
    }

    /// Beginning of all keys of the cluster.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Key that exists while an import writes the registry. No replica starts meanwhile.
    #[must_use]
    pub fn import_mark(&self) -> String {
        format!("{}{IMPORT}", self.prefix)
    }

    /// Beginning of the keys of all sessions.
    #[must_use]
    pub fn sessions(&self) -> String {
        format!("{}{SESSIONS}", self.prefix)
    }

    /// Beginning of the keys of all instances.
    #[must_use]
    pub fn instances(&self) -> String {
        format!("{}{INSTANCES}", self.prefix)
    }

    /// Beginning of the keys of all instances of a service.
    #[must_use]
    pub fn instances_of(&self, service: &ServiceName) -> String {
        format!("{}{INSTANCES}{}/", self.prefix, encoded(service.as_str()))
    }

    /// Beginning of the keys of all policies.
    #[must_use]
    pub fn policies(&self) -> String {
        format!("{}{POLICIES}", self.prefix)
    }

    /// Beginning of the keys of the batch notes of all sessions.
    #[must_use]
    pub fn notes(&self) -> String {
        format!("{}{NOTES}", self.prefix)
    }

    /// Beginning of the keys of the batch notes of a session.
    #[must_use]
    pub fn notes_of(&self, session: SessionId) -> String {
        format!("{}{NOTES}{session}/", self.prefix)
    }

    /// Encodes a key.
    #[must_use]
    pub fn encode(&self, key: &RegistryKey) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Decodes a key.
    ///
    /// # Errors
    ///
    /// When the key is not one that [`Self::encode`] makes for this cluster.
    pub fn decode(&self, key: &[u8]) -> Result<RegistryKey, ForeignKey> {
        let text = str::from_utf8(key).map_err(|_| foreign(key, "it is not UTF-8"))?;
        let relative = text.strip_prefix(&*self.prefix).ok_or_else(|| {
            let problem = format!("it does not start with {:?}", self.prefix);
            foreign(key, &problem)
        })?;
        RegistryKey::parse(relative).map_err(|reason| foreign(key, &reason))
    }
}

impl fmt::Display for RegistryKey {
    /// Writes the key without the prefix of its cluster.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta => f.write_str(META),
            Self::Session(session) => write!(f, "{SESSIONS}{session}"),
            Self::Instance(service, id) => {
                write!(f, "{INSTANCES}{}/{}", encoded(service.as_str()), encoded(id.as_str()))
            }
            Self::Policy(PolicyScope::Defaults) => f.write_str(POLICIES),
            Self::Policy(PolicyScope::Service(service)) => write!(f, "{POLICIES}{}", encoded(service.as_str())),
            Self::BatchNote(session, lane) => write!(f, "{NOTES}{session}/{lane}"),
            Self::ReleaseRequest(session) => write!(f, "{RELEASE_REQUESTS}{session}"),
            Self::Expirations(service) => write!(f, "{EXPIRATIONS}{}", encoded(service.as_str())),
        }
    }
}

impl RegistryKey {
    /// Parses a key without the prefix of its cluster.
    ///
    /// # Errors
    ///
    /// Returns the reason if the text is not the one form of a key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let key = Self::parse_any_form(text)?;
        // Each identity has one key: two keys must not stand for one instance.
        if key.to_string() == text { Ok(key) } else { Err(format!("its form is {:?}", key.to_string())) }
    }

    fn parse_any_form(text: &str) -> Result<Self, String> {
        let invalid = |error: FieldError| error.to_string();
        let service = |segment| ServiceName::parse_stored(&decoded(segment)?).map_err(invalid);
        let session =
            |segment| SessionId::parse(segment).ok_or_else(|| "it has no session of 16 hex digits".to_owned());
        if text == META {
            Ok(Self::Meta)
        } else if let Some(rest) = text.strip_prefix(SESSIONS) {
            Ok(Self::Session(session(rest)?))
        } else if let Some(rest) = text.strip_prefix(INSTANCES) {
            let (of, id) = rest.split_once('/').ok_or("it has a service, but no id")?;
            Ok(Self::Instance(service(of)?, InstanceId::parse_any(&decoded(id)?).map_err(invalid)?))
        } else if let Some(rest) = text.strip_prefix(POLICIES) {
            let scope = if rest.is_empty() { PolicyScope::Defaults } else { PolicyScope::Service(service(rest)?) };
            Ok(Self::Policy(scope))
        } else if let Some(rest) = text.strip_prefix(NOTES) {
            let (of, lane) = rest.split_once('/').ok_or("it has a session, but no lane")?;
            Ok(Self::BatchNote(session(of)?, lane.parse().map_err(|_| "its lane is not 0 to 255")?))
        } else if let Some(rest) = text.strip_prefix(RELEASE_REQUESTS) {
            Ok(Self::ReleaseRequest(session(rest)?))
        } else if let Some(rest) = text.strip_prefix(EXPIRATIONS) {
            Ok(Self::Expirations(service(rest)?))
        } else {
            Err(UNKNOWN_KIND.0.to_owned())
        }
    }
}

fn encoded(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, ENCODED)
}

fn decoded(segment: &str) -> Result<String, String> {
    let decoded = percent_decode_str(segment).decode_utf8();
    decoded.map(String::from).map_err(|_| format!("{segment:?} is not UTF-8 once it is decoded"))
}

fn foreign(key: &[u8], reason: &str) -> ForeignKey {
    let shown = &key[..key.len().min(MAX_SHOWN_BYTES)];
    let hint = if reason == UNKNOWN_KIND.0 { UNKNOWN_KIND.1 } else { REMOVE };
    ForeignKey { key: String::from_utf8_lossy(shown).into_owned(), reason: reason.to_owned(), hint }
}

#[cfg(test)]
pub(in crate::engine::etcd) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{engine::record::test_values, model::node_service};

    fn keys() -> KeySpace {
        KeySpace::new("default")
    }

    fn service() -> BoxedStrategy<ServiceName> {
        // Few characters, so that two names are often similar.
        prop_oneof![
            test_values::service(),
            "[ab][ab./%-]{0,2}".prop_filter_map("a name", |name| ServiceName::parse(&name).ok())
        ]
        .boxed()
    }

    fn id() -> BoxedStrategy<InstanceId> {
        let similar = "[ab/%2F@]{1,4}".prop_filter_map("an id", |id| InstanceId::parse_any(&id).ok());
        // Ids of Consul registrations have any node and any id, as visible ASCII.
        let consul = (any::<String>(), any::<String>()).prop_map(|(node, id)| InstanceId::on_node(&node, &id));
        prop_oneof![test_values::id(), similar, consul, any::<String>().prop_map(|node| InstanceId::of_node(&node))]
            .boxed()
    }

    pub fn key() -> BoxedStrategy<RegistryKey> {
        let session = || prop_oneof![any::<u64>(), 0..3_u64].prop_map(SessionId);
        prop_oneof![
            1 => Just(RegistryKey::Meta),
            2 => session().prop_map(RegistryKey::Session),
            8 => (service(), id()).prop_map(|(service, id)| RegistryKey::Instance(service, id)),
            1 => Just(RegistryKey::Policy(PolicyScope::Defaults)),
            3 => service().prop_map(|service| RegistryKey::Policy(PolicyScope::Service(service))),
            2 => (session(), any::<u8>()).prop_map(|(session, lane)| RegistryKey::BatchNote(session, lane)),
            1 => session().prop_map(RegistryKey::ReleaseRequest),
            3 => service().prop_map(RegistryKey::Expirations),
        ]
        .boxed()
    }

    proptest! {
        #[test]
        fn every_key_survives_encoding(key in key(), cluster in any::<String>()) {
            let keys = KeySpace::new(&cluster);
            let text = keys.encode(&key);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(keys.decode(text.as_bytes()), Ok(key));
        }

        #[test]
        fn different_identities_have_different_keys(one in key(), other in key(), clusters in any::<[String; 2]>()) {
            prop_assert_eq!(one == other, keys().encode(&one) == keys().encode(&other));
            let [a, b] = clusters.clone().map(|cluster| KeySpace::new(&cluster));
            let is_within = a.encode(&one).starts_with(b.prefix());
            prop_assert_eq!(is_within, clusters[0] == clusters[1]);
        }

        #[test]
        fn keys_of_a_service_have_a_prefix_of_their_own(one in service(), other in service(), id in id()) {
            let key = keys().encode(&RegistryKey::Instance(other.clone(), id));
            prop_assert_eq!(key.starts_with(&keys().instances_of(&one)), one == other);
        }

        /// Bytes that are decoded are those that encoding makes.
        #[test]
        fn other_key_is_foreign(bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            "/callboard/v1/default/[mspibrx]?[eta/]{0,4}[ab0-9/%+.]{0,20}".prop_map(String::into_bytes),
        ]) {
            match keys().decode(&bytes) {
                Ok(key) => prop_assert_eq!(keys().encode(&key).into_bytes(), bytes),
                Err(error) => prop_assert!(error.key.len() <= 3 * MAX_SHOWN_BYTES),
            }
        }
    }

    #[test]
    fn keys_have_the_documented_form() {
        let service = |name| ServiceName::parse_stored(name).unwrap();
        let id = |id| InstanceId::parse_any(id).unwrap();
        for (key, expected) in [
            (RegistryKey::Meta, "meta"),
            (RegistryKey::Session(SessionId(0xab)), "s/00000000000000ab"),
            (RegistryKey::Instance(service("web.v2"), id("10.0.0.1:80/x%")), "i/web.v2/10.0.0.1%3A80%2Fx%25"),
            (RegistryKey::Instance(node_service(), id("@")), "i/_nodes/%40"),
            (RegistryKey::Policy(PolicyScope::Defaults), "p/"),
            (RegistryKey::Policy(PolicyScope::Service(service("web"))), "p/web"),
            (RegistryKey::BatchNote(SessionId(u64::MAX), 3), "b/ffffffffffffffff/3"),
            (RegistryKey::ReleaseRequest(SessionId(0xab)), "r/00000000000000ab"),
            (RegistryKey::Expirations(service("web")), "x/web"),
        ] {
            assert_eq!(KeySpace::new("eu/1").encode(&key), format!("/callboard/v1/eu%2F1/{expected}"));
        }
    }

    #[test]
    fn key_of_another_form_is_foreign() {
        for (key, reason) in [
            ("/callboard/v1/other/meta", "it does not start with \"/callboard/v1/default/\""),
            ("/callboard/v1/default/o/web/a", "this version knows no such kind of key"),
            ("/callboard/v1/default/metadata", "this version knows no such kind of key"),
            ("/callboard/v1/default/i/web", "it has a service, but no id"),
            ("/callboard/v1/default/i/web/a/b", "its form is \"i/web/a%2Fb\""),
            ("/callboard/v1/default/i/web/a%2fb", "its form is \"i/web/a%2Fb\""),
            ("/callboard/v1/default/i/web/%61", "its form is \"i/web/a\""),
            ("/callboard/v1/default/i/web/%FF", "\"%FF\" is not UTF-8 once it is decoded"),
            ("/callboard/v1/default/p/a%20b", "service \"a b\" contains an invalid character"),
            ("/callboard/v1/default/s/AB", "it has no session of 16 hex digits"),
            ("/callboard/v1/default/b/00000000000000ab/256", "its lane is not 0 to 255"),
            ("/callboard/v1/default/b/00000000000000ab/01", "its form is \"b/00000000000000ab/1\""),
        ] {
            let error = keys().decode(key.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
        assert_eq!(keys().decode(b"\xff").unwrap_err().reason, "it is not UTF-8");
    }
}
