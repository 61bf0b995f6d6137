//! Every refusal of this door: in Consul's words where it has some.

use axum::http::{
    Method, StatusCode,
    header::{ALLOW, CONTENT_TYPE, RETRY_AFTER},
};

use super::response::ConsulResponse;
use crate::{
    engine::EngineError, health_check::ReportError, model::FieldError, registry::CommandError, transport::LimitError,
};

/// What refusals are written in.
const PLAIN: &str = "text/plain; charset=utf-8";

/// Why this door does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConsulError {
    #[error("Invalid URL path: not a recognized HTTP API endpoint\n")]
    NoSuchPath,
    #[error(
        "Callboard is no {}: it speaks the discovery part of Consul's API (agent, catalog, health, status); ask a Consul for the rest",
        .0.trim_start_matches("a ").trim_start_matches("an ")
    )]
    NotHere(&'static str),
    #[error("method {0} not allowed")]
    Method(Method, &'static str),
    #[error("Invalid query parameter: {0:?} - {1} a Consul Enterprise feature")]
    Enterprise(&'static str, &'static str),
    #[error("Invalid header: {0:?} - {1} a Consul Enterprise feature")]
    EnterpriseHeader(&'static str, &'static str),
    #[error("No path to datacenter")]
    NoPathToDatacenter,
    #[error("Invalid value for ?{0}")]
    Switch(&'static str),
    /// What was sent is refused, with this text.
    #[error("{0}")]
    Text(&'static str),
    /// The same, where the text names a value.
    #[error("{0}")]
    Bad(String),
    #[error("Request decode failed: {0}")]
    Decode(String),
    /// Consul answers so what is wrong with what was sent.
    #[error("{0}")]
    Server(String),
    #[error("{0}")]
    NotFound(String),
    #[error("the request is larger than {0} bytes: send less, or raise --max-message-size where the registry runs")]
    TooLarge(usize),
    #[error("the request did not come within {0} s, so nothing was done: send it at once")]
    TooSlow(u64),
    #[error(
        "no outcome within {0} s: it may be done now, later or not at all; repeat it, which is safe, and look after the registry's disk \
         if this goes on"
    )]
    OutcomeUnknown(u64),
    #[error(
        "{0} queries wait for changes already, and no more may: close some, or raise --max-blocking-queries where the registry runs"
    )]
    TooManyParked(usize),
    #[error(transparent)]
    Busy(#[from] LimitError),
    #[error("the registry has lost its registrations and waits for them to come back: ask again")]
    Settling,
    #[error("{0}")]
    Taken(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("a page of another site may not write here: use a program, or a page from this machine")]
    Page,
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

    fn status(&self) -> StatusCode {
        match self {
            Self::NoSuchPath | Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::NotHere(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Method(..) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Enterprise(..)
            | Self::EnterpriseHeader(..)
            | Self::Switch(_)
            | Self::Text(_)
            | Self::Bad(_)
            | Self::Decode(_) => StatusCode::BAD_REQUEST,
            Self::NoPathToDatacenter | Self::Server(_) | Self::NoConnection => StatusCode::INTERNAL_SERVER_ERROR,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::OutcomeUnknown(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Busy(busy) if busy.is_of_all() => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyParked(_) | Self::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Taken(_) => StatusCode::CONFLICT,
            Self::Page => StatusCode::FORBIDDEN,
            Self::Settling | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// As an answer.
    pub(super) fn reply(&self) -> ConsulResponse {
        let mut reply = ConsulResponse::new(self.status(), self.to_string().into()).with(CONTENT_TYPE, PLAIN);
        match self {
            // Who answers so in Consul does not know of ACLs.
            Self::NoSuchPath => {
                reply.headers.remove("x-consul-default-acl-policy");
                reply
            }
            Self::Method(_, allowed) => reply.with(ALLOW, allowed),
            Self::TooManyParked(_)
            | Self::Busy(_)
            | Self::Settling
            | Self::OutcomeUnknown(_)
            | Self::Unavailable(_) => reply.with(RETRY_AFTER, "1"),
            _ => reply,
        }
    }
}

impl From<FieldError> for ConsulError {
    fn from(invalid: FieldError) -> Self {
        Self::Bad(invalid.to_string())
    }
}

impl From<CommandError> for ConsulError {
    fn from(refusal: CommandError) -> Self {
        match &refusal {
            CommandError::NoSuchInstance { id, .. } => Self::unknown_service(id.as_str()),
            CommandError::NoSuchCheck { check, .. } => Self::unknown_check(check.as_str()),
            CommandError::HeldByLease { .. }
            | CommandError::HeldWithoutLease { .. }
            | CommandError::HeldByOther { .. }
            | CommandError::LeaseLost { .. } => Self::Taken(refusal.to_string()),
            CommandError::Invalid(_) => Self::Bad(refusal.to_string()),
        }
    }
}

impl From<EngineError> for ConsulError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Rejected(refusal) => refusal.into(),
            EngineError::Overloaded { .. } | EngineError::Stopped | EngineError::OutcomeUnknown => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}

impl From<ReportError> for ConsulError {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::NotFed(check) => Self::Server(format!("CheckID \"{check}\" does not have associated TTL")),
            ReportError::Engine(error) => error.into(),
        }
    }
}
