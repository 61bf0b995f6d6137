//! Refusals that are made before a handler is asked: a message that is too large, that is no protobuf, that is missing or
//! only half there, an unknown method.
//!
//! tonic answers these in its own words, without details. Here they get what every refusal of this door has: a code that
//! tells whose fault it was, the reason, and the remedy.

use axum::{http::Response, middleware::map_response};
use tonic::{Code, Status, body::Body, service::Routes};

use super::ApiError;

/// What tonic says of a message over the limit, of one that is no protobuf, of none where there must be one, and of half a one.
const TOO_LARGE: &str = "decoded message length too large";
const NO_PROTOBUF: &str = "failed to decode Protobuf message";
const MISSING: &str = "Missing request message.";
const HALF: &str = "Unexpected EOF decoding stream.";

/// Explains what the routes refuse. `limit`: bytes of a request, to be named.
pub(super) fn layer(routes: Routes, limit: usize) -> Routes {
    let explain = move |response: Response<axum::body::Body>| async move { explain(response, limit) };
    routes.into_axum_router().layer(map_response(explain)).into()
}

fn explain(response: Response<axum::body::Body>, limit: usize) -> Response<axum::body::Body> {
    // A refusal that no handler saw has its status in the headers.
    let status = Status::from_header_map(response.headers());
    match status.as_ref().and_then(|status| problem(status, limit)) {
        Some(problem) => Status::from(problem).into_http::<Body>().map(axum::body::Body::new),
        None => response,
    }
}

/// What the stack below us meant. `None`: the status is our own, or needs no explanation.
pub(super) fn problem(status: &Status, limit: usize) -> Option<ApiError> {
    if !status.details().is_empty() {
        return None;
    }
    match status.code() {
        Code::OutOfRange if status.message().contains(TOO_LARGE) => Some(ApiError::TooLarge(limit)),
        Code::Internal if status.message().contains(NO_PROTOBUF) => Some(ApiError::Malformed(status.message().into())),
        Code::Internal if status.message() == MISSING => Some(ApiError::Malformed("there is none".into())),
        Code::Internal if status.message() == HALF => Some(ApiError::Malformed("it ends in the middle".into())),
        // With a message it is something else that is not there: an encoding, say.
        Code::Unimplemented if status.message().is_empty() => Some(ApiError::UnknownMethod),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_the_stack_meant() {
        let stack =
            Status::out_of_range("Error, decoded message length too large: found 9 bytes, the limit is: 5 bytes");
        assert!(matches!(problem(&stack, 5), Some(ApiError::TooLarge(5))));
        assert!(matches!(
            problem(&Status::internal("failed to decode Protobuf message: X"), 5),
            Some(ApiError::Malformed(_))
        ));
        assert!(matches!(problem(&Status::unimplemented(""), 5), Some(ApiError::UnknownMethod)));
        for framing in [MISSING, HALF] {
            assert!(matches!(problem(&Status::internal(framing), 5), Some(ApiError::Malformed(_))), "{framing}");
        }
        assert!(problem(&Status::internal("else"), 5).is_none());
        assert!(problem(&Status::unimplemented("gzip is not supported"), 5).is_none());
        assert!(problem(&Status::from(ApiError::UnknownMethod), 5).is_none(), "explained once");
    }
}
