//! Load of an instance, measured by a layer of its server and reported with heartbeats.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{sync::Notify, time::Instant};
use tonic::Code;
use tower::{Layer, Service};

use crate::pb::callboard::v1::LoadReport;

/// Prefixes of the paths of calls that are no load: probes and reflection.
const UNCOUNTED_PATHS: [&str; 2] = ["/grpc.health.", "/grpc.reflection."];
/// Header and trailer with the status of a call.
pub(super) const GRPC_STATUS: &str = "grpc-status";

/// Counters of the calls to this program, since the last report.
#[derive(Debug, Default)]
pub(super) struct LoadCounters {
    /// True once a layer counts calls.
    measured: AtomicBool,
    /// Number of calls in progress that are full load. 0: unknown.
    capacity: AtomicU32,
    in_flight: AtomicU32,
    requests: AtomicU64,
    errors: AtomicU64,
    /// Sum of the response times, in nanoseconds.
    response_time: AtomicU64,
    /// Wakes tasks that wait until no call is in progress.
    idle: Notify,
}

impl LoadCounters {
    /// Returns the load since the last report. `None` if no layer counts calls.
    pub(super) fn take_report(&self) -> Option<LoadReport> {
        if !self.measured.load(Ordering::Relaxed) {
            return None;
        }
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let capacity = self.capacity.load(Ordering::Relaxed);
        let requests = self.requests.swap(0, Ordering::Relaxed);
        let total = self.response_time.swap(0, Ordering::Relaxed);
        let mean = total.checked_div(requests).map(Duration::from_nanos);
        Some(LoadReport {
            utilization: if capacity == 0 { 0.0 } else { f64::from(in_flight) / f64::from(capacity) },
            in_flight,
            response_time: mean.and_then(|mean| mean.try_into().ok()),
            requests,
            errors: self.errors.swap(0, Ordering::Relaxed),
        })
    }

    /// Waits until no call is in progress.
    pub(super) async fn idle(&self) {
        loop {
            let notified = self.idle.notified();
            tokio::pin!(notified);
            // A call that ends after the counter is read wakes this task.
            notified.as_mut().enable();
            if self.in_flight.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }
}

/// Layer of a tonic server that measures the load of an instance. It is made by
/// [`Registration::load_layer`](super::Registration::load_layer).
///
/// - *Calls in progress* are counted until their last message is written.
/// - *Response time* is the time until a call has its first response: for a unary call the time of its handler, for a stream
///   the time until it is open. So streams that stay open for hours do not count as slow.
/// - *Errors* are calls whose status says that the server is at fault: `UNKNOWN`, `DEADLINE_EXCEEDED`, `UNIMPLEMENTED`,
///   `INTERNAL`, `UNAVAILABLE` and `DATA_LOSS`, which are the errors of a server in OpenTelemetry's conventions for gRPC.
///   Others, such as `NOT_FOUND`, are the caller's. The status is read from the trailers, too. A body that fails is an
///   error; a call that its caller cancels is none, and is not counted if it had no response yet.
/// - Calls of gRPC's health and reflection services are not counted.
#[derive(Debug, Clone)]
pub struct LoadLayer(Arc<LoadCounters>);

impl LoadLayer {
    pub(super) fn new(counters: &Arc<LoadCounters>) -> Self {
        counters.measured.store(true, Ordering::Relaxed);
        Self(Arc::clone(counters))
    }

    /// Sets the number of calls in progress at which the instance is full. It is the unit of `LoadReport.utilization`, which
    /// is 0 without it.
    #[must_use]
    pub fn with_capacity(self, calls: u32) -> Self {
        self.0.capacity.store(calls, Ordering::Relaxed);
        self
    }
}

impl<S> Layer<S> for LoadLayer {
    type Service = LoadService<S>;

    fn layer(&self, inner: S) -> LoadService<S> {
        LoadService { inner, counters: Arc::clone(&self.0) }
    }
}

/// Service whose calls are counted. [`LoadLayer`] has the rules.
#[derive(Debug, Clone)]
pub struct LoadService<S> {
    inner: S,
    counters: Arc<LoadCounters>,
}

impl<S, RequestBody, ResponseBody> Service<Request<RequestBody>> for LoadService<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>>,
    ResponseBody: Body,
{
    type Response = Response<LoadBody<ResponseBody>>;
    type Error = S::Error;
    type Future = LoadFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let path = request.uri().path();
        let counted = !UNCOUNTED_PATHS.iter().any(|prefix| path.starts_with(prefix));
        let call = counted.then(|| CountedCall::start(&self.counters));
        LoadFuture { inner: self.inner.call(request), call }
    }
}

/// Call in progress. Dropping it ends it.
#[derive(Debug)]
struct CountedCall {
    counters: Arc<LoadCounters>,
    started: Instant,
    /// Time until the first response.
    response_time: Option<Duration>,
    failed: bool,
}

impl CountedCall {
    fn start(counters: &Arc<LoadCounters>) -> Self {
        counters.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { counters: Arc::clone(counters), started: super::now(), response_time: None, failed: false }
    }

    /// Takes note of the first response, or of its failure.
    fn responded(&mut self, failed: bool) {
        self.response_time = Some(self.started.elapsed());
        self.failed |= failed;
    }
}

impl Drop for CountedCall {
    fn drop(&mut self) {
        let counters = &self.counters;
        if let Some(time) = self.response_time {
            counters.requests.fetch_add(1, Ordering::Relaxed);
            let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            counters.response_time.fetch_add(nanos, Ordering::Relaxed);
            counters.errors.fetch_add(u64::from(self.failed), Ordering::Relaxed);
        }
        if counters.in_flight.fetch_sub(1, Ordering::Release) == 1 {
            counters.idle.notify_waiters();
        }
    }
}

/// Returns whether a `grpc-status` in these headers or trailers says that the server is at fault.
pub(super) fn is_server_error(headers: &HeaderMap) -> bool {
    headers.get(GRPC_STATUS).is_some_and(|status| match Code::from_bytes(status.as_bytes()) {
        Code::Unknown
        | Code::DeadlineExceeded
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unauthenticated => false,
    })
}

pin_project! {
    /// Future of a call that is counted.
    #[derive(Debug)]
    pub struct LoadFuture<F> {
        #[pin]
        inner: F,
        call: Option<CountedCall>,
    }
}

impl<F, B, E> Future for LoadFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<LoadBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(context));
        let mut call = this.call.take();
        if let Some(call) = &mut call {
            call.responded(match &result {
                Ok(response) => response.status().is_server_error() || is_server_error(response.headers()),
                Err(_) => true,
            });
        }
        Poll::Ready(result.map(|response| response.map(|inner| LoadBody { inner, call })))
    }
}

pin_project! {
    /// Body of a response whose call is counted until its end.
    #[derive(Debug)]
    pub struct LoadBody<B> {
        #[pin]
        inner: B,
        call: Option<CountedCall>,
    }
}

impl<B: Body> Body for LoadBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(context));
        let failed = match &frame {
            Some(Ok(frame)) => frame.trailers_ref().is_some_and(is_server_error),
            Some(Err(_)) => true,
            None => false,
        };
        if let Some(call) = this.call {
            call.failed |= failed;
        }
        if !matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
            *this.call = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
#[cfg(feature = "server")]
mod tests;
