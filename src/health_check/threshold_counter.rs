//! Number of consecutive results that change the status of a check, counted as by Consul's `StatusHandler`.

use crate::model::{CheckStatus, Thresholds};

/// Number of consecutive successes or failures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThresholdCounter {
    successes: u32,
    failures: u32,
}

impl ThresholdCounter {
    /// Counts a result, and returns the status that the check has now. `None`: the status stays. A warning counts as a
    /// success.
    pub fn count(&mut self, result: CheckStatus, thresholds: Thresholds) -> Option<CheckStatus> {
        if result == CheckStatus::Critical {
            *self = Self { successes: 0, failures: self.failures.saturating_add(1) };
            if self.failures >= thresholds.critical {
                return Some(CheckStatus::Critical);
            }
            return (self.failures >= thresholds.warning).then_some(CheckStatus::Warning);
        }
        *self = Self { successes: self.successes.saturating_add(1), failures: 0 };
        (self.successes >= thresholds.passing).then_some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CheckStatus::{Critical, Passing, Warning};

    fn statuses(thresholds: Thresholds, results: &[CheckStatus]) -> Vec<Option<CheckStatus>> {
        let mut counter = ThresholdCounter::default();
        results.iter().map(|result| counter.count(*result, thresholds)).collect()
    }

    #[test]
    fn default_thresholds_make_each_result_the_status() {
        let statuses = statuses(Thresholds::default(), &[Passing, Critical, Warning, Passing]);
        assert_eq!(statuses, [Some(Passing), Some(Critical), Some(Warning), Some(Passing)]);
    }

    #[test]
    fn status_changes_after_consecutive_results() {
        let thresholds = Thresholds { passing: 2, warning: 2, critical: 3 };
        let statuses =
            statuses(thresholds, &[Critical, Critical, Critical, Passing, Critical, Passing, Passing, Warning]);
        assert_eq!(statuses, [None, Some(Warning), Some(Critical), None, None, None, Some(Passing), Some(Warning)]);
    }
}
