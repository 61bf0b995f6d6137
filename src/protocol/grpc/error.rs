//! Errors of the API, and their conversion to gRPC statuses with details. Status codes are chosen only here.

use std::{io, time::Duration};

use tonic::Status;
use tonic_types::ErrorDetails;

use crate::{
    engine::EngineError,
    health_check::ReportError,
    model::{FieldError, PolicyScope, ServiceName, SubsetName, filter::FilterError},
    pb::error_reason::{ErrorReason, REPLICA_DEGRADED, RETRY_DELAY, SHUTTING_DOWN},
    registry::{CommandError, PolicyError},
    transport::LimitError,
};

/// Error of a call.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// Invalid field.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// Invalid filter.
    #[error("filter: {0}")]
    Filter(#[from] FilterError),
    /// Command that the registry rejects.
    #[error(transparent)]
    Rejected(#[from] CommandError),
    /// Policy that the registry rejects.
    #[error(transparent)]
    PolicyRejected(#[from] PolicyError),
    /// More waiting writes than the engine accepts.
    #[error("{message}")]
    Overloaded {
        /// Message of the engine.
        message: String,
        /// Time until the next attempt.
        retry: Duration,
    },
    /// Store that the engine cannot reach, or state that is not current; nothing was done.
    #[error("{message}")]
    StoreUnavailable {
        /// Message of the engine.
        message: String,
        /// Time until the next attempt.
        retry: Duration,
    },
    /// Subset that the policy of the service does not have.
    #[error(
        "service \"{service}\" has no subset \"{subset}\": {}, or set it with `callboard subset set`",
        if known.is_empty() { "its policy has no subsets; leave it empty".to_owned() } else { format!("use one of {known}") }
    )]
    NoSuchSubset {
        /// Service.
        service: ServiceName,
        /// Name in the request.
        subset: SubsetName,
        /// Names of the subsets that there are, joined by commas.
        known: String,
    },
    /// Report on a check that takes no reports.
    #[error("{0}")]
    TakesNoReports(String),
    /// The engine had stopped before the command arrived; nothing was done.
    #[error("{0}")]
    Stopped(String),
    /// The engine stopped before the outcome was known.
    #[error("{0}")]
    Interrupted(String),
    /// The engine did not respond in time, and may still carry out the command.
    #[error(
        "no outcome within {}: the write may be done now, later or not at all; repeat the call, which is safe, and check the \
         registry's disk if this repeats",
        humantime::format_duration(*.0)
    )]
    OutcomeUnknown(Duration),
    /// This process is shutting down.
    #[error("{SHUTTING_DOWN}")]
    ShuttingDown,
    /// This replica cannot reach its store.
    #[error("{REPLICA_DEGRADED}")]
    ReplicaDegraded,
    /// Heartbeat stream that carried no message for too long.
    #[error(
        "no heartbeat came on this stream for {}: send one every third of the lease's TTL, or close the stream",
        humantime::format_duration(*.0)
    )]
    HeartbeatTimeout(Duration),
    /// Request with more than this number of bytes.
    #[error(
        "the request is larger than {0} bytes: send less at a time, or raise --max-message-size where the registry runs"
    )]
    TooLarge(usize),
    /// Write that is larger than the store accepts.
    #[error("{0}")]
    WriteTooLarge(String),
    /// Request that is not a message of the contract.
    #[error("the request is not a message of the contract ({0}): generate the client from the registry's proto files")]
    Malformed(String),
    /// Unknown method.
    #[error("unknown method: see `grpcurl -plaintext ADDRESS list`, or the registry's proto files")]
    UnknownMethod,
    /// Health check of a service that is not registered.
    #[error("service \"{0}\" is not registered: use Watch to learn when it is")]
    UnknownService(String),
    /// Health check of a registered service on the health listener.
    #[error("the health of \"{0}\" is not served here, only that of the registry itself: ask the gRPC listener")]
    NotServedHere(String),
    /// More services than one response can hold.
    #[error(
        "{0} services are too many for one response: use callboard.v1.DiscoveryService/ListServices, which has pages"
    )]
    TooManyServices(usize),
    /// Limit that is reached.
    #[error(transparent)]
    LimitReached(#[from] LimitError),
    /// Call whose request did not arrive in time.
    #[error(
        "the request did not arrive within {}, so nothing was done: send it at once, or cancel the call",
        humantime::format_duration(*.0)
    )]
    Unfinished(Duration),
    /// Export with a value that has no encoding, which is a defect.
    #[error("the export cannot be encoded: {0}: report this as a defect")]
    Unencodable(io::Error),
    /// Request that did not arrive through a listener of the server, which is a defect.
    #[error("the request carries no connection: report this as a defect")]
    NoConnection,
}

