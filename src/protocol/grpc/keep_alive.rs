//! The heartbeat stream, `KeepAlive`.
//!
//! The response stream polls the request stream, so it needs no task of its own. When the client disconnects in any way, the
//! stream is dropped and releases its leases.

use std::{
    collections::{HashMap, hash_map::Entry},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::{ApiError, decode, time, tonic_errors};
use crate::{
    app::{ServerContext, stream_end},
    model::{FieldError, LeaseId},
    pb::callboard::v1 as pb,
    registry::{ClockReading, EndReason, HashLease, HeartbeatStreamId, Lease},
    transport::{Connection, Interest, WakeRegistration},
};

/// Maximum number of heartbeats in a message.
const MAX_HEARTBEATS: usize = 10_000;
/// Time without a heartbeat here after which the program of a lease counts as one that comes from another replica. With a shorter TTL, a
/// program that no replica can serve would go around between them.
const ARRIVAL_TIME: Duration = Duration::from_secs(15);
/// Time after which a stream without a lease ends if it carries no message.
const SILENCE_TIMEOUT: Duration = Duration::from_mins(1);
/// A stream with leases that carries no message ends after this many times its longest TTL, if that is longer than
/// [`SILENCE_TIMEOUT`].
const SILENCE_TTLS: u32 = 2;

/// Stream that renews the leases whose heartbeats it carries.
#[derive(Debug)]
pub struct KeepAliveStream {
    context: Arc<ServerContext>,
    connection: Arc<Connection>,
    wake: WakeRegistration,
    inbound: Streaming<pb::KeepAliveRequest>,
    id: HeartbeatStreamId,
    /// Leases whose heartbeats the stream carries, so that each is looked up only once.
    carried: HashMap<LeaseId, Arc<Lease>, HashLease>,
    /// Time at which the stream was opened, since the start of the process.
    opened: Duration,
    /// Time of the last message, since the start of the process.
    last_message: Duration,
    end: KeepAliveEnd,
}

/// Progress of the end of the stream.
#[derive(Debug)]
enum KeepAliveEnd {
    /// The stream is open.
    Open,
    /// The server ends the stream with this error, after the response that is ready.
    Ending(ApiError),
    /// The stream has ended.
    Ended,
}

impl KeepAliveStream {
    pub(super) fn new(
        context: &Arc<ServerContext>,
        connection: Arc<Connection>,
        inbound: Streaming<pb::KeepAliveRequest>,
    ) -> Self {
        Self {
            wake: context.notifier.register(&connection, Interest::Nothing),
            connection,
            inbound,
            id: context.engine.registry().leases().new_stream_id(),
            carried: HashMap::default(),
            opened: context.clock.since_start(),
            last_message: context.clock.since_start(),
            end: KeepAliveEnd::Open,
            context: Arc::clone(context),
        }
    }

    fn answer(&mut self, request: pb::KeepAliveRequest) -> Result<pb::KeepAliveResponse, ApiError> {
        if request.heartbeats.len() > MAX_HEARTBEATS {
            let problem = format!("have {} entries", request.heartbeats.len());
            return Err(FieldError::without_value("heartbeats", problem, "send at most 10000 in a message").into());
        }
        let now = self.context.clock.now();
        self.last_message = Duration::from_micros(now.monotonic_us);
        let degraded_since = self.context.engine.degraded_since();
        let mut must_leave = degraded_since.is_some_and(|since| self.must_leave(since));
        let mut leases = Vec::with_capacity(request.heartbeats.len());
        for (at, heartbeat) in request.heartbeats.into_iter().enumerate() {
            if let Some(load) = &heartbeat.load
                && let Err(error) = self.report(&heartbeat.lease_id, load, now)
                && matches!(self.end, KeepAliveEnd::Open)
            {
                // Every lease in the message is renewed nevertheless.
                self.end = KeepAliveEnd::Ending(at_heartbeat(at, error));
            }
            must_leave |= degraded_since.is_some() && self.arrives(&heartbeat.lease_id, now);
            leases.push(self.renew(heartbeat.lease_id, now));
        }
        if must_leave && matches!(self.end, KeepAliveEnd::Open) {
            self.end = KeepAliveEnd::Ending(ApiError::ReplicaDegraded);
        }
        let notice = if degraded_since.is_some() { pb::Notice::Degraded } else { pb::Notice::Unspecified };
        Ok(pb::KeepAliveResponse { leases, notice: notice.into() })
    }

    /// Returns whether the stream has to end, because the engine lost its store at this time. It ends after the response to a heartbeat, so
    /// its leases have their full TTL here.
    fn must_leave(&self, degraded_since: Duration) -> bool {
        stream_end(self.opened.saturating_sub(degraded_since), self.id.number())
            <= self.last_message.saturating_sub(degraded_since)
    }

    /// Returns whether the program of a lease comes from another replica, which is about to end the lease: no heartbeat has arrived here for
    /// its TTL and [`ARRIVAL_TIME`].
    fn arrives(&mut self, lease_id: &[u8], now: ClockReading) -> bool {
        LeaseId::from_bytes(lease_id).and_then(|id| self.lease(id)).is_some_and(|lease| {
            let longer = ARRIVAL_TIME.saturating_sub(lease.terms().ttl()).as_millis();
            lease.is_alive() && u128::from(now.lease.saturating_sub(lease.deadline(now.lease))) > longer
        })
    }

    fn renew(&mut self, lease_id: bytes::Bytes, now: ClockReading) -> pb::LeaseReport {
        let renewed = LeaseId::from_bytes(&lease_id).and_then(|id| {
            let by = Some(self.id);
            let mut lease = self.lease(id)?;
            let mut renewed = lease.renew(now.lease, by);
            if renewed.is_ok() && lease.is_held_here() {
                return Some(renewed);
            }
            if renewed.is_err() {
                self.carried.remove(&id);
                // The lease may have begun again under its id.
                let Some(again) = self.lease(id) else { return Some(renewed) };
                lease = again;
                renewed = lease.renew(now.lease, by);
            }
            let lease = Arc::clone(lease);
            if renewed.is_err() {
                self.carried.remove(&id);
            } else if !lease.is_held_here() {
                self.context.engine.claim(&lease.service, &lease.instance, Some(id));
            }
            Some(renewed)
        });
        let counters = &self.context.metrics.heartbeats;
        let (state, counter, time_left) = match renewed {
            Some(Ok(ttl)) => (pb::LeaseState::Held, &counters.held, time::duration(ttl)),
            Some(Err(EndReason::Superseded)) => (pb::LeaseState::Superseded, &counters.superseded, None),
            Some(Err(EndReason::Removed)) => (pb::LeaseState::Removed, &counters.removed, None),
            Some(Err(EndReason::Expired | EndReason::Deregistered)) | None => {
                (pb::LeaseState::Unknown, &counters.unknown, None)
            }
        };
        counter.inc();
        pb::LeaseReport { lease_id, state: state.into(), time_left }
    }

    fn report(&mut self, lease_id: &[u8], load: &pb::LoadReport, now: ClockReading) -> Result<(), ApiError> {
        let load = decode::load(load)?;
        if let Some(lease) = LeaseId::from_bytes(lease_id).and_then(|id| self.lease(id)) {
            lease.report_load(load, now.lease);
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

    /// Returns the error of a stream that has been silent for longer than its leases allow. Drops the leases that have ended.
    fn silence_error(&mut self) -> Option<ApiError> {
        self.carried.retain(|_, lease| lease.is_alive());
        let longest = self.carried.values().map(|lease| lease.terms().ttl()).max();
        let allowed = longest.map_or(SILENCE_TIMEOUT, |ttl| (ttl * SILENCE_TTLS).max(SILENCE_TIMEOUT));
        (self.context.clock.since_start().saturating_sub(self.last_message) > allowed)
            .then_some(ApiError::HeartbeatTimeout(allowed))
    }

    fn finish(&mut self, error: ApiError) -> Poll<Option<Result<pb::KeepAliveResponse, Status>>> {
        self.end = KeepAliveEnd::Ended;
        self.release(false);
        Poll::Ready(Some(Err(error.into())))
    }

    /// Releases the leases. `broken`: the server did not end the stream.
    fn release(&mut self, broken: bool) {
        let leases = self.context.engine.registry().leases();
        let now = self.context.clock.now().lease;
        for (_, lease) in self.carried.drain() {
            if broken {
                leases.stream_broken(&lease, self.id, now);
            } else {
                lease.stream_released(self.id);
            }
        }
    }
}

fn at_heartbeat(at: usize, error: ApiError) -> ApiError {
    match error {
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
                KeepAliveEnd::Ending(error) => return self.finish(error),
                KeepAliveEnd::Ended => {
                    self.end = KeepAliveEnd::Ended;
                    return Poll::Ready(None);
                }
            }
            if self.wake.must_end() {
                self.end = KeepAliveEnd::Ending(ApiError::ShuttingDown);
                let notice = pb::Notice::Reconnect.into();
                return Poll::Ready(Some(Ok(pb::KeepAliveResponse { leases: vec![], notice })));
            }
            match Pin::new(&mut self.inbound).poll_next(context) {
                Poll::Ready(Some(Ok(request))) => match self.answer(request) {
                    Ok(answer) => return Poll::Ready(Some(Ok(answer))),
                    Err(error) => return self.finish(error),
                },
                Poll::Ready(Some(Err(status))) => {
                    if let Some(error) = tonic_errors::explain(&status, self.context.max_message_size) {
                        return self.finish(error);
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
            ready!(self.wake.poll_woken(context));
            if let Some(error) = self.silence_error() {
                return self.finish(error);
            }
        }
    }
}

impl Drop for KeepAliveStream {
    fn drop(&mut self) {
        let ended_by_server = self.wake.must_end() || self.connection.is_evicted();
        self.release(!ended_by_server);
    }
}
