//! Admission of calls under load: limits, deadlines and priorities.
//!
//! Calls that keep registrations alive are accepted up to the limits; other calls leave a reserve for them. A response that is
//! expensive to build waits until all other ready tasks of its thread have run.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{
    body::to_bytes,
    extract::{Request, State},
    http::{HeaderMap, Response},
    middleware::{Next, from_fn_with_state},
};
use tokio::{
    task::yield_now,
    time::{sleep, timeout},
};
use tonic::{Status, body::Body, service::Routes};

use super::{ApiError, MAX_SELECTOR_BYTES, WATCH};
use crate::{
    app::ServerContext,
    transport::{AnswerSize, Connection, LimitError},
};

/// Calls that are accepted when others are rejected, by the beginning of their paths.
const PRIORITY_CALLS: [&str; 2] = ["/callboard.v1.RegistryService/", "/grpc.health.v1.Health/Check"];
/// Calls whose responses are expensive to build.
const EXPENSIVE_CALLS: [&str; 8] = [
    "/callboard.v1.DiscoveryService/ListInstances",
    "/callboard.v1.DiscoveryService/ListServices",
    "/callboard.v1.AdminService/ListWatchers",
    "/callboard.v1.AdminService/ListEvents",
    "/callboard.v1.AdminService/ExportRegistry",
    "/callboard.v1.XdsService/Explain",
    "/grpc.health.v1.Health/List",
    "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
];
/// Calls with a stream of requests, by the beginning of their paths. Their handlers return before the requests arrive.
const STREAMING_CALLS: [&str; 5] = [
    "/callboard.v1.RegistryService/KeepAlive",
    "/grpc.reflection.",
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/",
    "/envoy.service.load_stats.v3.LoadReportingService/",
    "/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus",
];
/// Time within which a whole request must arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time after which a call without a deadline fails with an unknown outcome.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum time that an expensive response waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of gRPC's prefix of a message.
const PREFIX_BYTES: usize = 5;

type HttpResponse = Response<axum::body::Body>;

/// Adds admission around the routes.
pub(super) fn layer(routes: Routes, context: &Arc<ServerContext>) -> Routes {
    routes.into_axum_router().layer(from_fn_with_state(Arc::clone(context), admit)).into()
}

async fn admit(State(context): State<Arc<ServerContext>>, request: Request, next: Next) -> HttpResponse {
    let path = request.uri().path();
    let priority = PRIORITY_CALLS.iter().any(|prefix| path.starts_with(prefix));
    let expensive = EXPENSIVE_CALLS.contains(&path);
    let streaming = STREAMING_CALLS.iter().any(|prefix| path.starts_with(prefix));
    let response = match request.extensions().get::<Arc<Connection>>().cloned() {
        None => Err(ApiError::NoConnection),
        Some(connection) => match connection.exceeded_stream_limit(priority) {
            Some(limit) => Err(limit.into()),
            None if streaming => Ok(next.run(request).await),
            None if expensive => respond_in_turn(&context, &connection, request, next).await,
            // A watch limits its unread bytes itself, and the responses of priority calls are small.
            None if priority || path == WATCH => respond_in_time(&context, request, next).await,
            None => match connection.exceeded_unread_limit(AnswerSize::Page) {
                Some(limit) => Err(limit.into()),
                None => respond_in_time(&context, request, next).await,
            },
        },
    };
    response.unwrap_or_else(|error| {
        if matches!(error, ApiError::LimitReached(_)) {
            context.metrics.connections.rejected_streams.inc();
        }
        Status::from(error).into_http::<Body>().map(axum::body::Body::new)
    })
}

/// Returns the request once all of it has arrived. The call is not executed before that, so an error means that nothing
/// was done.
async fn receive(context: &ServerContext, request: Request) -> Result<Request, ApiError> {
    let (head, body) = request.into_parts();
    let limit = context.max_message_size;
    // A selector may be longer than other requests.
    let limit = if head.uri.path() == WATCH { limit.max(MAX_SELECTOR_BYTES) } else { limit };
    let body = timeout(REQUEST_TIMEOUT, to_bytes(body, limit + PREFIX_BYTES)).await;
    let body = body.map_err(|_| ApiError::Unfinished(REQUEST_TIMEOUT))?.map_err(|_| ApiError::TooLarge(limit))?;
    Ok(Request::from_parts(head, body.into()))
}

/// Responds within the client's deadline, or else within [`RESPONSE_TIMEOUT`] of the whole request. A timeout does not undo a write
/// that waits for the disk, so the error says that the outcome is unknown.
async fn respond_in_time(context: &ServerContext, request: Request, next: Next) -> Result<HttpResponse, ApiError> {
    let deadline = deadline(request.headers());
    let limit = deadline.unwrap_or(RESPONSE_TIMEOUT);
    let mut over = pin!(sleep(limit));
    let request = tokio::select! {
        request = receive(context, request) => request?,
        () = &mut over => return Err(ApiError::Unfinished(limit)),
    };
    if deadline.is_none() {
        over.set(sleep(limit));
    }
    tokio::select! {
        response = next.run(request) => Ok(response),
        () = over => Err(ApiError::OutcomeUnknown(limit)),
    }
}

/// Parses `grpc-timeout`, the time that the client gives the call: up to eight digits and a unit.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Responds to expensive calls one at a time on each thread, and lets all other ready tasks of the thread run before each: so a
/// heartbeat waits for one expensive response at most. The whole request is received first, so that a slow client does not hold the
/// turn.
async fn respond_in_turn(
    context: &ServerContext,
    connection: &Connection,
    request: Request,
    next: Next,
) -> Result<HttpResponse, ApiError> {
    let request = receive(context, request).await?;
    let turn = connection.worker_state().large_answers().acquire();
    let _turn = timeout(TURN_TIMEOUT, turn).await.map_err(|_| LimitError::QueueTimeout(TURN_TIMEOUT))?;
    yield_now().await;
    if let Some(limit) = connection.exceeded_unread_limit(AnswerSize::Page) {
        return Err(limit.into());
    }
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeout_is_parsed_with_its_unit() {
        let read =
            |text: &str| deadline(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]));
        for (text, span) in [
            ("1H", Duration::from_hours(1)),
            ("2M", Duration::from_mins(2)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(read(text), Some(span), "{text}");
        }
        for text in ["", "S", "5", "123456789S", "-1S", "+1S", "1s", "1.5S"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
