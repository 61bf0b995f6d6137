//! A watch as the body of a gRPC response.
//!
//! tonic's own body copies each message into a buffer that it keeps until the stream ends: a watch that once sent a large
//! snapshot would hold hundreds of KiB from then on. This body sends the shared parts without copying them, and holds
//! nothing between two messages.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
    vec,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Response, header},
};
use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Sleep, sleep};
use tonic::{Status, Streaming, body::Body, codec::Codec};

use super::{ApiError, NextMessage, WatchStream};
use crate::{
    app::{ServerContext, UserAgent},
    pb::{callboard::v1 as pb, codec::SmallBuffers},
    protocol::grpc::{MAX_SELECTOR_BYTES, decode, tonic_errors},
    transport::{AnswerSize, Connection, EndlessBody, user_agent},
};

/// Interval at which a watch checks whether its client has read enough for another message.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Media type of gRPC.
const GRPC_MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// Answers `DiscoveryService/Watch`.
pub(in crate::protocol::grpc) async fn answer(
    State(context): State<Arc<ServerContext>>,
    request: Request,
) -> Response<axum::body::Body> {
    match open(&context, request).await {
        Ok(body) => {
            let mut response = Response::new(axum::body::Body::new(body));
            response.headers_mut().insert(header::CONTENT_TYPE, GRPC_MEDIA_TYPE);
            response.extensions_mut().insert(EndlessBody);
            response
        }
        Err(status) => status.into_http::<Body>().map(axum::body::Body::new),
    }
}

async fn open(context: &Arc<ServerContext>, request: Request) -> Result<WatchBody, Status> {
    let (head, body) = request.into_parts();
    let connection = head.extensions.get::<Arc<Connection>>().ok_or(ApiError::NoConnection)?;
    let agent = UserAgent::new(user_agent(&head.headers));
    let decoder = SmallBuffers::<pb::WatchResponse, pb::WatchRequest>::default().decoder();
    let limit = context.max_message_size.max(MAX_SELECTOR_BYTES);
    let message = Streaming::new_request(decoder, body, None, Some(limit)).message().await;
    let message = message.map_err(|status| tonic_errors::explain(&status, limit).map_or(status, Status::from))?;
    let message = message.ok_or_else(|| ApiError::Malformed("it is missing".into()))?;
    let stream = WatchStream::new(context, connection, agent, decode::watch(&message)?);
    Ok(WatchBody { connection: Arc::clone(connection), stream, parts: Vec::new().into_iter(), retry: None })
}

/// Response body: messages while the watch lasts, then its status as trailers.
#[derive(Debug)]
struct WatchBody {
    connection: Arc<Connection>,
    stream: WatchStream,
    /// Unsent parts of the present message.
    parts: vec::IntoIter<Bytes>,
    /// Timer that the next message waits for.
    retry: Option<Pin<Box<Sleep>>>,
}

impl WatchBody {
    /// Waits until the unread bytes of the connection allow another message.
    fn poll_unread_limit(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(retry) = &mut self.retry {
                ready!(retry.as_mut().poll(context));
                self.retry = None;
            }
            if self.connection.exceeded_unread_limit(AnswerSize::Message).is_none() {
                return Poll::Ready(());
            }
            self.retry = Some(Box::pin(sleep(RETRY_INTERVAL)));
        }
    }

    /// Queues the parts of a message. Large parts count as unread until the client reads them.
    fn send(&mut self, parts: Vec<Bytes>) {
        let count = |part| self.connection.count_unread(part);
        self.parts = parts.into_iter().map(count).collect::<Vec<_>>().into_iter();
    }
}

impl http_body::Body for WatchBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(part) = self.parts.next() {
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            ready!(self.poll_unread_limit(context));
            match ready!(self.stream.poll_next(context)) {
                Some(NextMessage::Message(parts)) => self.send(parts),
                Some(NextMessage::End(error)) => return Poll::Ready(Some(trailers(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

fn trailers(error: ApiError) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    Status::from(error).add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}
