//! Who is served first, and who not at all, when there is too much to do.
//!
//! Heartbeats and what else keeps a registration alive are taken as long as there is any room; watches and lists leave some.
//! An answer that takes long to make waits until everything else on its thread that is ready has had its turn.

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

use super::{ApiError, SELECTION, WATCH};
use crate::{
    app::ServerContext,
    transport::{AnswerSize, Connection, LimitError},
};

/// What is taken when other calls are refused.
const FIRST: [&str; 2] = ["/callboard.v1.RegistryService/", "/grpc.health.v1.Health/Check"];
/// Answers of many parts.
const LONG: [&str; 5] = [
    "/callboard.v1.DiscoveryService/ListInstances",
    "/callboard.v1.DiscoveryService/ListServices",
    "/callboard.v1.AdminService/ListSubscribers",
    "/callboard.v1.AdminService/ListEvents",
    "/grpc.health.v1.Health/List",
];
/// Calls whose requests are streams: their handlers answer at once and read later.
const STREAMED: [&str; 2] = ["/callboard.v1.RegistryService/KeepAlive", "/grpc.reflection."];
/// Time in which a whole request has to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time after which a call that has no deadline of its own is told that its outcome is not known.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a long answer may have to wait before it is made.
const QUEUE: Duration = Duration::from_secs(5);
/// Bytes that gRPC puts before a message.
const PREFIX: usize = 5;

type Answer = Response<axum::body::Body>;

/// Lets calls in. Outside of everything that handles them.
pub(super) fn layer(routes: Routes, context: &Arc<ServerContext>) -> Routes {
    routes.into_axum_router().layer(from_fn_with_state(Arc::clone(context), admit)).into()
}

async fn admit(State(context): State<Arc<ServerContext>>, request: Request, next: Next) -> Answer {
    let path = request.uri().path();
    let first = FIRST.iter().any(|start| path.starts_with(start));
    let long = LONG.contains(&path);
    let streamed = STREAMED.iter().any(|start| path.starts_with(start));
    let answer = match request.extensions().get::<Arc<Connection>>().cloned() {
        None => Err(ApiError::NoConnection),
        Some(connection) => match connection.exceeded_stream_limit(first) {
            Some(busy) => Err(busy.into()),
            None if streamed => Ok(next.run(request).await),
            None if long => answer_in_turn(&context, &connection, request, next).await,
            // A watch waits for room by itself, and what keeps a registration alive has hardly an answer.
            None if first || path == WATCH => answer_in_time(&context, request, next).await,
            None => match connection.exceeded_unread_limit(AnswerSize::Page) {
                Some(busy) => Err(busy.into()),
                None => answer_in_time(&context, request, next).await,
            },
        },
    };
    answer.unwrap_or_else(|problem| {
        if matches!(problem, ApiError::Busy(_)) {
            context.metrics.connections.rejected_streams.inc();
        }
        Status::from(problem).into_http::<Body>().map(axum::body::Body::new)
    })
}

/// The same request once all of it has arrived. Until then nothing is done, so a refusal is the whole truth.
async fn receive(context: &ServerContext, request: Request) -> Result<Request, ApiError> {
    let (head, body) = request.into_parts();
    let limit = context.max_message_size;
    // A selection may be longer than other requests.
    let limit = if head.uri.path() == WATCH { limit.max(SELECTION) } else { limit };
    let body = timeout(REQUEST_TIMEOUT, to_bytes(body, limit + PREFIX)).await;
    let body = body.map_err(|_| ApiError::Unfinished(REQUEST_TIMEOUT))?.map_err(|_| ApiError::TooLarge(limit))?;
    Ok(Request::from_parts(head, body.into()))
}

/// Answers within the client's deadline, or else within [`ANSWER_TIMEOUT`] of the whole request. A write that waits for the disk is
/// not undone by a timeout, so its client is told that the outcome is not known.
async fn answer_in_time(context: &ServerContext, request: Request, next: Next) -> Result<Answer, ApiError> {
    let deadline = deadline(request.headers());
    let limit = deadline.unwrap_or(ANSWER_TIMEOUT);
    let mut over = pin!(sleep(limit));
    let request = tokio::select! {
        request = receive(context, request) => request?,
        () = &mut over => return Err(ApiError::Unfinished(limit)),
    };
    if deadline.is_none() {
        over.set(sleep(limit));
    }
    tokio::select! {
        answer = next.run(request) => Ok(answer),
        () = over => Err(ApiError::OutcomeUnknown(limit)),
    }
}

/// Time that the client gives the call, as `grpc-timeout` has it: up to eight digits and a unit.
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

/// The request first, so that nobody holds up others by not finishing it. Then one at a time on each thread, and before each
/// of them whatever else is ready there: so a heartbeat waits for one long answer at most, however many are wanted.
async fn answer_in_turn(
    context: &ServerContext,
    connection: &Connection,
    request: Request,
    next: Next,
) -> Result<Answer, ApiError> {
    let request = receive(context, request).await?;
    let turn = connection.worker_state().large_answers().acquire();
    let _turn = timeout(QUEUE, turn).await.map_err(|_| LimitError::QueueTimeout(QUEUE))?;
    yield_now().await;
    if let Some(busy) = connection.exceeded_unread_limit(AnswerSize::Page) {
        return Err(busy.into());
    }
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_is_read_as_grpc_writes_it() {
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
