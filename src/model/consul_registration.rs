//! What a registration in Consul's words says beyond what every instance has.

use super::{FieldError, Revision, ServiceName, label};

/// Longest text of a listing, in bytes.
const LONGEST: usize = 512;
/// Maximum length of a proxy's settings, in bytes of JSON: some hold pieces of Envoy's configuration.
const MAX_PROXY_BYTES: usize = 64 * 1024;
/// Most tagged addresses.
const MOST_ADDRESSES: usize = 16;

/// An address for another network: name, host, port.
pub type TaggedAddress = (Box<str>, Box<str>, u16);

/// What a registration in Consul's words says. A registration that has one has no lease: it stays until somebody removes it,
/// or its check does. Its identity is node and id, so that it can move to another service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsulRegistration {
    /// Name of the node it is on, as the registration spells it; empty for the local node. Of a node, its own name.
    pub node: Box<str>,
    /// Its id on that node, as given. Of a node: its UUID.
    pub id: Box<str>,
    /// Its address, as given; may be empty, which means that of its node.
    pub address: Box<str>,
    /// Addresses for other networks: name, host, port.
    pub tagged_addresses: Box<[TaggedAddress]>,
    /// Its share of the load while a check warns.
    pub warning_weight: u16,
    /// Whether others may change its tags.
    pub enable_tag_override: bool,
    /// What kind of service it says it is.
    pub kind: Box<str>,
    /// A socket in the file system at which it listens.
    pub socket_path: Box<str>,
    /// Settings of a proxy, as JSON; empty where none were given. Stored and shown, never acted on.
    pub proxy: Box<str>,
    /// True for a service that says that it speaks the protocol of Consul's mesh itself. Stored and shown, never acted on.
    pub connect_native: bool,
    /// True for an instance that the catalog's endpoint has registered, and no program at its agent.
    pub from_catalog: bool,
    /// Why an operator has taken it out of service; empty where nothing was said.
    pub maintenance: Box<str>,
    /// The revision at which it last described itself otherwise: what its checks say changes the instance, and not this.
    pub description_revision: Revision,
}

impl ConsulRegistration {
    /// The same, where nothing is too long.
    ///
    /// # Errors
    ///
    /// When a text is, the settings of a proxy are, or there are more than 16 tagged addresses.
    pub fn check(self) -> Result<Self, FieldError> {
        let texts = [
            ("Node", &self.node),
            ("ID", &self.id),
            ("Address", &self.address),
            ("Kind", &self.kind),
            ("SocketPath", &self.socket_path),
        ];
        // Why an operator has taken it out of service is any text, and comes another way.
        let tagged = self.tagged_addresses.iter().flat_map(|(name, host, _)| [name, host]);
        let tagged = tagged.map(|text| ("TaggedAddresses", text));
        for (field, text) in texts.into_iter().chain(tagged) {
            if !text.is_empty() {
                label::text(field, text, LONGEST)?;
            }
        }
        if self.proxy.len() > MAX_PROXY_BYTES {
            let problem = format!("has {} bytes", self.proxy.len());
            let remedy = format!("keep it within {MAX_PROXY_BYTES} bytes");
            return Err(FieldError::without_value("Proxy", problem, remedy));
        }
        if self.tagged_addresses.len() > MOST_ADDRESSES {
            let many = format!("are {}", self.tagged_addresses.len());
            return Err(FieldError::without_value("TaggedAddresses", many, "give at most 16"));
        }
        Ok(self)
    }

    /// Returns whether the instance is where its node is, because the registration names no address.
    #[must_use]
    pub fn is_addressed_by_node(&self) -> bool {
        self.address.is_empty()
    }

    /// Whether both were given in the same words: why an operator has taken one out is not among them.
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

/// Nodes are kept as instances of a service of their own, whose name no service can have. Of a node, address, metadata, checks
/// and the operator's drain mean what they mean for an instance, so all that is done with those is done in one way.
#[must_use]
pub fn node_service() -> ServiceName {
    ServiceName::reserved("_nodes")
}
