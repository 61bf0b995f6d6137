//! Body of a gRPC response stream whose messages are made of shared parts.
//!
//! tonic's own body copies each message into a buffer that it keeps until the stream ends: a stream that once sent a large message would
//! hold hundreds of KiB from then on. This body sends the shared parts without copying them, and holds nothing between two messages.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
    vec,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::Frame;
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body};

use super::{AnswerSize, Connection, EndlessBody};

/// Interval at which a stream checks whether its client has read enough for another message.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Media type of gRPC.
const GRPC_MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// Length of the prefix of a message.
pub const MESSAGE_PREFIX_BYTES: usize = 5;

/// Next item of a stream.
#[derive(Debug)]
pub enum NextMessage {
    /// Parts of a message, with the prefix of [`put_message_prefix`].
    Message(Vec<Bytes>),
    /// End of the stream with this status.
    End(Status),
}

/// Stream of messages. It is polled when the client's flow-control window is open.
pub trait MessageSource: Send + Unpin + 'static {
    /// Returns the next message when there is one. `None`: the stream has ended.
    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<NextMessage>>;
}

/// Writes gRPC's prefix of a message of this length in bytes: a flag for compression, and the length.
pub fn put_message_prefix(length: usize, to: &mut BytesMut) {
    to.put_u8(0);
    // No message is longer.
    to.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// Response body: messages while the stream lasts, then its status as trailers.
#[derive(Debug)]
pub struct MessageBody<S> {
    connection: Arc<Connection>,
    source: S,
    /// Unsent parts of the present message.
    parts: vec::IntoIter<Bytes>,
    /// Timer that the next message waits for.
    retry: Option<Pin<Box<Sleep>>>,
}

impl<S: MessageSource> MessageBody<S> {
    /// Returns the response with the messages of a stream.
    pub fn respond(connection: &Arc<Connection>, source: S) -> Response<Body> {
        let body = Self { connection: Arc::clone(connection), source, parts: Vec::new().into_iter(), retry: None };
        let mut response = Response::new(Body::new(body));
        response.headers_mut().insert(header::CONTENT_TYPE, GRPC_MEDIA_TYPE);
        response.extensions_mut().insert(EndlessBody);
        response
    }

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

impl<S: MessageSource> http_body::Body for MessageBody<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(part) = self.parts.next() {
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            ready!(self.poll_unread_limit(context));
            match ready!(self.source.poll_message(context)) {
                Some(NextMessage::Message(parts)) => self.send(parts),
                Some(NextMessage::End(status)) => return Poll::Ready(Some(trailers(&status))),
                None => return Poll::Ready(None),
            }
        }
    }
}

fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}
