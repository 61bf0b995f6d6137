//! Smooth weighted round robin.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    sync::{Mutex, PoisonError},
};

use super::RandomSequence;

/// Instances in the order of their turns: earliest deadline first. An instance of weight `w` has a turn every `1/w`, so its
/// turns are as far apart as possible. A pick costs O(log n).
#[derive(Debug)]
pub(super) struct TurnQueue(Mutex<BinaryHeap<Reverse<QueuedTurn>>>);

/// Next turn of an instance.
#[derive(Debug, Clone, Copy, PartialEq)]
struct QueuedTurn {
    deadline: f64,
    instance: usize,
    period: f64,
}

impl Eq for QueuedTurn {}

impl PartialOrd for QueuedTurn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for QueuedTurn {
    fn cmp(&self, other: &Self) -> Ordering {
        self.deadline.total_cmp(&other.deadline).then(self.instance.cmp(&other.instance))
    }
}

impl TurnQueue {
    /// Weights are positive. The first turns are at random, so that many clients that start at the same time do not all call
    /// the same instance.
    pub(super) fn new(weights: impl Iterator<Item = f64>, random: &RandomSequence) -> Self {
        let turns = weights.enumerate().map(|(instance, weight)| {
            let period = 1.0 / weight;
            Reverse(QueuedTurn { deadline: period * random.unit(), instance, period })
        });
        Self(Mutex::new(turns.collect()))
    }

    /// Returns the instance that is next.
    pub(super) fn next(&self) -> Option<usize> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = turns.peek_mut()?;
        let Reverse(turn) = &mut *next;
        turn.deadline += turn.period;
        Some(turn.instance)
    }
}