impl From<ReportError> for ApiError {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::NotTtl(_) => Self::TakesNoReports(error.to_string()),
            ReportError::Engine(error) => error.into(),
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::Rejected(error) => Self::Rejected(error),
            EngineError::PolicyRejected(error) => Self::PolicyRejected(error),
            EngineError::Overloaded { retry, .. } => Self::Overloaded { message, retry },
            EngineError::Unavailable { retry, .. } | EngineError::NotCurrent { retry, .. } => {
                Self::StoreUnavailable { message, retry }
            }
            EngineError::TooLarge { .. } => Self::WriteTooLarge(message),
            EngineError::Stopped => Self::Stopped(message),
            EngineError::OutcomeUnknown | EngineError::Unconfirmed { .. } => Self::Interrupted(message),
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let mut details = ErrorDetails::new();
        match &error {
            ApiError::Invalid(invalid) | ApiError::PolicyRejected(PolicyError::Invalid(invalid)) => {
                details.add_bad_request_violation(invalid.field.as_ref(), invalid.to_string());
            }
            ApiError::Filter(filter) => {
                details.add_bad_request_violation("filter", filter.to_string());
            }
            ApiError::PolicyRejected(PolicyError::OtherRevision { scope, present, .. }) => {
                let text = format!("has revision {present}");
                details.set_resource_info("policy", policy_name(scope), "", text);
            }
            ApiError::Rejected(error) => add_command_details(error, &mut details),
            ApiError::UnknownService(service) => {
                details.set_resource_info("service", service, "", "not registered");
            }
            ApiError::NoSuchSubset { service, subset, .. } => {
                details.set_resource_info("subset", format!("{service}/{subset}"), "", "not in the policy");
            }
            ApiError::NotServedHere(service) => {
                details.set_resource_info("service", service, "", "not served here");
            }
            ApiError::ShuttingDown
            | ApiError::ReplicaDegraded
            | ApiError::Stopped(_)
            | ApiError::Interrupted(_)
            | ApiError::OutcomeUnknown(_)
            | ApiError::LimitReached(_) => {
                details.set_retry_info(Some(RETRY_DELAY));
            }
            ApiError::Overloaded { retry, .. } | ApiError::StoreUnavailable { retry, .. } => {
                details.set_retry_info(Some(*retry));
            }
            ApiError::TakesNoReports(_)
            | ApiError::HeartbeatTimeout(_)
            | ApiError::Unfinished(_)
            | ApiError::TooLarge(_)
            | ApiError::WriteTooLarge(_)
            | ApiError::Malformed(_)
            | ApiError::UnknownMethod
            | ApiError::TooManyServices(_)
            | ApiError::PolicyRejected(PolicyError::TooMany)
            | ApiError::Unencodable(_)
            | ApiError::NoConnection => {}
        }
        classify(&error).status(error.to_string(), details)
    }
}

fn classify(error: &ApiError) -> ErrorReason {
    match error {
        ApiError::Invalid(_)
        | ApiError::Rejected(CommandError::Invalid(_))
        | ApiError::PolicyRejected(PolicyError::Invalid(_)) => ErrorReason::InvalidField,
        ApiError::PolicyRejected(PolicyError::OtherRevision { .. }) => ErrorReason::OtherPolicyRevision,
        ApiError::PolicyRejected(PolicyError::TooMany) => ErrorReason::TooManyPolicies,
        ApiError::Filter(_) => ErrorReason::InvalidFilter,
        ApiError::Rejected(CommandError::NoSuchInstance { .. }) => ErrorReason::NoSuchInstance,
        ApiError::Rejected(CommandError::HeldByOther { .. }) => ErrorReason::HeldByOtherBoot,
        ApiError::Rejected(CommandError::LeaseLost { .. }) => ErrorReason::LeaseLost,
        ApiError::Rejected(CommandError::HeldByLease { .. }) => ErrorReason::HeldByLease,
        ApiError::Rejected(CommandError::HeldWithoutLease { .. }) => ErrorReason::HeldWithoutLease,
        ApiError::Rejected(CommandError::NoSuchCheck { .. }) => ErrorReason::NoSuchCheck,
        ApiError::NoSuchSubset { .. } => ErrorReason::NoSuchSubset,
        ApiError::TakesNoReports(_) => ErrorReason::NotATtlCheck,
        ApiError::Overloaded { .. } => ErrorReason::Overloaded,
        ApiError::StoreUnavailable { .. } => ErrorReason::StoreUnavailable,
        ApiError::Stopped(_) => ErrorReason::EngineStopped,
        ApiError::Interrupted(_) | ApiError::OutcomeUnknown(_) => ErrorReason::OutcomeUnknown,
        ApiError::ShuttingDown => ErrorReason::ShuttingDown,
        ApiError::ReplicaDegraded => ErrorReason::ReplicaDegraded,
        ApiError::HeartbeatTimeout(_) => ErrorReason::HeartbeatTimeout,
        ApiError::TooLarge(_) | ApiError::WriteTooLarge(_) => ErrorReason::MessageTooLarge,
        ApiError::Malformed(_) => ErrorReason::MalformedMessage,
        ApiError::UnknownMethod => ErrorReason::UnknownMethod,
        ApiError::UnknownService(_) => ErrorReason::NoSuchService,
        ApiError::NotServedHere(_) => ErrorReason::HealthOnlyListener,
        ApiError::TooManyServices(_) => ErrorReason::TooManyServices,
        ApiError::LimitReached(LimitError::Streams(..)) => ErrorReason::TooManyStreams,
        ApiError::LimitReached(LimitError::Unread(..)) => ErrorReason::TooManyUnreadResponses,
        ApiError::LimitReached(LimitError::QueueTimeout(_)) => ErrorReason::ResponseQueueTimeout,
        ApiError::Unfinished(_) => ErrorReason::RequestTimeout,
        ApiError::Unencodable(_) | ApiError::NoConnection => ErrorReason::Internal,
    }
}

/// Returns the name of the service that a policy holds for; empty for the defaults.
fn policy_name(scope: &PolicyScope) -> String {
    match scope {
        PolicyScope::Defaults => String::new(),
        PolicyScope::Service(service) => service.to_string(),
    }
}

fn add_command_details(error: &CommandError, details: &mut ErrorDetails) {
    let (service, id, text) = match error {
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
    use tonic_types::StatusExt;

    use super::*;
    use crate::registry::test_support::{id, name};

    #[test]
    fn status_carries_details_of_its_error() {
        let held = CommandError::HeldByOther { service: name("web"), id: id("a"), retry: Duration::from_secs(2) };
        let status = Status::from(ApiError::Rejected(held));
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
