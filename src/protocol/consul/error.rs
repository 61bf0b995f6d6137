//! Errors of Consul's API, with their statuses. An error that Consul has, too, has Consul's text.

use axum::http::{Method, StatusCode};

use crate::{
    engine::EngineError, health_check::ReportError, model::FieldError, registry::CommandError, transport::LimitError,
};

/// Error of a request to Consul's API. Displayed as the body of the response.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConsulError {
    #[error("Invalid URL path: not a recognized HTTP API endpoint\n")]
    NoSuchPath,
    /// The path belongs to a part of Consul's API that is not implemented.
    #[error(
        "Callboard does not implement {0}: it has the discovery part of Consul's API (agent, catalog, health, status); use Consul for \
         the rest"
    )]
    NotImplemented(&'static str),
    /// The endpoint does not have this method; the second field lists the allowed ones.
    #[error("method {0} not allowed")]
    Method(Method, &'static str),
    #[error("Invalid query parameter: {0:?} - {1} a Consul Enterprise feature")]
    Enterprise(&'static str, &'static str),
    #[error("Invalid header: {0:?} - {1} a Consul Enterprise feature")]
    EnterpriseHeader(&'static str, &'static str),
    #[error("No path to datacenter")]
    NoPathToDatacenter,
    #[error("Invalid value for ?{0}")]
    InvalidFlag(&'static str),
    #[error("{0}")]
    BadRequest(&'static str),
    #[error("{0}")]
    BadValue(String),
    #[error("Request decode failed: {0}")]
    Decode(String),
    /// Consul answers 500 to these, although the request is invalid.
    #[error("{0}")]
    Server(String),
    #[error("{0}")]
    NotFound(String),
    #[error("the request is larger than {0} bytes: send less, or raise --max-message-size where the registry runs")]
    TooLarge(usize),
    #[error("the body of the request did not arrive within {0} s, and nothing was changed: send the request again")]
    BodyTimeout(u64),
    #[error(
        "the outcome is not known after {0} s: the write may have happened, or may still happen; send it again, which is safe, and \
         check the disk of the registry if this repeats"
    )]
    OutcomeUnknown(u64),
    #[error(
        "limit of {0} blocking queries reached: close some, or raise --max-blocking-queries where the registry runs"
    )]
    TooManyBlockingQueries(usize),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error("the registry restarted without its registrations and waits for instances to register again: try again")]
    Settling,
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("web pages of other sites cannot write: use a program, or a page from this machine")]
    ForeignOrigin,
    #[error("the request carries no connection: report this as a defect")]
    NoConnection,
}

impl ConsulError {
    pub(super) fn unknown_service(id: &str) -> Self {
        Self::NotFound(format!(
            "Unknown service ID {id:?}. Ensure that the service ID is passed, not the service name."
        ))
    }

    pub(super) fn unknown_check(id: &str) -> Self {
        Self::NotFound(format!("Unknown check ID {id:?}. Ensure that the check ID is passed, not the check name."))
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NoSuchPath | Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Method(..) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Enterprise(..)
            | Self::EnterpriseHeader(..)
            | Self::InvalidFlag(_)
            | Self::BadRequest(_)
            | Self::BadValue(_)
            | Self::Decode(_) => StatusCode::BAD_REQUEST,
            Self::NoPathToDatacenter | Self::Server(_) | Self::NoConnection => StatusCode::INTERNAL_SERVER_ERROR,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::OutcomeUnknown(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Limit(limit) if limit.is_of_registry() => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyBlockingQueries(_) | Self::Limit(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::ForeignOrigin => StatusCode::FORBIDDEN,
            Self::Settling | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns whether the same request may succeed later.
    pub(super) fn is_temporary(&self) -> bool {
        match self {
            Self::TooManyBlockingQueries(_)
            | Self::Limit(_)
            | Self::Settling
            | Self::OutcomeUnknown(_)
            | Self::Unavailable(_) => true,
            Self::NoSuchPath
            | Self::NotImplemented(_)
            | Self::Method(..)
            | Self::Enterprise(..)
            | Self::EnterpriseHeader(..)
            | Self::NoPathToDatacenter
            | Self::InvalidFlag(_)
            | Self::BadRequest(_)
            | Self::BadValue(_)
            | Self::Decode(_)
            | Self::Server(_)
            | Self::NotFound(_)
            | Self::TooLarge(_)
            | Self::BodyTimeout(_)
            | Self::Conflict(_)
            | Self::ForeignOrigin
            | Self::NoConnection => false,
        }
    }
}

impl From<FieldError> for ConsulError {
    fn from(error: FieldError) -> Self {
        Self::BadValue(error.to_string())
    }
}

impl From<CommandError> for ConsulError {
    fn from(error: CommandError) -> Self {
        match &error {
            CommandError::NoSuchInstance { id, .. } => Self::unknown_service(id.as_str()),
            CommandError::NoSuchCheck { check, .. } => Self::unknown_check(check.as_str()),
            CommandError::HeldByLease { .. }
            | CommandError::HeldWithoutLease { .. }
            | CommandError::HeldByOther { .. }
            | CommandError::LeaseLost { .. } => Self::Conflict(error.to_string()),
            CommandError::Invalid(_) => Self::BadValue(error.to_string()),
        }
    }
}

impl From<EngineError> for ConsulError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Rejected(error) => error.into(),
            // Consul's API has no policies.
            EngineError::PolicyRejected(_) | EngineError::TooLarge { .. } => Self::Server(error.to_string()),
            // Consul's text for a query that asks for consistency while there is no leader.
            EngineError::NotCurrent { .. } => Self::Server("No cluster leader".to_owned()),
            EngineError::Overloaded { .. }
            | EngineError::Unavailable { .. }
            | EngineError::Unconfirmed { .. }
            | EngineError::Stopped
            | EngineError::OutcomeUnknown => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<ReportError> for ConsulError {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::NotTtl(check) => Self::Server(format!("CheckID \"{check}\" does not have associated TTL")),
            ReportError::Engine(error) => error.into(),
        }
    }
}
