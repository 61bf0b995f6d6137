//! Draws of two different instances in proportion to their weights.

use super::RandomSequence;

/// Instances by their weights, for random draws.
#[derive(Debug)]
pub(super) struct WeightedDraw {
    /// Sum of the weights up to and including each instance.
    ends: Vec<f64>,
}

impl WeightedDraw {
    /// Weights are positive.
    pub(super) fn new(weights: impl Iterator<Item = f64>) -> Self {
        let sum = |total: &mut f64, weight: f64| {
            *total += weight;
            Some(*total)
        };
        Self { ends: weights.scan(0.0, sum).collect() }
    }

    /// Draws an instance, and another one if there is one.
    pub(super) fn two(&self, random: &RandomSequence) -> Option<(usize, Option<usize>)> {
        let total = *self.ends.last()?;
        let first = self.at(random.unit() * total);
        if self.ends.len() == 1 {
            return Some((first, None));
        }
        // The second draw is over the weights without the first instance.
        let start = first.checked_sub(1).map_or(0.0, |before| self.ends[before]);
        let width = self.ends[first] - start;
        let drawn = random.unit() * (total - width);
        let second = self.at(if drawn < start { drawn } else { drawn + width });
        // Rounding may lead back to the first.
        let second = if second == first { (first + 1) % self.ends.len() } else { second };
        Some((first, Some(second)))
    }

    fn at(&self, point: f64) -> usize {
        self.ends.partition_point(|end| *end <= point).min(self.ends.len() - 1)
    }
}
