//! Requests of both protocols, in one form.

use prost::Message;

use super::{
    error::XdsError,
    session::{RequestedNames, XdsVariant},
    version,
};
use crate::{
    model::{Incarnation, Revision},
    pb::envoy::{
        config::core::v3::{Node, node::UserAgentVersionType},
        service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
    },
};

/// Maximum length of the URL of a type, in bytes.
const MAX_TYPE_URL_BYTES: usize = 256;
/// Maximum length of each stored text about a node, in characters.
const MAX_NODE_TEXT_CHARS: usize = 256;

/// Identity that a client gives, each text cut to 256 characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NodeIdentity {
    pub(super) id: String,
    pub(super) cluster: String,
    pub(super) region: String,
    pub(super) zone: String,
    pub(super) sub_zone: String,
    /// Name of the library: `gRPC Go`.
    pub(super) agent_name: String,
    pub(super) agent_version: String,
}

impl NodeIdentity {
    /// Library of the client and its version: `gRPC Go 1.85.0`.
    pub(super) fn agent(&self) -> String {
        format!("{} {}", self.agent_name, self.agent_version).trim().to_owned()
    }
}

impl From<Node> for NodeIdentity {
    fn from(node: Node) -> Self {
        let cut = |text: String| match text.char_indices().nth(MAX_NODE_TEXT_CHARS) {
            Some((end, _)) => text[..end].to_owned(),
            None => text,
        };
        let locality = node.locality.unwrap_or_default();
        let agent_version = node.user_agent_version_type.map(|UserAgentVersionType::UserAgentVersion(text)| text);
        Self {
            id: cut(node.id),
            cluster: cut(node.cluster),
            region: cut(locality.region),
            zone: cut(locality.zone),
            sub_zone: cut(locality.sub_zone),
            agent_name: cut(node.user_agent_name),
            agent_version: cut(agent_version.unwrap_or_default()),
        }
    }
}

/// Request of either protocol.
#[derive(Debug)]
pub(super) struct ParsedRequest {
    /// Set in the first request of a stream.
    pub(super) node: Option<NodeIdentity>,
    pub(super) type_url: String,
    pub(super) nonce: String,
    /// Reason for which the client rejects a response.
    pub(super) error: Option<String>,
    pub(super) names: RequestedNames,
    /// Incarnation of the registry that the client has resources of.
    pub(super) remembers: Option<Incarnation>,
    /// Revision of the registry in the latest response of the type that the client accepted. The delta protocol does not tell.
    pub(super) accepted_revision: Option<Revision>,
}

/// Request message of one of the protocols.
pub(super) trait XdsRequest: Message + Default + Unpin + 'static {
    /// Protocol of the message.
    const VARIANT: XdsVariant;

    /// Converts the message.
    fn into_parsed(self) -> ParsedRequest;

    /// Converts the message and validates its type.
    fn parse(self) -> Result<ParsedRequest, XdsError> {
        let parsed = self.into_parsed();
        if parsed.type_url.is_empty() || parsed.type_url.len() > MAX_TYPE_URL_BYTES {
            let shown = parsed.type_url.chars().take(MAX_TYPE_URL_BYTES).collect();
            return Err(XdsError::InvalidType(shown));
        }
        Ok(parsed)
    }
}

impl XdsRequest for DiscoveryRequest {
    const VARIANT: XdsVariant = XdsVariant::StateOfTheWorld;

    fn into_parsed(self) -> ParsedRequest {
        let version = version::parse(&self.version_info);
        ParsedRequest {
            node: self.node.map(NodeIdentity::from),
            type_url: self.type_url,
            nonce: self.response_nonce,
            error: self.error_detail.map(|status| status.message),
            names: RequestedNames::All(self.resource_names),
            remembers: version.map(|(incarnation, _)| incarnation),
            accepted_revision: version.map(|(_, revision)| Revision(revision)),
        }
    }
}

impl XdsRequest for DeltaDiscoveryRequest {
    const VARIANT: XdsVariant = XdsVariant::Delta;

    fn into_parsed(self) -> ParsedRequest {
        let mut remembers = None;
        let initial = self.initial_resource_versions.into_iter().map(|(name, text)| {
            let parsed = version::parse(&text);
            remembers = remembers.or(parsed.map(|(incarnation, _)| incarnation));
            (name, parsed.map(|(_, hash)| hash))
        });
        let initial = initial.collect();
        ParsedRequest {
            node: self.node.map(NodeIdentity::from),
            type_url: self.type_url,
            nonce: self.response_nonce,
            error: self.error_detail.map(|status| status.message),
            names: RequestedNames::Changes {
                subscribe: self.resource_names_subscribe,
                unsubscribe: self.resource_names_unsubscribe,
                initial,
            },
            remembers,
            accepted_revision: None,
        }
    }
}
