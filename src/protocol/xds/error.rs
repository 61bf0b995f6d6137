//! Errors that end a stream or a call, as gRPC statuses with details.

use std::time::Duration;

use tonic::Status;
use tonic_types::ErrorDetails;

use crate::{
    model::FieldError,
    pb::{
        error_reason::{ErrorReason, RETRY_DELAY, SHUTTING_DOWN},
        request_error::RequestError,
    },
};

/// Error that ends a stream or a call.
#[derive(Debug, thiserror::Error)]
pub(super) enum XdsError {
    /// Request without a type, or with one that is too long.
    #[error(
        "type_url \"{0}\" is not the URL of a resource type: send one such as type.googleapis.com/envoy.config.listener.v3.Listener"
    )]
    InvalidType(String),
    /// Subscription to more resources than a stream may have.
    #[error(
        "{0} resources are too many for one stream: subscribe to at most {1}, where each 256 bytes of a name count as one"
    )]
    TooManyResources(usize, usize),
    /// Subscriptions of all streams at their limit.
    #[error(
        "the {0} resources that all streams may subscribe to are in use: close streams, or subscribe to fewer resources"
    )]
    ResourceLimit(usize),
    /// Request with more than this number of bytes.
    #[error(
        "the request is larger than {0} bytes: name fewer resources in it, or raise --max-message-size where the registry runs"
    )]
    TooLarge(usize),
    /// Request that is not a message of the protocol.
    #[error("the request is not a message of xDS version 3 ({0}): use the files of version 3 of Envoy's API")]
    Malformed(String),
    /// Load report of this number of clusters and localities, and the maximum.
    #[error("{0} clusters and localities are too many for one load report: send at most {1}")]
    TooManyLoads(usize, usize),
    /// More load reports than one each second.
    #[error("load reports arrive more than once a second: send them at the interval in the response of this stream")]
    TooManyReports,
    /// Stream without a request.
    #[error("no request came within {}: send the first one at once", humantime::format_duration(*.0))]
    NoRequest(Duration),
    /// Invalid field of a request.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// This process is shutting down.
    #[error("{SHUTTING_DOWN}")]
    ShuttingDown,
    /// Request that did not arrive through a listener of the server, which is a defect.
    #[error("the request carries no connection: report this as a defect")]
    NoConnection,
}

impl XdsError {
    /// Returns the error of a status that tonic made for a request. `None`: the connection failed.
    pub(super) fn of_request(status: &Status, limit: usize) -> Option<Self> {
        RequestError::of(status).map(|error| match error {
            RequestError::TooLarge => Self::TooLarge(limit),
            RequestError::Malformed(problem) => Self::Malformed(problem),
            RequestError::UnknownMethod => Self::Malformed("the method is unknown".to_owned()),
        })
    }
}

impl From<XdsError> for Status {
    fn from(error: XdsError) -> Self {
        let mut details = ErrorDetails::new();
        let reason = match &error {
            XdsError::InvalidType(_) => {
                details.add_bad_request_violation("type_url", error.to_string());
                ErrorReason::InvalidResourceType
            }
            XdsError::Invalid(invalid) => {
                details.add_bad_request_violation(invalid.field.as_ref(), invalid.to_string());
                ErrorReason::InvalidField
            }
            XdsError::TooManyResources(..) | XdsError::ResourceLimit(_) => ErrorReason::TooManyResources,
            XdsError::TooManyLoads(..) | XdsError::TooManyReports => ErrorReason::TooManyLoadReports,
            XdsError::TooLarge(_) => ErrorReason::MessageTooLarge,
            XdsError::Malformed(_) => ErrorReason::MalformedMessage,
            XdsError::NoRequest(_) => ErrorReason::StreamTimeout,
            XdsError::ShuttingDown => {
                details.set_retry_info(Some(RETRY_DELAY));
                ErrorReason::ShuttingDown
            }
            XdsError::NoConnection => ErrorReason::Internal,
        };
        reason.status(error.to_string(), details)
    }
}
