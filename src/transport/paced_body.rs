//! Bodies of answers, passed on as fast as the peer reads them.
//!
//! hyper asks for the next frame once the last one fits the peer's window. So at most one frame beyond that window is in the buffers of hyper and h2, and
//! this module detects a peer that does not open its window.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::body::Body;

use super::{
    Connection,
    fairness::{MAX_FRAME_BYTES, ReadProgress},
    unread_answers::{MIN_COUNTED, UnreadAnswer},
};

/// Minimum size of an answer whose last byte is passed on alone.
const LARGE_BYTES: usize = MIN_COUNTED;

/// Body of an answer, in frames of bounded size. Its stream counts as open until the whole body is passed on.
#[derive(Debug)]
pub(super) struct PacedBody {
    body: Body,
    /// Remaining data of the current frame of the body.
    rest: Bytes,
    /// Count of this data as unread, kept until all of it is written.
    counted: Option<Arc<UnreadAnswer>>,
    has_end: bool,
    stream: OpenStream,
}

impl PacedBody {
    /// Body of a stream. `has_end`: false for a watch, which counts its own messages.
    pub(super) fn new(body: Body, has_end: bool, stream: OpenStream) -> Self {
        Self { body, rest: Bytes::new(), counted: None, has_end, stream }
    }

    /// Splits the next frame off the data.
    fn next(&mut self) -> Bytes {
        let rest = self.rest.len();
        // The end of an answer is passed on together with its last data. So the last byte is passed on alone, once the window has space for it and thus for
        // the rest. Otherwise a stream would count as ended while its answer is in the buffers of h2.
        let length = if rest > MAX_FRAME_BYTES {
            MAX_FRAME_BYTES
        } else if rest >= LARGE_BYTES && self.has_end {
            rest - 1
        } else {
            rest
        };
        let frame = self.rest.split_to(length);
        self.stream.progress.give(frame.len());
        let counted = if self.rest.is_empty() { self.counted.take() } else { self.counted.clone() };
        match counted {
            Some(counted) => counted.part(frame),
            None => frame,
        }
    }
}

impl Drop for PacedBody {
    fn drop(&mut self) {
        // hyper does not poll a body again that has reported its end, or is empty.
        self.stream.complete |= http_body::Body::is_end_stream(self);
    }
}

impl http_body::Body for PacedBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(self.next()))));
        }
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let Poll::Ready(Some(Ok(frame))) = polled else {
            self.stream.progress.take_all();
            self.stream.complete |= polled.is_ready();
            return polled;
        };
        match frame.into_data() {
            Ok(data) if data.len() >= LARGE_BYTES => {
                // A body without an end counts its messages itself, when it makes them.
                self.counted = self.has_end.then(|| UnreadAnswer::new(&self.stream.connection, data.clone()));
                self.rest = data;
                Poll::Ready(Some(Ok(Frame::data(self.next()))))
            }
            Ok(data) => {
                self.stream.progress.give(data.len());
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(trailers) => {
                self.stream.complete = true;
                Poll::Ready(Some(Ok(trailers)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

/// Open stream, counted until it is dropped.
#[derive(Debug)]
pub(super) struct OpenStream {
    connection: Arc<Connection>,
    id: usize,
    progress: Arc<ReadProgress>,
    /// Set once the whole answer has been passed on.
    complete: bool,
}

impl OpenStream {
    pub(super) fn new(connection: &Arc<Connection>) -> Self {
        let (id, progress) = connection.stream_opens();
        Self { connection: Arc::clone(connection), id, progress, complete: false }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        if self.complete {
            self.connection.call_answered();
        } else {
            self.connection.call_cancelled();
        }
        self.connection.stream_ends(self.id);
    }
}
