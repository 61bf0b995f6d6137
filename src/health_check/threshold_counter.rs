//! How many results in a row change a verdict: Consul's counting, from its `StatusHandler`.

use crate::model::{CheckStatus, Thresholds};

/// Results in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThresholdCounter {
    successes: u32,
    failures: u32,
}

impl ThresholdCounter {
    /// Counts a result, and says what the check says now. `None`: what it said before. A warning is a success.
    pub fn count(&mut self, found: CheckStatus, thresholds: Thresholds) -> Option<CheckStatus> {
        if found == CheckStatus::Critical {
            *self = Self { successes: 0, failures: self.failures.saturating_add(1) };
            if self.failures >= thresholds.critical {
                return Some(CheckStatus::Critical);
            }
            return (self.failures >= thresholds.warning).then_some(CheckStatus::Warning);
        }
        *self = Self { successes: self.successes.saturating_add(1), failures: 0 };
        (self.successes >= thresholds.passing).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CheckStatus::{Critical, Passing, Warning};

    fn says(thresholds: Thresholds, found: &[CheckStatus]) -> Vec<Option<CheckStatus>> {
        let mut tally = ThresholdCounter::default();
        found.iter().map(|found| tally.count(*found, thresholds)).collect()
    }

    #[test]
    fn each_result_counts_where_nothing_is_said() {
        let said = says(Thresholds::default(), &[Passing, Critical, Warning, Passing]);
        assert_eq!(said, [Some(Passing), Some(Critical), Some(Warning), Some(Passing)]);
    }

    #[test]
    fn it_takes_so_many_in_a_row() {
        let thresholds = Thresholds { passing: 2, warning: 2, critical: 3 };
        let said = says(thresholds, &[Critical, Critical, Critical, Passing, Critical, Passing, Passing, Warning]);
        assert_eq!(said, [None, Some(Warning), Some(Critical), None, None, None, Some(Passing), Some(Warning)]);
    }
}
