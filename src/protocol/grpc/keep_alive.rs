//! The heartbeat stream.
//!
//! It is a plain adapter of the peer's stream: a request is polled in, its answer goes out, and nothing is spawned. So
//! when the peer goes away, whatever way, the stream is dropped and with it everything it held.

use std::{
    collections::{HashMap, hash_map::Entry},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::{ApiError, decode, encode, tonic_errors};
use crate::{
    app::ServerContext,
    model::{FieldError, LeaseId},
    pb::callboard::v1 as pb,
    registry::{ClockReading, EndReason, HashLease, HeartbeatStreamId, Lease},
    transport::{Connection, Interest, WakeRegistration},
};

/// Most heartbeats of a message.
const MOST: usize = 10_000;
/// A stream that carries no lease may be silent for so long...
const SILENCE: Duration = Duration::from_mins(1);
/// ...and one that does, for this many times the longest time to live among them.
const SILENT_TTLS: u32 = 2;

/// Answers heartbeats.
#[derive(Debug)]
pub struct KeepAliveStream {
    context: Arc<ServerContext>,
    connection: Arc<Connection>,
    seat: WakeRegistration,
    inbound: Streaming<pb::KeepAliveRequest>,
    carrier: HeartbeatStreamId,
    /// The leases whose heartbeats it carries: found once, then by this stream alone.
    carried: HashMap<LeaseId, Arc<Lease>, HashLease>,
    /// When it last carried a message.
    heard: Duration,
    end: KeepAliveEnd,
}

/// How far the end of the stream has come.
#[derive(Debug)]
enum KeepAliveEnd {
    /// It goes on.
    Open,
    /// It ends with this once what is ready was sent. We end it.
    Ending(ApiError),
    /// It has ended.
    Ended,
}

impl KeepAliveStream {
    pub(super) fn new(
        context: &Arc<ServerContext>,
        connection: Arc<Connection>,
        inbound: Streaming<pb::KeepAliveRequest>,
    ) -> Self {
        Self {
            seat: context.notifier.seat(&connection, Interest::Nothing),
            connection,
            inbound,
            carrier: context.engine.registry().leases().new_stream_id(),
            carried: HashMap::default(),
            heard: context.clock.since_start(),
            end: KeepAliveEnd::Open,
            context: Arc::clone(context),
        }
    }

    fn answer(&mut self, request: pb::KeepAliveRequest) -> Result<pb::KeepAliveResponse, ApiError> {
        if request.heartbeats.len() > MOST {
            let problem = format!("are {}", request.heartbeats.len());
            return Err(FieldError::without_value("heartbeats", problem, "send at most 10000 in a message").into());
        }
        let now = self.context.clock.now();
        self.heard = Duration::from_micros(now.monotonic_us);
        let mut leases = Vec::with_capacity(request.heartbeats.len());
        for (at, heartbeat) in request.heartbeats.into_iter().enumerate() {
            if let Some(load) = &heartbeat.load
                && let Err(problem) = self.report(&heartbeat.lease_id, load)
                && matches!(self.end, KeepAliveEnd::Open)
            {
                // Every lease in the message is renewed all the same.
                self.end = KeepAliveEnd::Ending(at_heartbeat(at, problem));
            }
            leases.push(self.renew(heartbeat.lease_id, now));
        }
        Ok(pb::KeepAliveResponse { leases, notice: pb::Notice::Unspecified.into() })
    }

    fn renew(&mut self, lease_id: bytes::Bytes, now: ClockReading) -> pb::LeaseReport {
        let renewed = LeaseId::from_bytes(&lease_id).and_then(|id| {
            let by = Some(self.carrier);
            let renewed = self.lease(id)?.renew(now.lease, by);
            if renewed.is_err() {
                self.carried.remove(&id);
            }
            Some(renewed)
        });
        let counters = &self.context.metrics.heartbeats;
        let (state, counter, time_left) = match renewed {
            Some(Ok(ttl)) => (pb::LeaseState::Held, &counters.held, encode::span(ttl)),
            Some(Err(EndReason::Superseded)) => (pb::LeaseState::Superseded, &counters.superseded, None),
            Some(Err(EndReason::Removed)) => (pb::LeaseState::Removed, &counters.removed, None),
            Some(Err(EndReason::Expired | EndReason::Deregistered)) | None => {
                (pb::LeaseState::Unknown, &counters.unknown, None)
            }
        };
        counter.inc();
        pb::LeaseReport { lease_id, state: state.into(), time_left }
    }

    fn report(&mut self, lease_id: &[u8], load: &pb::LoadReport) -> Result<(), ApiError> {
        let load = decode::load(load)?;
        if let Some(lease) = LeaseId::from_bytes(lease_id).and_then(|id| self.lease(id)) {
            lease.report_load(load);
        }
        Ok(())
    }

    fn lease(&mut self, id: LeaseId) -> Option<&Arc<Lease>> {
        match self.carried.entry(id) {
            Entry::Occupied(carried) => Some(carried.into_mut()),
            Entry::Vacant(vacant) => {
                let lease = self.context.engine.registry().leases().get(id)?;
                Some(vacant.insert(lease))
            }
        }
    }

    /// Whether it has been silent for longer than any lease would need. Forgets the leases that have ended.
    fn silence(&mut self) -> Option<ApiError> {
        self.carried.retain(|_, lease| lease.is_alive());
        let longest = self.carried.values().map(|lease| lease.terms().ttl()).max();
        let allowed = longest.map_or(SILENCE, |ttl| (ttl * SILENT_TTLS).max(SILENCE));
        (self.context.clock.since_start().saturating_sub(self.heard) > allowed).then_some(ApiError::Silent(allowed))
    }

    fn finish(&mut self, problem: ApiError) -> Poll<Option<Result<pb::KeepAliveResponse, Status>>> {
        self.end = KeepAliveEnd::Ended;
        self.let_go(false);
        Poll::Ready(Some(Err(problem.into())))
    }

    /// Lets go of the leases. `broken`: it was not we who ended the stream.
    fn let_go(&mut self, broken: bool) {
        let leases = self.context.engine.registry().leases();
        let now = self.context.clock.now().lease;
        for (_, lease) in self.carried.drain() {
            if broken {
                leases.stream_broken(&lease, self.carrier, now);
            } else {
                lease.stream_released(self.carrier);
            }
        }
    }
}

fn at_heartbeat(at: usize, problem: ApiError) -> ApiError {
    match problem {
        ApiError::Invalid(invalid) => invalid.within(&format!("heartbeats[{at}]")).into(),
        other => other,
    }
}

impl Stream for KeepAliveStream {
    type Item = Result<pb::KeepAliveResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match std::mem::replace(&mut self.end, KeepAliveEnd::Open) {
                KeepAliveEnd::Open => {}
                KeepAliveEnd::Ending(problem) => return self.finish(problem),
                KeepAliveEnd::Ended => {
                    self.end = KeepAliveEnd::Ended;
                    return Poll::Ready(None);
                }
            }
            if self.seat.is_leaving() {
                self.end = KeepAliveEnd::Ending(ApiError::Leaving);
                let notice = pb::Notice::Reconnect.into();
                return Poll::Ready(Some(Ok(pb::KeepAliveResponse { leases: vec![], notice })));
            }
            match Pin::new(&mut self.inbound).poll_next(context) {
                Poll::Ready(Some(Ok(request))) => match self.answer(request) {
                    Ok(answer) => return Poll::Ready(Some(Ok(answer))),
                    Err(problem) => return self.finish(problem),
                },
                Poll::Ready(Some(Err(status))) => {
                    if let Some(problem) = tonic_errors::problem(&status, self.context.max_message_size) {
                        return self.finish(problem);
                    }
                    self.end = KeepAliveEnd::Ended;
                    return Poll::Ready(Some(Err(status)));
                }
                Poll::Ready(None) => {
                    self.end = KeepAliveEnd::Ended;
                    return Poll::Ready(None);
                }
                Poll::Pending => {}
            }
            ready!(self.seat.poll_rung(context));
            if let Some(problem) = self.silence() {
                return self.finish(problem);
            }
        }
    }
}

impl Drop for KeepAliveStream {
    fn drop(&mut self) {
        let ours = self.seat.is_leaving() || self.connection.is_evicted();
        self.let_go(!ours);
    }
}
