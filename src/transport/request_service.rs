//! hyper's view of the routes: tells each request which connection it came on, counts it while it is open, and sees how
//! fast its answer is taken.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{sync::Semaphore, task::yield_now};
use tonic::{body::Body, service::Routes};
use tower::Service;

use super::{
    Connection,
    stall::ReadProgress,
    unread_answers::{MIN_COUNTED, UnreadAnswer},
};

/// hyper hands a frame on, however large, as soon as the peer has room for one byte; so what it gets is small.
const FRAME: usize = 16 * 1024;
/// Of an answer that is no smaller than this, the last byte goes alone.
const LARGE: usize = MIN_COUNTED;

/// How many calls of a connection begin before others have their turn.
const AT_ONCE: usize = 4;

/// Marks, among an answer's extensions, one that has no end and is made of parts that others share.
#[derive(Debug, Clone, Copy)]
pub struct EndlessBody;

/// Serves the requests of one connection.
#[derive(Debug, Clone)]
pub(super) struct RequestService {
    pub(super) routes: Routes,
    pub(super) connection: Arc<Connection>,
}

impl hyper::service::Service<Request<Incoming>> for RequestService {
    type Response = Response<PacedBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let open = OpenStream::new(&self.connection);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Arc::clone(&self.connection));
        let answer = self.routes.clone().call(request);
        let beginning = QueuedCall::new(&self.connection);
        Box::pin(async move {
            beginning.turn().await;
            let answer = answer.await?;
            let ends = answer.extensions().get::<EndlessBody>().is_none();
            Ok(answer.map(|body| PacedBody { body, rest: Bytes::new(), counted: None, ends, open }))
        })
    }
}

/// A call that has come and not begun.
#[derive(Debug)]
struct QueuedCall(Arc<Connection>);

impl QueuedCall {
    fn new(connection: &Arc<Connection>) -> Self {
        connection.beginnings().count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connection))
    }

    /// Waits until it may begin. A thread has one queue for all its connections, and a peer may send hundreds of calls at once:
    /// a few of them go, the next stand behind what others have waiting.
    async fn turn(self) {
        let CallQueue { count, turns } = self.0.beginnings();
        if count.load(Ordering::Relaxed) > AT_ONCE
            && let Ok(_turn) = turns.acquire().await
        {
            yield_now().await;
        }
    }
}

impl Drop for QueuedCall {
    fn drop(&mut self) {
        self.0.beginnings().count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The calls of a connection that have not begun.
#[derive(Debug)]
pub(super) struct CallQueue {
    count: AtomicUsize,
    /// Held by those that are next.
    turns: Semaphore,
}

impl Default for CallQueue {
    fn default() -> Self {
        Self { count: AtomicUsize::new(0), turns: Semaphore::new(AT_ONCE) }
    }
}

/// One open stream, counted.
#[derive(Debug)]
struct OpenStream {
    connection: Arc<Connection>,
    id: usize,
    progress: Arc<ReadProgress>,
    /// All of its answer was handed on.
    done: bool,
}

impl OpenStream {
    fn new(connection: &Arc<Connection>) -> Self {
        let (id, progress) = connection.stream_opens();
        Self { connection: Arc::clone(connection), id, progress, done: false }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        if self.done {
            self.connection.call_answered();
        } else {
            self.connection.call_cancelled();
        }
        self.connection.stream_ends(self.id);
    }
}

/// An answer, handed on in frames as fast as the peer takes them. Its stream counts as open until all of it is handed on.
///
/// hyper asks for the next frame once the peer has room for the last one. So there is at most one frame more than that in
/// hyper's and h2's buffers; and who does not make room is seen here.
#[derive(Debug)]
pub(super) struct PacedBody {
    body: Body,
    /// What is left of the data that the body has given...
    rest: Bytes,
    /// ...which is counted until all of it is written.
    counted: Option<Arc<UnreadAnswer>>,
    /// It has an end.
    ends: bool,
    open: OpenStream,
}

impl PacedBody {
    /// The next frame of what the body has given.
    fn next(&mut self) -> Bytes {
        let rest = self.rest.len();
        // What ends an answer is handed on together with its last data. So the last byte waits alone until there is room for
        // it, and with it all the rest: otherwise a stream would count as ended whose answer lies in h2's buffers.
        let length = if rest > FRAME {
            FRAME
        } else if rest >= LARGE && self.ends {
            rest - 1
        } else {
            rest
        };
        let frame = self.rest.split_to(length);
        self.open.progress.gives(frame.len());
        let counted = if self.rest.is_empty() { self.counted.take() } else { self.counted.clone() };
        match counted {
            Some(counted) => counted.part(frame),
            None => frame,
        }
    }
}

impl Drop for PacedBody {
    fn drop(&mut self) {
        // A body that has told its end, or has nothing at all, is not asked again.
        self.open.done |= http_body::Body::is_end_stream(self);
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
            self.open.progress.settles();
            self.open.done |= polled.is_ready();
            return polled;
        };
        match frame.into_data() {
            Ok(data) if data.len() >= LARGE => {
                // What has no end counts its messages itself, when it makes them.
                self.counted = self.ends.then(|| UnreadAnswer::new(&self.open.connection, data.clone()));
                self.rest = data;
                Poll::Ready(Some(Ok(Frame::data(self.next()))))
            }
            Ok(data) => {
                self.open.progress.gives(data.len());
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(trailers) => {
                self.open.done = true;
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
