//! Responses on the wire, made of resources that are encoded once for all streams.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::{
    resource::EncodedResource,
    session::{ResourceResponse, XdsVariant},
    version,
};
use crate::{
    model::Incarnation,
    transport::{MESSAGE_PREFIX_BYTES, put_message_prefix},
};

/// Resources with fewer bytes are copied next to each other. Larger ones are sent from the shared buffer.
const MIN_SHARED_BYTES: usize = 4 * 1024;

/// Numbers of the fields of `DiscoveryResponse` and `DeltaDiscoveryResponse`, which have the same where both have the field.
mod field {
    pub(super) const VERSION: u32 = 1;
    pub(super) const RESOURCES: u32 = 2;
    pub(super) const TYPE_URL: u32 = 4;
    pub(super) const NONCE: u32 = 5;
    pub(super) const REMOVED_RESOURCES: u32 = 6;
    pub(super) const RESOURCE_VERSION: u32 = 1;
    pub(super) const RESOURCE_RESOURCE: u32 = 2;
    pub(super) const RESOURCE_NAME: u32 = 3;
}

/// Returns a response as the parts of a message.
pub(super) fn response(variant: XdsVariant, response: &ResourceResponse, incarnation: Incarnation) -> Vec<Bytes> {
    let frame = ResponseFrame {
        variant,
        incarnation,
        revision: response.revision,
        url: response.kind.url(),
        nonce: response.nonce.to_string(),
        resources: &response.resources,
        removed: response.removed.iter().map(|name| &**name).collect(),
    };
    frame.parts()
}

/// Returns a response for a type that the server does not have: none of the requested resources exists.
pub(super) fn unknown_type(
    variant: XdsVariant,
    url: &str,
    subscribed: &[String],
    at: (Incarnation, u64),
) -> Vec<Bytes> {
    let removed = match variant {
        XdsVariant::StateOfTheWorld => Vec::new(),
        XdsVariant::Delta => subscribed.iter().map(String::as_str).collect(),
    };
    // No response of another type has this nonce.
    let nonce = "0".to_owned();
    ResponseFrame { variant, incarnation: at.0, revision: at.1, url, nonce, resources: &[], removed }.parts()
}

/// Content of a response.
struct ResponseFrame<'a> {
    variant: XdsVariant,
    incarnation: Incarnation,
    revision: u64,
    url: &'a str,
    nonce: String,
    resources: &'a [(Arc<str>, EncodedResource)],
    removed: Vec<&'a str>,
}

impl ResponseFrame<'_> {
    fn parts(&self) -> Vec<Bytes> {
        let version = version::format(self.incarnation, self.revision);
        let resources =
            self.resources.iter().map(|(name, resource)| field_length(self.resource_length(name, resource)));
        let removed = self.removed.iter().map(|name| field_length(name.len()));
        let texts = [version.len(), self.url.len(), self.nonce.len()].into_iter().map(field_length);
        let length = texts.chain(resources).chain(removed).sum();

        let shared = self.resources.iter().map(|(_, resource)| resource.any.len()).filter(|bytes| is_shared(*bytes));
        let copied = MESSAGE_PREFIX_BYTES + length - shared.sum::<usize>();
        let mut to = PartWriter { buffer: BytesMut::with_capacity(copied), parts: Vec::new() };
        put_message_prefix(length, &mut to.buffer);
        put_text(field::VERSION, &version, &mut to.buffer);
        put_text(field::TYPE_URL, self.url, &mut to.buffer);
        put_text(field::NONCE, &self.nonce, &mut to.buffer);
        for name in &self.removed {
            put_text(field::REMOVED_RESOURCES, name, &mut to.buffer);
        }
        // Last, so that a large resource is followed by no other part.
        for (name, resource) in self.resources {
            self.put_resource(name, resource, &mut to);
        }
        to.finish()
    }

    /// Length of the content of a field `resources`.
    fn resource_length(&self, name: &str, resource: &EncodedResource) -> usize {
        match self.variant {
            XdsVariant::StateOfTheWorld => resource.any.len(),
            XdsVariant::Delta => {
                field_length(version::LENGTH) + field_length(name.len()) + field_length(resource.any.len())
            }
        }
    }

    fn put_resource(&self, name: &str, resource: &EncodedResource, to: &mut PartWriter) {
        put_head(field::RESOURCES, self.resource_length(name, resource), &mut to.buffer);
        if self.variant == XdsVariant::Delta {
            put_text(field::RESOURCE_VERSION, &version::format(self.incarnation, resource.hash), &mut to.buffer);
            put_text(field::RESOURCE_NAME, name, &mut to.buffer);
            put_head(field::RESOURCE_RESOURCE, resource.any.len(), &mut to.buffer);
        }
        to.put_shared(&resource.any);
    }
}

