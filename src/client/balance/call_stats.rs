//! Measurements of the calls to one instance.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::peak_ewma::PeakEwma;

/// Estimate of an instance that nothing was measured of, while a call to it is in progress, in seconds: it gets one call, and
/// further ones after the first response, or if all others are as unknown.
const UNKNOWN_RESPONSE_TIME: f64 = 1e9;

/// Least estimate of an instance whose first call fails. It decays.
const FAILED_RESPONSE_TIME: Duration = Duration::from_secs(1);

/// Outcome of a call, as far as it says something about the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum CallOutcome {
    /// The instance responded, possibly with an error of the caller.
    Responded,
    /// The instance failed.
    Failed,
    /// The caller did not wait for the response, or its deadline passed.
    Abandoned,
}

/// Calls to an instance, counted by one channel.
#[derive(Debug, Default)]
pub(in crate::client) struct CallStats {
    in_flight: AtomicU32,
    started: AtomicU64,
    failed: AtomicU64,
    /// Held for a few instructions. A lock of std: the client does not depend on `parking_lot`.
    response_time: Mutex<PeakEwma>,
}

impl CallStats {
    pub(in crate::client) fn start(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::client) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes note of the start of a response, or of a failure before it.
    pub(in crate::client) fn respond(&self, outcome: CallOutcome, response_time: Duration, now: Duration) {
        let mut estimate = self.response_time.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            CallOutcome::Responded => estimate.measure(response_time, now),
            CallOutcome::Failed => {
                // A new instance that fails quickly would otherwise seem to be the fastest.
                let least = if estimate.at(now).is_none() { FAILED_RESPONSE_TIME } else { Duration::ZERO };
                estimate.measure_at_least(response_time.max(least), now);
                self.fail();
            }
            CallOutcome::Abandoned => estimate.measure_at_least(response_time, now),
        }
    }

    /// Counts a call that failed after its response had started.
    pub(in crate::client) fn fail(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of calls in progress.
    pub(in crate::client) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the number of calls since the instance is known to the channel.
    pub(in crate::client) fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// Returns the number of these calls in which the instance failed.
    pub(in crate::client) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Returns the estimated response time. `None`: nothing has been measured.
    pub(in crate::client) fn response_time(&self, now: Duration) -> Option<Duration> {
        let estimate = *self.response_time.lock().unwrap_or_else(PoisonError::into_inner);
        estimate.at(now).map(Duration::from_secs_f64)
    }

    /// Returns the cost of another call by peak EWMA: the response time, times the calls in progress and the new one. The
    /// calls in progress count less on an instance of a larger weight; 1 is the mean weight.
    pub(super) fn peak_ewma_cost(&self, relative_weight: f64, now: Duration) -> f64 {
        let in_flight = f64::from(self.in_flight()) / relative_weight;
        let estimate = *self.response_time.lock().unwrap_or_else(PoisonError::into_inner);
        match estimate.at(now) {
            Some(seconds) => seconds * (in_flight + 1.0),
            None => UNKNOWN_RESPONSE_TIME * in_flight,
        }
    }
}
