//! Weights by response time: an instance that responds faster than the median gets more calls, one that responds slower or fails
//! gets fewer.
//!
//! Response times and error rates are averaged over [`AVERAGING_TIME`]. In each round, the factor of an instance moves by three
//! tenths of the way to `clamp(median / response time, 0.5, 2) · (1 − min(0.5, error rate))`. The factors are published when one of
//! them differs by a fifth from its published value. The slow and coarse reaction is intended: the response time follows the calls
//! that the weight causes, and each change of weights costs a message to every client.
//!
//! An instance reports response times and errors with its heartbeats; clients report errors only. The error rate is the larger of the
//! two: calls that never reach the instance are in the clients' reports alone, calls of other clients in the instance's alone, and most
//! calls in both, so a sum would count an error twice, and a mean would halve it. Without response times of three instances, the error
//! rates are the only difference between instances.

use super::WeightFactor;
use crate::model::LoadReport;

/// Interval between two rounds, in milliseconds. Factors are published in rounds only.
pub(super) const ROUND_INTERVAL: u64 = 10_000;
/// Time constant of the averages, in milliseconds.
const AVERAGING_TIME: f64 = 10_000.0;
/// Age from which a report no longer counts, in milliseconds.
const MAX_REPORT_AGE: u64 = 30_000;
/// Minimum number of instances with reports that count. With fewer, all have their configured weights.
const MIN_REPORTING: usize = 3;
/// Minimum number of recent calls in reports of clients from which an error rate is known.
const MIN_CALLS: f64 = 10.0;
/// Part of the way to its target that a factor moves in a round.
const GAIN: f64 = 0.3;
/// Relative difference from which factors are published.
const MIN_DIFFERENCE: f64 = 0.2;
/// Maximum error rate that counts.
const MAX_ERROR_RATE: f64 = 0.5;
/// Minimum of the total weight, as a part of the configured total.
const MIN_TOTAL: f64 = 0.5;
/// Error of a total by the rounding of its factors.
const ROUNDING: f64 = 0.001;

/// Numbers of calls to an instance in some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// Calls that have ended, those with errors included.
    pub ended: u64,
    /// Calls that have ended with an error.
    pub errors: u64,
}

impl CallCounts {
    /// Adds the calls of another time, or of another client.
    pub fn add(&mut self, other: Self) {
        self.ended = self.ended.saturating_add(other.ended);
        self.errors = self.errors.saturating_add(other.errors);
    }
}

/// Recent calls to an instance that clients have reported. Earlier ones count less.
#[derive(Debug, Clone, Copy)]
struct RecentCalls {
    ended: f64,
    errors: f64,
    /// Time of the last report.
    at: u64,
}

/// Averages of the load reports of one instance, and the factor that follows from them.
#[derive(Debug, Clone)]
pub(super) struct ReportedLoad {
    /// Time of the last report that was read.
    last_report: Option<u64>,
    /// Average response time in seconds, and the time of the last report with one.
    response_time: Option<(f64, u64)>,
    error_rate: f64,
    calls: Option<RecentCalls>,
    factor: f64,
    published: WeightFactor,
}

impl Default for ReportedLoad {
    fn default() -> Self {
        Self {
            last_report: None,
            response_time: None,
            error_rate: 0.0,
            calls: None,
            factor: 1.0,
            published: WeightFactor::ONE,
        }
    }
}

impl ReportedLoad {
    /// Published factor.
    pub(super) fn published(&self) -> WeightFactor {
        self.published
    }

    /// Adds a report, unless it was added before.
    pub(super) fn add(&mut self, at: u64, report: &LoadReport) {
        if self.last_report.is_some_and(|last| at <= last) {
            return;
        }
        let gain = self.last_report.map_or(1.0, |last| 1.0 - (-span(last, at) / AVERAGING_TIME).exp());
        self.last_report = Some(at);
        if let Some(response_time) = report.response_time {
            let reported = response_time.as_secs_f64();
            // After a silence the earlier average says nothing.
            let known = self.response_time.filter(|(_, last)| at.saturating_sub(*last) < MAX_REPORT_AGE);
            let average = known.map_or(reported, |(average, _)| average + gain * (reported - average));
            self.response_time = Some((average, at));
        }
        if report.requests > 0 {
            self.error_rate += gain * (ratio(report.errors, report.requests) - self.error_rate);
        }
    }

    /// Adds calls that clients have reported.
    pub(super) fn add_calls(&mut self, now: u64, counts: CallCounts) {
        if counts.ended == 0 {
            return;
        }
        let (ended, errors) = (number(counts.ended), number(counts.errors.min(counts.ended)));
        let earlier = self.calls.map_or((0.0, 0.0), |calls| {
            let decay = (-span(calls.at, now) / AVERAGING_TIME).exp();
            (calls.ended * decay, calls.errors * decay)
        });
        self.calls = Some(RecentCalls { ended: earlier.0 + ended, errors: earlier.1 + errors, at: now });
    }

