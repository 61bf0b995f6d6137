//! Who is served first, and who not at all, when there is too much to do.
//!
//! Heartbeats and what else keeps a registration alive are taken as long as there is any room; watches and lists leave some.
//! An answer that takes long to make waits until everything else on its thread that is ready has had its turn.

use std::{sync::Arc, time::Duration};

use axum::{
    body::to_bytes,
    extract::{Request, State},
    http::Response,
    middleware::{Next, from_fn_with_state},
};
use tokio::{task::yield_now, time::timeout};
use tonic::{Status, body::Body, service::Routes};

use super::{Problem, Shared};
use crate::net::{Busy, Connection};

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
/// How long a peer may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a long answer may have to wait before it is made.
const QUEUE: Duration = Duration::from_secs(5);
/// Bytes that gRPC puts before a message.
const PREFIX: usize = 5;

type Answer = Response<axum::body::Body>;

/// Lets calls in. Outside of everything that handles them.
pub(super) fn layer(routes: Routes, shared: &Arc<Shared>) -> Routes {
    routes.into_axum_router().layer(from_fn_with_state(Arc::clone(shared), admit)).into()
}

async fn admit(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Answer {
    let path = request.uri().path();
    let first = FIRST.iter().any(|start| path.starts_with(start));
    let long = LONG.contains(&path);
    let answer = match request.extensions().get::<Arc<Connection>>().cloned() {
        None => Err(Problem::NoConnection),
        Some(connection) => match connection.busy(first) {
            Some(busy) => Err(busy.into()),
            None if long => answer_in_turn(&shared, &connection, request, next).await,
            None => timeout(PATIENCE, next.run(request)).await.map_err(|_| Problem::Unfinished(PATIENCE)),
        },
    };
    answer.unwrap_or_else(|problem| {
        if matches!(problem, Problem::Busy(_)) {
            shared.metrics.connections.streams_refused.inc();
        }
        Status::from(problem).into_http::<Body>().map(axum::body::Body::new)
    })
}

/// The request first, so that nobody holds up others by not finishing it. Then one at a time on each thread, and before each
/// of them whatever else is ready there: so a heartbeat waits for one long answer at most, however many are wanted.
async fn answer_in_turn(
    shared: &Shared,
    connection: &Connection,
    request: Request,
    next: Next,
) -> Result<Answer, Problem> {
    let (head, body) = request.into_parts();
    let limit = shared.max_message_size;
    let body = timeout(PATIENCE, to_bytes(body, limit + PREFIX)).await.map_err(|_| Problem::Unfinished(PATIENCE))?;
    let body = body.map_err(|_| Problem::TooLarge(limit))?;
    let _turn = timeout(QUEUE, connection.place().turn().acquire()).await.map_err(|_| Busy::Turn(QUEUE))?;
    yield_now().await;
    if let Some(busy) = connection.full() {
        return Err(busy.into());
    }
    Ok(next.run(Request::from_parts(head, body.into())).await)
}
