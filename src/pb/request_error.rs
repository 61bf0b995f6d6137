//! Errors of tonic about a request that it does not pass on: too large, not protobuf, missing or incomplete, or of an unknown method.

use tonic::{Code, Status};

/// tonic's message for a request over the size limit.
const TOO_LARGE: &str = "decoded message length too large";
/// tonic's message for a request that is not protobuf.
const NOT_PROTOBUF: &str = "failed to decode Protobuf message";
/// tonic's message for a call without a request.
const MISSING: &str = "Missing request message.";
/// tonic's message for a request that ends early.
const INCOMPLETE: &str = "Unexpected EOF decoding stream.";

/// Error about a request, which tonic reports as a status without details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestError {
    /// The request is larger than the limit.
    TooLarge,
    /// The request is not the message that the method takes.
    Malformed(String),
    /// There is no such method.
    UnknownMethod,
}

impl RequestError {
    /// Returns the error of a status that tonic made. `None`: the status has another origin, or is not an error of a request.
    pub(crate) fn of(status: &Status) -> Option<Self> {
        if !status.details().is_empty() {
            return None;
        }
        match status.code() {
            Code::OutOfRange if status.message().contains(TOO_LARGE) => Some(Self::TooLarge),
            Code::Internal if status.message().contains(NOT_PROTOBUF) => Some(Self::Malformed(status.message().into())),
            Code::Internal if status.message() == MISSING => Some(Self::Malformed("it is missing".into())),
            Code::Internal if status.message() == INCOMPLETE => Some(Self::Malformed("it is incomplete".into())),
            // With a message, something else is not implemented, such as an encoding.
            Code::Unimplemented if status.message().is_empty() => Some(Self::UnknownMethod),
            _ => None,
        }
    }
}
