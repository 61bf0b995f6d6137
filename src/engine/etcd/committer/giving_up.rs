//! End of requests that etcd does not decide in time, or that must not be decided any more.

use std::{mem, time::Duration};

use super::{Committer, LANES, unconfirmed};
use crate::{
    engine::{
        EngineError,
        etcd::{
            batch::{Batch, QueuedRequest},
            decision::{CommandEffect, RETRY_DELAY},
        },
        write_request::WriteRequest,
    },
    etcd::EtcdError,
    model::{InstanceId, ServiceName},
    registry::Command,
};

/// Maximum time that a caller waits for etcd. It is looked at on each tick of the replica, so that a caller has its answer within 2 s.
const WRITE_TIMEOUT: Duration = Duration::from_millis(1_800);

impl Committer {
    /// Answers the callers that have waited for too long, and drops their requests.
    pub fn expire_callers(&mut self, now: Duration) {
        // They are rejected when they are decided again.
        self.releases.expire(now).into_iter().for_each(|queued| self.queue.push_back(queued));
        let is_late =
            |queued: &QueuedRequest| !queued.request.is_internal() && now.saturating_sub(queued.since) > WRITE_TIMEOUT;
        for queued in self.queue.take_if(is_late) {
            let error = if queued.done.is_empty() { unavailable() } else { unconfirmed() };
            self.reject(queued.request, error);
        }
        for lane in 0..LANES {
            let is_over = self.lanes[lane].in_flight.as_ref().is_some_and(|batch| {
                // A batch without callers ends, too, so that it does not keep its lane from others while etcd is away.
                now.saturating_sub(batch.since) > WRITE_TIMEOUT
                    || batch.requests.iter().any(|request| is_late(&request.queued))
            });
            if is_over && let Some(batch) = self.lanes[lane].in_flight.take() {
                self.give_up(batch, now);
            }
        }
    }

    /// Ends a batch whose callers have waited for too long. The commands of the replica itself are decided again.
    fn give_up(&mut self, batch: Batch, now: Duration) {
        for request in batch.requests.into_iter().rev() {
            self.free_targets(&request.queued.request);
            let waited = now.saturating_sub(request.queued.since);
            if request.queued.request.is_internal() {
                self.queue.push_front(request.queued);
            } else if waited > WRITE_TIMEOUT / 2 {
                let error = unconfirmed();
                self.reject(request.queued.request, error);
            } else {
                // Whether it was executed shows when it is decided again.
                self.queue.push_front(request.queued);
            }
        }
    }

    /// Ends a batch that etcd rejects because it is too large: a single request is rejected, and each of several gets a batch of its own.
    /// Returns false for a request of the replica itself, which is sent again.
    pub fn take_too_large(&mut self, lane: usize, error: &EtcdError) -> bool {
        let ends = |batch: &mut Batch| !matches!(&*batch.requests, [single] if single.queued.request.is_internal());
        let Some(batch) = self.lanes.get_mut(lane).and_then(|lane| lane.in_flight.take_if(ends)) else { return false };
        let is_single = batch.requests.len() == 1;
        for request in batch.requests.into_iter().rev() {
            self.free_targets(&request.queued.request);
            if is_single {
                self.reject(request.queued.request, EngineError::TooLarge { reason: error.to_string() });
            } else {
                self.queue.push_front(QueuedRequest { is_alone: true, ..request.queued });
            }
        }
        true
    }

    /// Removes the waiting expirations, and returns their instances: a heartbeat may not have arrived.
    pub fn take_expirations(&mut self) -> Vec<(ServiceName, InstanceId)> {
        let mut taken = Vec::new();
        for queued in self.queue.take_if(|queued| queued.request.expiring_service().is_some()) {
            if let WriteRequest::One(Command::Expire(lease), ..) = &queued.request {
                taken.push((lease.service.clone(), lease.instance.clone()));
            }
            self.finish_part(queued, vec![self.unchanged(CommandEffect::NoOp(None))]);
        }
        taken
    }

    /// Rejects everything that waits.
    pub fn stop(&mut self) {
        for queued in self.releases.stop().into_iter().chain(self.queue.take()) {
            self.reject(queued.request, EngineError::Stopped);
        }
        for lane in &mut mem::take(&mut self.lanes) {
            for request in lane.in_flight.take().into_iter().flat_map(|batch| batch.requests) {
                self.reject(request.queued.request, EngineError::OutcomeUnknown);
            }
        }
    }
}

fn unavailable() -> EngineError {
    EngineError::Unavailable { reason: "etcd did not answer within 2 s".to_owned(), retry: RETRY_DELAY }
}
