//! Body of a response, with the call that it belongs to.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

use super::{
    connection::ConnectionTarget,
    transport_error::{deadline_exceeded, status_of},
};
use crate::client::{balance::CallOutcome, load::is_server_error};

/// Call in progress. Dropping it ends it.
#[derive(Debug)]
pub(super) struct OpenCall {
    target: Arc<ConnectionTarget>,
    started: Instant,
    /// Start of the channel, from which times are counted.
    epoch: Instant,
    responded: bool,
}

impl OpenCall {
    pub(super) fn start(target: &Arc<ConnectionTarget>, epoch: Instant) -> Self {
        target.stats.start();
        Self { target: Arc::clone(target), started: crate::client::now(), epoch, responded: false }
    }

    /// Takes note of the start of the response, or of a failure before it.
    pub(super) fn respond(&mut self, outcome: CallOutcome) {
        self.responded = true;
        let now = crate::client::now();
        self.target.stats.respond(outcome, now - self.started, now - self.epoch);
    }

    /// Ends a call that was never sent, so that it says nothing about the instance.
    pub(super) fn discard(mut self) {
        self.responded = true;
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if !self.responded {
            self.respond(CallOutcome::Abandoned);
        }
        self.target.stats.end();
    }
}

/// Body of a response of a [`BalancedChannel`](crate::client::BalancedChannel). The call counts as in progress until it ends.
#[derive(Debug)]
pub struct CallBody {
    inner: Incoming,
    call: Option<OpenCall>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl CallBody {
    pub(super) fn new(inner: Incoming, call: OpenCall, deadline: Option<Instant>) -> Self {
        let call = (!inner.is_end_stream()).then_some(call);
        let deadline = deadline.filter(|_| call.is_some()).map(|at| Box::pin(sleep_until(at)));
        Self { inner, call, deadline }
    }

    fn fail(&mut self) {
        if let Some(call) = self.call.take() {
            call.target.stats.fail();
        }
    }
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            self.deadline = None;
            self.call = None;
            return Poll::Ready(Some(Err(deadline_exceeded())));
        }
        match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                match frame.trailers_ref() {
                    Some(trailers) if is_server_error(trailers) => self.fail(),
                    Some(_) => self.call = None,
                    None => {}
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let authority = self.call.as_ref().map(|call| call.target.authority.to_string());
                self.fail();
                Poll::Ready(Some(Err(status_of(error, authority.as_deref().unwrap_or_default()))))
            }
            Poll::Ready(None) => {
                self.call = None;
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