/// Returns whether a resource of this length is sent from the shared buffer.
fn is_shared(bytes: usize) -> bool {
    bytes >= MIN_SHARED_BYTES
}

/// Collects the parts of a message.
struct PartWriter {
    buffer: BytesMut,
    parts: Vec<Bytes>,
}

impl PartWriter {
    fn put_shared(&mut self, bytes: &Bytes) {
        if is_shared(bytes.len()) {
            self.parts.push(self.buffer.split().freeze());
            self.parts.push(bytes.clone());
        } else {
            self.buffer.put_slice(bytes);
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.buffer.is_empty() {
            self.parts.push(self.buffer.freeze());
        }
        self.parts
    }
}

/// Length of a field whose number is below 16.
fn field_length(content: usize) -> usize {
    key_len(1) + encoded_len_varint(content as u64) + content
}

fn put_head(number: u32, length: usize, to: &mut BytesMut) {
    encode_key(number, WireType::LengthDelimited, to);
    encode_varint(length as u64, to);
}

fn put_text(number: u32, text: &str, to: &mut BytesMut) {
    put_head(number, text.len(), to);
    to.put_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::{
        model::EffectivePolicy,
        pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse},
        protocol::xds::{client_family::ClientFamily, cluster_resource::cluster, resource::ResourceType},
    };

    const INCARNATION: Incarnation = Incarnation(7);

    fn decode<M: Message + Default>(parts: &[Bytes]) -> M {
        let bytes = parts.concat();
        let (prefix, message) = bytes.split_at(5);
        assert_eq!(prefix[1..], u32::try_from(message.len()).unwrap().to_be_bytes());
        M::decode(message).unwrap()
    }

    fn response_with(resources: Vec<(Arc<str>, EncodedResource)>) -> ResourceResponse {
        ResourceResponse {
            kind: ResourceType::Cluster,
            nonce: 12,
            revision: 5,
            resources,
            removed: vec!["gone".into()],
        }
    }

    #[test]
    fn parts_decode_as_a_response_of_either_protocol() {
        let clusters = ["a", "b"]
            .map(|name| (Arc::from(name), cluster(name, &EffectivePolicy::default(), ClientFamily::UNKNOWN).unwrap()));
        let response = response_with(clusters.to_vec());
        let whole: DiscoveryResponse = decode(&super::response(XdsVariant::StateOfTheWorld, &response, INCARNATION));
        assert_eq!((whole.type_url.as_str(), whole.nonce.as_str()), (ResourceType::Cluster.url(), "12"));
        assert_eq!(version::parse(&whole.version_info), Some((INCARNATION, 5)));
        let sent: Vec<_> = whole.resources.iter().map(Message::encode_to_vec).collect();
        assert_eq!(sent, [&clusters[0].1.any[..], &clusters[1].1.any[..]]);

        let delta: DeltaDiscoveryResponse = decode(&super::response(XdsVariant::Delta, &response, INCARNATION));
        assert_eq!(delta.removed_resources, ["gone"]);
        let names: Vec<_> = delta.resources.iter().map(|resource| resource.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let hash = version::parse(&delta.resources[1].version).unwrap().1;
        assert_eq!(hash, clusters[1].1.hash);
        assert_eq!(delta.resources[1].resource.as_ref().unwrap().encode_to_vec(), clusters[1].1.any);
    }

    #[test]
    fn large_resource_is_not_copied() {
        let any = prost_types::Any { type_url: String::new(), value: vec![1; MIN_SHARED_BYTES] };
        let large = EncodedResource::new(any.encode_to_vec().into());
        let response = response_with(vec![("a".into(), large.clone())]);
        for variant in [XdsVariant::StateOfTheWorld, XdsVariant::Delta] {
            let parts = super::response(variant, &response, INCARNATION);
            assert_eq!(parts.len(), 2);
            assert_eq!(parts[1].as_ptr(), large.any.as_ptr());
        }
        let whole: DiscoveryResponse = decode(&super::response(XdsVariant::StateOfTheWorld, &response, INCARNATION));
        assert_eq!(whole.resources, [any]);
    }

    #[test]
    fn resources_of_an_unknown_type_do_not_exist() {
        let names = ["a".to_owned()];
        let whole: DiscoveryResponse =
            decode(&unknown_type(XdsVariant::StateOfTheWorld, "x/y", &names, (INCARNATION, 1)));
        assert_eq!((whole.type_url.as_str(), whole.resources.len()), ("x/y", 0));
        let delta: DeltaDiscoveryResponse = decode(&unknown_type(XdsVariant::Delta, "x/y", &names, (INCARNATION, 1)));
        assert_eq!(delta.removed_resources, names);
    }
}
