//! Requests of a replica to release instances, in etcd.

use prost::Message;

use crate::{
    engine::record::DecodeError,
    model::{InstanceId, ServiceName},
};

/// Instances that a replica wants to register for another boot. The replicas that hold them release those whose heartbeat stream is
/// broken. A replica has one such value, which the next request replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseRequest {
    /// Service and id of each instance.
    pub instances: Vec<(ServiceName, InstanceId)>,
}

// Field numbers never change.

#[derive(Clone, PartialEq, Message)]
struct ReleaseRequestMessage {
    #[prost(message, repeated, tag = "1")]
    instances: Vec<ReleasedInstanceMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct ReleasedInstanceMessage {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(string, tag = "2")]
    id: String,
}

impl ReleaseRequest {
    /// Encodes the request.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let instances = self.instances.iter();
        let instances =
            instances.map(|(service, id)| ReleasedInstanceMessage { service: service.to_string(), id: id.to_string() });
        ReleaseRequestMessage { instances: instances.collect() }.encode_to_vec()
    }

    /// Decodes a request.
    ///
    /// # Errors
    ///
    /// When the bytes are not a message of a request, or a name is invalid.
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let message = ReleaseRequestMessage::decode(value).map_err(|_| DecodeError::Message)?;
        let instances = message.instances.into_iter().map(|ReleasedInstanceMessage { service, id }| {
            Ok::<_, DecodeError>((ServiceName::parse_stored(&service)?, InstanceId::parse_any(&id)?))
        });
        Ok(Self { instances: instances.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::test_support::{id, name};

    #[test]
    fn request_survives_encoding() {
        let request = ReleaseRequest { instances: vec![(name("web"), id("a")), (name("api"), id("b"))] };
        assert_eq!(ReleaseRequest::decode(&request.encode()), Ok(request));
    }

    #[test]
    fn request_with_an_invalid_name_is_rejected() {
        let message = ReleasedInstanceMessage { service: "a b".into(), id: "a".into() };
        let value = ReleaseRequestMessage { instances: vec![message] }.encode_to_vec();
        assert!(ReleaseRequest::decode(&value).is_err());
        assert_eq!(ReleaseRequest::decode(b"\xff"), Err(DecodeError::Message));
    }
}