    /// Error rate in the reports of clients, if they are recent and of enough calls.
    fn recent_client_errors(&self, now: u64) -> Option<f64> {
        let is_known = |calls: &RecentCalls| now.saturating_sub(calls.at) < MAX_REPORT_AGE && calls.ended >= MIN_CALLS;
        self.calls.filter(is_known).map(|calls| calls.errors / calls.ended)
    }

    /// Returns whether a report of the instance or of clients counts.
    fn is_reported(&self, now: u64) -> bool {
        self.recent_response_time(now).is_some() || self.recent_client_errors(now).is_some()
    }

    /// Average response time in seconds, if a report of it is recent enough.
    fn recent_response_time(&self, now: u64) -> Option<f64> {
        self.response_time.filter(|(_, at)| now.saturating_sub(*at) < MAX_REPORT_AGE).map(|(average, _)| average)
    }

    /// Factor that the present averages call for. Without a recent report: 1. `median`: response time, if enough instances report theirs.
    fn target(&self, now: u64, median: Option<f64>) -> f64 {
        let response_time = self.recent_response_time(now);
        let relative = match (response_time, median) {
            // Times of zero are possible where a client rounds them.
            (Some(0.0), Some(median)) if median > 0.0 => 2.0,
            (Some(response_time), Some(median)) if median > 0.0 => (median / response_time).clamp(0.5, 2.0),
            _ => 1.0,
        };
        let own_errors = response_time.map_or(0.0, |_| self.error_rate);
        let error_rate = own_errors.max(self.recent_client_errors(now).unwrap_or_default());
        relative * (1.0 - error_rate.min(MAX_ERROR_RATE))
    }
}

/// Routable instance in a round.
#[derive(Debug)]
pub(super) struct WeighedInstance<'a> {
    pub(super) load: &'a mut ReportedLoad,
    /// Configured weight.
    pub(super) weight: f64,
}

/// Rounds of a service.
#[derive(Debug, Default)]
pub(super) struct ResponseTimeRounds {
    next: Option<u64>,
}

impl ResponseTimeRounds {
    /// Carries out a round if one is due.
    pub(super) fn observe(&mut self, now: u64, instances: &mut [WeighedInstance<'_>]) {
        if self.next.is_some_and(|next| now < next) {
            return;
        }
        self.next = Some(now + ROUND_INTERVAL);
        if instances.iter().filter(|instance| instance.load.is_reported(now)).count() < MIN_REPORTING {
            for instance in instances {
                instance.load.factor = 1.0;
                instance.load.published = WeightFactor::ONE;
            }
            return;
        }
        let mut times: Vec<f64> =
            instances.iter().filter_map(|instance| instance.load.recent_response_time(now)).collect();
        let median = (times.len() >= MIN_REPORTING).then(|| median(&mut times));
        for instance in &mut *instances {
            let target = instance.load.target(now, median);
            instance.load.factor += GAIN * (target - instance.load.factor);
        }
        let scale = total_scale(instances);
        let factor = |instance: &WeighedInstance<'_>| WeightFactor::new(instance.load.factor * scale);
        // The published total falls below the minimum when instances with large factors leave.
        let is_low = total(instances, |load| load.published.get()) < MIN_TOTAL - ROUNDING;
        if is_low || instances.iter().any(|instance| differs(factor(instance), instance.load.published)) {
            for instance in instances {
                instance.load.published = factor(instance);
            }
        }
    }

    /// Forgets the time of the last round, and all factors.
    pub(super) fn reset<'a>(&mut self, loads: impl Iterator<Item = &'a mut ReportedLoad>) {
        if self.next.take().is_some() {
            loads.for_each(|load| *load = ReportedLoad::default());
        }
    }
}

/// Returns the number by which all factors are multiplied so that the total weight is at least half of the configured one.
fn total_scale(instances: &[WeighedInstance<'_>]) -> f64 {
    (MIN_TOTAL / total(instances, |load| load.factor)).max(1.0)
}

/// Returns the total weight with these factors, as a part of the configured total.
fn total(instances: &[WeighedInstance<'_>], factor: impl Fn(&ReportedLoad) -> f64) -> f64 {
    let configured: f64 = instances.iter().map(|instance| instance.weight).sum();
    let weighed: f64 = instances.iter().map(|instance| instance.weight * factor(instance.load)).sum();
    weighed / configured
}

fn differs(factor: WeightFactor, published: WeightFactor) -> bool {
    (factor.get() - published.get()).abs() >= MIN_DIFFERENCE * published.get()
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    let middle = times.len() / 2;
    match (times.get(middle.wrapping_sub(1)), times.get(middle)) {
        (Some(lower), Some(upper)) if times.len().is_multiple_of(2) => f64::midpoint(*lower, *upper),
        (_, upper) => upper.copied().unwrap_or_default(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a time between two reports")]
fn span(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64
}

fn ratio(errors: u64, requests: u64) -> f64 {
    (number(errors) / number(requests)).min(1.0)
}

#[expect(clippy::cast_precision_loss, reason = "a rate needs no more precision")]
fn number(calls: u64) -> f64 {
    calls as f64
}

#[cfg(test)]
#[path = "response_time/tests.rs"]
mod tests;
