//! Every refusal as a gRPC status with its details: the one place where codes are chosen.

use std::time::Duration;

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use super::error_reason::ErrorReason;
use crate::{
    engine::EngineError,
    health_check::ReportError,
    model::{FieldError, filter::FilterError},
    registry::CommandError,
    transport::LimitError,
};

/// Who says so, in `ErrorInfo`.
const DOMAIN: &str = "callboard.dev";
/// When to come back after a replica has left, or had no room.
const SOON: Duration = Duration::from_millis(500);

/// Why this door does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// A value is refused.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// A filter is refused.
    #[error("filter: {0}")]
    Filter(#[from] FilterError),
    /// The registry refuses.
    #[error(transparent)]
    Refused(#[from] CommandError),
    /// More writes wait than the engine can take.
    #[error("{message}")]
    Overloaded {
        /// In its own words.
        message: String,
        /// When to try again.
        retry: Duration,
    },
    /// What was reported on is no check that is fed.
    #[error("{0}")]
    NotFed(String),
    /// The engine has stopped, and did nothing.
    #[error("{0}")]
    Stopped(String),
    /// The engine stopped before it could tell the outcome.
    #[error("{0}")]
    Interrupted(String),
    /// The engine did not answer in time, and may still do what it was asked.
    #[error(
        "no outcome within {}: it may be done now, later or not at all; repeat the call, which is safe, and look after the \
         registry's disk if this goes on",
        humantime::format_duration(*.0)
    )]
    OutcomeUnknown(Duration),
    /// This process is going away.
    #[error("this replica is shutting down: open the stream again, here in a moment or on another replica")]
    Leaving,
    /// A heartbeat stream carried nothing for too long.
    #[error(
        "no heartbeat came on this stream for {}: send one every third of the lease's time to live, or close the stream",
        humantime::format_duration(*.0)
    )]
    Silent(Duration),
    /// A request is larger than this many bytes.
    #[error(
        "the request is larger than {0} bytes: send less at a time, or raise --max-message-size where the registry runs"
    )]
    TooLarge(usize),
    /// A request is no message of the contract.
    #[error("the request is no message of the contract ({0}): generate the client from the registry's proto files")]
    Malformed(String),
    /// There is no such method.
    #[error("no such method here: see `grpcurl -plaintext ADDRESS list`, or the registry's proto files")]
    UnknownMethod,
    /// A health check of a service that nobody registered.
    #[error("service \"{0}\" is not registered: Watch it to hear when it is")]
    UnknownService(String),
    /// A health check of anything but this process, where nothing else is told.
    #[error("\"{0}\" is not told of here, but only whether the registry itself serves: ask its gRPC port")]
    NotHere(String),
    /// More services than one answer can hold.
    #[error(
        "{0} services are too many for one answer: use callboard.v1.DiscoveryService/ListServices, which has pages"
    )]
    TooManyServices(usize),
    /// There is no room for another call.
    #[error(transparent)]
    Busy(#[from] LimitError),
    /// A call whose request did not come.
    #[error(
        "no whole request came within {}, so nothing was done: send it at once, or cancel the call",
        humantime::format_duration(*.0)
    )]
    Unfinished(Duration),
    /// The request did not come through our own listener: a defect.
    #[error("the request carries no connection: report this as a defect")]
    NoConnection,
}

impl From<ReportError> for ApiError {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::NotTtl(_) => Self::NotFed(error.to_string()),
            ReportError::Engine(error) => error.into(),
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::Rejected(refusal) => Self::Refused(refusal),
            EngineError::Overloaded { retry, .. } => Self::Overloaded { message, retry },
            EngineError::Stopped => Self::Stopped(message),
            EngineError::OutcomeUnknown => Self::Interrupted(message),
        }
    }
}

impl From<ApiError> for Status {
    fn from(problem: ApiError) -> Self {
        let reason = classify(&problem);
        let mut details = ErrorDetails::with_error_info(
            reason.name(),
            DOMAIN,
            [("version".into(), env!("CARGO_PKG_VERSION").into())],
        );
        match &problem {
            ApiError::Invalid(invalid) => {
                details.add_bad_request_violation(invalid.field.as_ref(), invalid.to_string());
            }
            ApiError::Filter(error) => {
                details.add_bad_request_violation("filter", error.to_string());
            }
            ApiError::Refused(refusal) => describe(refusal, &mut details),
            ApiError::UnknownService(service) => {
                details.set_resource_info("service", service, "", "not registered");
            }
            ApiError::NotHere(service) => {
                details.set_resource_info("service", service, "", "not told of here");
            }
            ApiError::Leaving
            | ApiError::Stopped(_)
            | ApiError::Interrupted(_)
            | ApiError::OutcomeUnknown(_)
            | ApiError::Busy(_) => {
                details.set_retry_info(Some(SOON));
            }
            ApiError::Overloaded { retry, .. } => {
                details.set_retry_info(Some(*retry));
            }
            ApiError::NotFed(_)
            | ApiError::Silent(_)
            | ApiError::Unfinished(_)
            | ApiError::TooLarge(_)
            | ApiError::Malformed(_)
            | ApiError::UnknownMethod
            | ApiError::TooManyServices(_)
            | ApiError::NoConnection => {}
        }
        Self::with_error_details(reason.code(), problem.to_string(), details)
    }
}

