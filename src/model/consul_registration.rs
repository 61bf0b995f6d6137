//! Part of a registration that only registrations through the Consul API have.

use super::{FieldError, Revision, label};

/// Maximum length of a text in bytes.
const MAX_TEXT_BYTES: usize = 512;
/// Maximum length of the settings of a proxy in bytes of JSON. They may contain parts of Envoy's configuration.
const MAX_PROXY_BYTES: usize = 64 * 1024;
/// Maximum number of tagged addresses.
const MAX_TAGGED_ADDRESSES: usize = 16;

/// Address for another network: name, host, port.
pub type TaggedAddress = (Box<str>, Box<str>, u16);

/// Part of a registration that only registrations through the Consul API have.
///
/// Such a registration has no lease: it lasts until it is deregistered, or until its check removes it. Its identity is node and id,
/// so it can move to another service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsulRegistration {
    /// Name of the node, in the spelling of the registration; empty for the local node. For a node, its own name.
    pub node: Box<str>,
    /// Id on that node, as it was given. For a node, its UUID.
    pub id: Box<str>,
    /// Address as it was given; empty for the address of the node.
    pub address: Box<str>,
    /// Addresses for other networks.
    pub tagged_addresses: Box<[TaggedAddress]>,
    /// Weight while a check is warning.
    pub warning_weight: u16,
    /// True if catalog registrations may change the tags.
    pub enable_tag_override: bool,
    /// Kind of the service.
    pub kind: Box<str>,
    /// Path of a Unix socket at which the instance listens.
    pub socket_path: Box<str>,
    /// Settings of a proxy as JSON; empty if none were given. Stored and shown, but without effect.
    pub proxy: Box<str>,
    /// True for a service that speaks the protocol of Consul's service mesh itself. Stored and shown, but without effect.
    pub connect_native: bool,
    /// True for an instance that was registered through the catalog, not through an agent.
    pub from_catalog: bool,
    /// Reason for maintenance; empty if none was given.
    pub maintenance: Box<str>,
    /// Revision of the last change of the description. A change of a check status does not count.
    pub description_revision: Revision,
}

impl ConsulRegistration {
    /// Validates the lengths of all parts.
    ///
    /// # Errors
    ///
    /// When a text or the settings of a proxy are too long, or there are more than 16 tagged addresses.
    pub fn validated(self) -> Result<Self, FieldError> {
        let texts = [
            ("Node", &self.node),
            ("ID", &self.id),
            ("Address", &self.address),
            ("Kind", &self.kind),
            ("SocketPath", &self.socket_path),
        ];
        // The reason for maintenance may be any text, and is not part of a registration.
        let tagged = self.tagged_addresses.iter().flat_map(|(name, host, _)| [name, host]);
        let tagged = tagged.map(|text| ("TaggedAddresses", text));
        for (field, text) in texts.into_iter().chain(tagged) {
            if !text.is_empty() {
                label::validate_text(field, text, MAX_TEXT_BYTES)?;
            }
        }
        if self.proxy.len() > MAX_PROXY_BYTES {
            let problem = format!("has {} bytes", self.proxy.len());
            let hint = format!("keep it within {MAX_PROXY_BYTES} bytes");
            return Err(FieldError::without_value("Proxy", problem, hint));
        }
        if self.tagged_addresses.len() > MAX_TAGGED_ADDRESSES {
            let problem = format!("have {} entries", self.tagged_addresses.len());
            return Err(FieldError::without_value("TaggedAddresses", problem, "give at most 16"));
        }
        Ok(self)
    }

    /// Returns whether the instance has the address of its node, because the registration names none.
    #[must_use]
    pub fn is_addressed_by_node(&self) -> bool {
        self.address.is_empty()
    }

    /// Returns whether both were registered with the same values. The reason for maintenance is not one of them.
    #[must_use]
    pub fn same_description(&self, other: &Self) -> bool {
        let Self {
            node,
            id,
            address,
            tagged_addresses,
            warning_weight,
            enable_tag_override,
            kind,
            socket_path,
            proxy,
            connect_native,
            from_catalog,
            maintenance: _,
            description_revision: _,
        } = self;
        (node, id, address, tagged_addresses) == (&other.node, &other.id, &other.address, &other.tagged_addresses)
            && (warning_weight, enable_tag_override) == (&other.warning_weight, &other.enable_tag_override)
            && (kind, socket_path) == (&other.kind, &other.socket_path)
            && (proxy, connect_native, from_catalog) == (&other.proxy, &other.connect_native, &other.from_catalog)
    }
}
