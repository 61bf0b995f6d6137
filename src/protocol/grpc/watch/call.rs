//! Call of a watch: its request, and its response with a body of its own.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::Response,
};
use tonic::{Status, Streaming, body::Body, codec::Codec};

use super::{ApiError, WatchStream};
use crate::{
    app::{ServerContext, UserAgent},
    pb::{callboard::v1 as pb, codec::SmallBuffers},
    protocol::grpc::{MAX_SELECTOR_BYTES, decode, tonic_errors},
    transport::{Connection, MessageBody, user_agent},
};

/// Answers `DiscoveryService/Watch`.
pub(in crate::protocol::grpc) async fn answer(
    State(context): State<Arc<ServerContext>>,
    request: Request,
) -> Response<axum::body::Body> {
    let response = open(&context, request).await.unwrap_or_else(Status::into_http::<Body>);
    response.map(axum::body::Body::new)
}

async fn open(context: &Arc<ServerContext>, request: Request) -> Result<Response<Body>, Status> {
    let (head, body) = request.into_parts();
    let connection = head.extensions.get::<Arc<Connection>>().ok_or(ApiError::NoConnection)?;
    let agent = UserAgent::new(user_agent(&head.headers));
    let decoder = SmallBuffers::<pb::WatchResponse, pb::WatchRequest>::default().decoder();
    let limit = context.max_message_size.max(MAX_SELECTOR_BYTES);
    let message = Streaming::new_request(decoder, body, None, Some(limit)).message().await;
    let message = message.map_err(|status| tonic_errors::explain(&status, limit).map_or(status, Status::from))?;
    let message = message.ok_or_else(|| ApiError::Malformed("it is missing".into()))?;
    if message.consistent {
        context.engine.synchronize().await.map_err(ApiError::from)?;
    }
    let stream = WatchStream::new(context, connection, agent, decode::watch(&message)?)?;
    Ok(MessageBody::respond(connection, stream))
}
