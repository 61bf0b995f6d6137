//! Encoding of assignments. The bytes are written directly, because a large service is encoded again after each of its changes.

use std::{fmt::Write as _, net::SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint};

use super::{super::resource::ResourceType, XdsEndpoint};

/// Factor by which Envoy multiplies the share of healthy endpoints in a locality, in percent, before it moves requests elsewhere. With
/// this one a locality keeps its whole weight as long as one of 10,000 endpoints is healthy, as in gRPC: the weight takes the unhealthy
/// ones into account already.
const OVERPROVISIONING_FACTOR: u64 = 1_000_000;
/// Category of the calls that clients drop, in their statistics.
const DROP_CATEGORY: &str = "callboard";

/// Numbers of the fields that are written.
mod field {
    pub(super) const ANY_TYPE_URL: u32 = 1;
    pub(super) const ANY_VALUE: u32 = 2;
    pub(super) const ASSIGNMENT_CLUSTER_NAME: u32 = 1;
    pub(super) const ASSIGNMENT_ENDPOINTS: u32 = 2;
    pub(super) const ASSIGNMENT_POLICY: u32 = 4;
    pub(super) const POLICY_DROP_OVERLOADS: u32 = 2;
    pub(super) const POLICY_OVERPROVISIONING_FACTOR: u32 = 3;
    pub(super) const DROP_OVERLOAD_CATEGORY: u32 = 1;
    pub(super) const DROP_OVERLOAD_PERCENTAGE: u32 = 2;
    pub(super) const FRACTIONAL_PERCENT_NUMERATOR: u32 = 1;
    pub(super) const LOCALITY_ENDPOINTS_LOCALITY: u32 = 1;
    pub(super) const LOCALITY_ENDPOINTS_LB_ENDPOINTS: u32 = 2;
    pub(super) const LOCALITY_ENDPOINTS_WEIGHT: u32 = 3;
    pub(super) const LOCALITY_ENDPOINTS_PRIORITY: u32 = 5;
    pub(super) const LOCALITY_REGION: u32 = 1;
    pub(super) const LOCALITY_ZONE: u32 = 2;
    pub(super) const LOCALITY_SUB_ZONE: u32 = 3;
    pub(super) const LB_ENDPOINT_ENDPOINT: u32 = 1;
    pub(super) const LB_ENDPOINT_HEALTH_STATUS: u32 = 2;
    pub(super) const LB_ENDPOINT_WEIGHT: u32 = 4;
    pub(super) const ENDPOINT_ADDRESS: u32 = 1;
    pub(super) const ENDPOINT_ADDITIONAL_ADDRESSES: u32 = 4;
    pub(super) const ADDITIONAL_ADDRESS_ADDRESS: u32 = 1;
    pub(super) const ADDRESS_SOCKET_ADDRESS: u32 = 1;
    pub(super) const SOCKET_ADDRESS_ADDRESS: u32 = 2;
    pub(super) const SOCKET_ADDRESS_PORT_VALUE: u32 = 3;
    pub(super) const VALUE: u32 = 1;
}

/// Assignment that is being encoded.
#[derive(Debug)]
pub(super) struct AssignmentWriter(BytesMut);

impl AssignmentWriter {
    /// Begins the assignment of the cluster with this name, whose localities have about this number of bytes.
    pub(super) fn new(cluster: &str, bytes: usize) -> Self {
        let mut assignment = BytesMut::with_capacity(64 + cluster.len() + bytes);
        put_text(field::ASSIGNMENT_CLUSTER_NAME, cluster, &mut assignment);
        Self(assignment)
    }

    /// Adds a locality: its name and endpoints, which are encoded already, its weight and its priority.
    pub(super) fn locality(&mut self, encoded: &[u8], weight: u64, priority: u32) {
        let mut rest = BytesMut::with_capacity(16);
        put_wrapped(field::LOCALITY_ENDPOINTS_WEIGHT, weight, &mut rest);
        if priority > 0 {
            put_number(field::LOCALITY_ENDPOINTS_PRIORITY, priority.into(), &mut rest);
        }
        encode_key(field::ASSIGNMENT_ENDPOINTS, WireType::LengthDelimited, &mut self.0);
        encode_varint((encoded.len() + rest.len()) as u64, &mut self.0);
        self.0.put_slice(encoded);
        self.0.put_slice(&rest);
    }