fn classify(problem: &ApiError) -> ErrorReason {
    match problem {
        ApiError::Invalid(_) | ApiError::Refused(CommandError::Invalid(_)) => ErrorReason::InvalidField,
        ApiError::Filter(_) => ErrorReason::InvalidFilter,
        ApiError::Refused(CommandError::NoSuchInstance { .. }) => ErrorReason::NoSuchInstance,
        ApiError::Refused(CommandError::HeldByOther { .. }) => ErrorReason::HeldByOtherBoot,
        ApiError::Refused(CommandError::LeaseLost { .. }) => ErrorReason::LeaseLost,
        ApiError::Refused(CommandError::HeldByLease { .. }) => ErrorReason::HeldByLease,
        ApiError::Refused(CommandError::HeldWithoutLease { .. }) => ErrorReason::HeldWithoutLease,
        ApiError::Refused(CommandError::NoSuchCheck { .. }) => ErrorReason::NoSuchCheck,
        ApiError::NotFed(_) => ErrorReason::NotATtlCheck,
        ApiError::Overloaded { .. } => ErrorReason::Overloaded,
        ApiError::Stopped(_) => ErrorReason::EngineStopped,
        ApiError::Interrupted(_) | ApiError::OutcomeUnknown(_) => ErrorReason::OutcomeUnknown,
        ApiError::Leaving => ErrorReason::ShuttingDown,
        ApiError::Silent(_) => ErrorReason::HeartbeatTimeout,
        ApiError::TooLarge(_) => ErrorReason::MessageTooLarge,
        ApiError::Malformed(_) => ErrorReason::MalformedMessage,
        ApiError::UnknownMethod => ErrorReason::UnknownMethod,
        ApiError::UnknownService(_) => ErrorReason::NoSuchService,
        ApiError::NotHere(_) => ErrorReason::HealthOnlyListener,
        ApiError::TooManyServices(_) => ErrorReason::TooManyServices,
        ApiError::Busy(LimitError::Streams(..)) => ErrorReason::TooManyStreams,
        ApiError::Busy(LimitError::Unread(..)) => ErrorReason::TooManyUnreadResponses,
        ApiError::Busy(LimitError::QueueTimeout(_)) => ErrorReason::ResponseQueueTimeout,
        ApiError::Unfinished(_) => ErrorReason::RequestTimeout,
        ApiError::NoConnection => ErrorReason::Internal,
    }
}

fn describe(refusal: &CommandError, details: &mut ErrorDetails) {
    let (service, id, text) = match refusal {
        CommandError::NoSuchInstance { service, id } => (service, id, "not registered"),
        CommandError::HeldByOther { service, id, retry } => {
            details.set_retry_info(Some(*retry));
            (service, id, "held by another boot")
        }
        CommandError::LeaseLost { service, id } => (service, id, "held by another registration"),
        CommandError::HeldByLease { service, id } => (service, id, "held by a lease"),
        CommandError::HeldWithoutLease { service, id } => (service, id, "registered without a lease"),
        CommandError::NoSuchCheck { service, id, .. } => (service, id, "has no such check"),
        CommandError::Invalid(invalid) => {
            details.add_bad_request_violation(invalid.field.as_ref(), invalid.to_string());
            return;
        }
    };
    details.set_resource_info("instance", format!("{service}/{id}"), "", text);
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::registry::test_support::{id, name};

    #[test]
    fn statuses_carry_their_details() {
        let held = CommandError::HeldByOther { service: name("web"), id: id("a"), retry: Duration::from_secs(2) };
        let status = Status::from(ApiError::Refused(held));
        assert_eq!(status.code(), Code::AlreadyExists);
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "HELD_BY_OTHER_BOOT");
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(2)));
        assert_eq!(details.resource_info().unwrap().resource_name, "web/a");

        let invalid = crate::model::ServiceName::parse("").unwrap_err();
        let status = Status::from(ApiError::from(invalid));
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "service");
        assert!(status.message().contains("is empty"), "{}", status.message());
    }
}
