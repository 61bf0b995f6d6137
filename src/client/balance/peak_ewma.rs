//! Estimate of the response time of an instance.

use std::time::Duration;

/// Time after which a measurement counts a third (1/e).
const DECAY: Duration = Duration::from_secs(10);

/// Peak EWMA of response times, as in Finagle and in tower: a time above the average replaces it at once; times below
/// lower it exponentially. Without measurements it falls toward 0, so that a slow instance is tried again.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct PeakEwma {
    /// Estimate at the last measurement, in seconds.
    estimate: f64,
    /// Time of the last measurement, since the start of the channel. `None`: nothing has been measured.
    measured_at: Option<Duration>,
}

impl PeakEwma {
    /// Takes a measurement.
    pub(super) fn measure(&mut self, response_time: Duration, now: Duration) {
        let time = response_time.as_secs_f64();
        let weight = self.remaining(now);
        self.estimate = if time > self.estimate { time } else { self.estimate * weight + time * (1.0 - weight) };
        self.measured_at = Some(now);
    }

    /// Takes note of a call without a response, which would have taken at least this time. It does not lower the estimate,
    /// because a failure may be quick.
    pub(super) fn measure_at_least(&mut self, response_time: Duration, now: Duration) {
        self.estimate = self.estimate.max(response_time.as_secs_f64());
        self.measured_at = Some(now);
    }

    /// Returns the estimate in seconds. `None`: nothing has been measured.
    pub(super) fn at(&self, now: Duration) -> Option<f64> {
        self.measured_at.map(|_| self.estimate * self.remaining(now))
    }

    /// Returns the part of the last estimate that still counts.
    fn remaining(&self, now: Duration) -> f64 {
        let age = now.saturating_sub(self.measured_at.unwrap_or(now));
        (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn estimate_rises_at_once_and_falls_within_the_decay() {
        let mut ewma = PeakEwma::default();
        assert_eq!(ewma.at(Duration::ZERO), None);
        ewma.measure(5 * MILLISECOND, Duration::ZERO);
        ewma.measure(50 * MILLISECOND, Duration::from_secs(1));
        assert_eq!(ewma.at(Duration::from_secs(1)), Some(0.05));
        for second in 2..=30 {
            ewma.measure(5 * MILLISECOND, Duration::from_secs(second));
        }
        let estimate = ewma.at(Duration::from_secs(30)).unwrap();
        assert!((0.005..0.008).contains(&estimate), "{estimate}");
    }

    #[test]
    fn estimate_without_measurements_falls_toward_zero() {
        let mut ewma = PeakEwma::default();
        ewma.measure(50 * MILLISECOND, Duration::ZERO);
        let estimate = ewma.at(Duration::from_secs(30)).unwrap();
        assert!((0.002..0.003).contains(&estimate), "{estimate}");
    }

    #[test]
    fn quick_failure_does_not_lower_the_estimate() {
        let mut ewma = PeakEwma::default();
        ewma.measure(50 * MILLISECOND, Duration::ZERO);
        ewma.measure_at_least(MILLISECOND, Duration::from_secs(20));
        assert_eq!(ewma.at(Duration::from_secs(20)), Some(0.05));
    }
}