    /// Ends the assignment, in which clients drop this percentage of calls, and returns it as a `google.protobuf.Any`.
    pub(super) fn finish(mut self, shed: u8) -> Bytes {
        let mut policy = BytesMut::new();
        if shed > 0 {
            put_small(field::POLICY_DROP_OVERLOADS, &mut policy, |to| {
                put_text(field::DROP_OVERLOAD_CATEGORY, DROP_CATEGORY, to);
                // The denominator is 100 unless another one is given.
                put_small(field::DROP_OVERLOAD_PERCENTAGE, to, |to| {
                    put_number(field::FRACTIONAL_PERCENT_NUMERATOR, shed.into(), to);
                });
            });
        }
        put_wrapped(field::POLICY_OVERPROVISIONING_FACTOR, OVERPROVISIONING_FACTOR, &mut policy);
        put_bytes(field::ASSIGNMENT_POLICY, &policy, &mut self.0);

        let url = ResourceType::Assignment.url();
        let mut any = BytesMut::with_capacity(url.len() + self.0.len() + 16);
        put_text(field::ANY_TYPE_URL, url, &mut any);
        put_bytes(field::ANY_VALUE, &self.0, &mut any);
        // Copied to its exact size, because it is kept.
        Bytes::copy_from_slice(&any)
    }
}

/// Writes the name of a locality. It is present even if it is empty: gRPC rejects endpoints without a locality.
pub(super) fn put_locality(region: &str, zone: &str, sub_zone: &str, to: &mut BytesMut) {
    let mut locality = BytesMut::new();
    put_text(field::LOCALITY_REGION, region, &mut locality);
    put_text(field::LOCALITY_ZONE, zone, &mut locality);
    put_text(field::LOCALITY_SUB_ZONE, sub_zone, &mut locality);
    put_bytes(field::LOCALITY_ENDPOINTS_LOCALITY, &locality, to);
}

/// Writes an endpoint without a weight: the endpoints of its locality share the calls evenly.
pub(super) fn put_endpoint(endpoint: &XdsEndpoint<'_>, to: &mut BytesMut) {
    put_small(field::LOCALITY_ENDPOINTS_LB_ENDPOINTS, to, |to| put_endpoint_fields(endpoint, to));
}

/// Writes the fields of an endpoint except for its weight.
pub(super) fn put_endpoint_fields(endpoint: &XdsEndpoint<'_>, to: &mut BytesMut) {
    put_small(field::LB_ENDPOINT_ENDPOINT, to, |to| {
        put_small(field::ENDPOINT_ADDRESS, to, |to| put_address(endpoint.address, to));
        if let Some(additional) = endpoint.additional {
            put_small(field::ENDPOINT_ADDITIONAL_ADDRESSES, to, |to| {
                put_small(field::ADDITIONAL_ADDRESS_ADDRESS, to, |to| put_address(additional, to));
            });
        }
    });
    put_number(field::LB_ENDPOINT_HEALTH_STATUS, endpoint.health() as u64, to);
}

/// Writes an endpoint whose other fields are encoded already, with its weight. Clients reject the weight 0.
pub(super) fn put_weighted_endpoint(fields: &[u8], weight: u32, to: &mut BytesMut) {
    put_small(field::LOCALITY_ENDPOINTS_LB_ENDPOINTS, to, |to| {
        to.put_slice(fields);
        put_wrapped(field::LB_ENDPOINT_WEIGHT, weight.into(), to);
    });
}

fn put_address(address: SocketAddr, to: &mut BytesMut) {
    put_small(field::ADDRESS_SOCKET_ADDRESS, to, |to| {
        put_small(field::SOCKET_ADDRESS_ADDRESS, to, |to| {
            // Writing to a buffer that grows does not fail.
            let _ = write!(to, "{}", address.ip());
        });
        put_number(field::SOCKET_ADDRESS_PORT_VALUE, address.port().into(), to);
    });
}

/// Writes a field of fewer than 128 bytes, whose length takes one byte. An endpoint with two IPv6 addresses and a weight has at most 116.
fn put_small(number: u32, to: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    encode_key(number, WireType::LengthDelimited, to);
    let at = to.len();
    to.put_u8(0);
    write(to);
    to[at] = u8::try_from(to.len() - at - 1).unwrap_or_default();
}

fn put_number(number: u32, value: u64, to: &mut BytesMut) {
    encode_key(number, WireType::Varint, to);
    encode_varint(value, to);
}

/// Writes a `google.protobuf.UInt32Value`.
fn put_wrapped(number: u32, value: u64, to: &mut BytesMut) {
    put_small(number, to, |to| put_number(field::VALUE, value, to));
}

/// Writes a text, which is left out if it is empty.
fn put_text(number: u32, text: &str, to: &mut BytesMut) {
    if !text.is_empty() {
        put_bytes(number, text.as_bytes(), to);
    }
}

fn put_bytes(number: u32, bytes: &[u8], to: &mut BytesMut) {
    encode_key(number, WireType::LengthDelimited, to);
    encode_varint(bytes.len() as u64, to);
    to.put_slice(bytes);
}
