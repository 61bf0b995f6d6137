//! Choice of one instance among those that can be called.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{
    BalancingMethod, CallStats, LocalCapacity, Proximity, RandomSequence, two_choices::WeightedDraw,
    weighted::TurnQueue,
};

/// Number of choices by the method, before any instance that is usable is taken.
const MAX_CHOICES: usize = 3;
/// Least weight that counts, in the unit of the configured weights.
const MIN_WEIGHT: f64 = 0.001;

/// Instance that can be called.
#[derive(Debug, Clone)]
pub(in crate::client) struct PickCandidate {
    /// Weight, in the unit of the configured weights.
    pub(in crate::client) weight: f64,
    pub(in crate::client) stats: Arc<CallStats>,
    pub(in crate::client) proximity: Proximity,
}

/// Chooses among fixed candidates.
#[derive(Debug)]
pub(in crate::client) struct Picker {
    /// Groups that are not empty, from near to far; a single one without a preference.
    groups: Vec<PickGroup>,
    /// Part of the calls that go to the first group.
    local_share: f64,
}

/// Candidates of equal proximity.
#[derive(Debug)]
struct PickGroup {
    /// Indexes of the candidates in the picker's list.
    members: Vec<usize>,
    chooser: Chooser,
}

#[derive(Debug)]
enum Chooser {
    RoundRobin(AtomicUsize),
    Weighted(TurnQueue),
    LeastRequest(WeightedDraw, Vec<RatedCandidate>),
    PeakEwma(WeightedDraw, Vec<RatedCandidate>),
}

/// Candidate that is compared with another one.
#[derive(Debug)]
struct RatedCandidate {
    stats: Arc<CallStats>,
    /// Weight divided by the mean weight of the group.
    relative_weight: f64,
}

impl Picker {
    /// Returns a picker. With the capacity of the client's zone, instances in that zone are preferred.
    pub(in crate::client) fn new(
        method: BalancingMethod,
        candidates: &[PickCandidate],
        zone: Option<LocalCapacity>,
        random: &RandomSequence,
    ) -> Self {
        let local_share = zone.and_then(|zone| zone.local_share());
        let mut members = vec![Vec::new(); Proximity::COUNT];
        for (at, candidate) in candidates.iter().enumerate() {
            let proximity = if local_share.is_some() { candidate.proximity } else { Proximity::Other };
            members[proximity as usize].push(at);
        }
        // Without callable instances in the zone, all calls go to the nearest others.
        let local_share = if members[Proximity::Zone as usize].is_empty() { 1.0 } else { local_share.unwrap_or(1.0) };
        let groups = members.into_iter().filter(|members| !members.is_empty());
        Self {
            groups: groups.map(|members| PickGroup::new(method, members, candidates, random)).collect(),
            local_share,
        }
    }

    /// Returns the index of the candidate for the next call. Those that are not usable are left out. `None`: none is usable.
    pub(in crate::client) fn pick(
        &self,
        now: Duration,
        random: &RandomSequence,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let spills = self.groups.len() > 1 && self.local_share < 1.0 && random.unit() >= self.local_share;
        let start = usize::from(spills);
        let order = self.groups[start.min(self.groups.len())..].iter().chain(&self.groups[..start]);
        order.into_iter().find_map(|group| group.pick(now, random, &usable))
    }

    /// Returns the part of the calls that stay in the client's zone, if that zone is preferred.
    pub(in crate::client) fn local_share(&self) -> f64 {
        self.local_share
    }
}

impl PickGroup {
    fn new(
        method: BalancingMethod,
        members: Vec<usize>,
        candidates: &[PickCandidate],
        random: &RandomSequence,
    ) -> Self {
        let weights = || members.iter().map(|at| candidates[*at].weight.max(MIN_WEIGHT));
        let rated = || {
            #[expect(clippy::cast_precision_loss, reason = "a number of instances")]
            let mean = weights().sum::<f64>() / members.len() as f64;
            let stats = members.iter().map(|at| Arc::clone(&candidates[*at].stats));
            stats
                .zip(weights())
                .map(|(stats, weight)| RatedCandidate { stats, relative_weight: weight / mean })
                .collect()
        };
        let chooser = match method {
            BalancingMethod::RoundRobin => Chooser::RoundRobin(AtomicUsize::new(random.index(members.len()))),
            BalancingMethod::WeightedRoundRobin => Chooser::Weighted(TurnQueue::new(weights(), random)),
            BalancingMethod::LeastRequest => Chooser::LeastRequest(WeightedDraw::new(weights()), rated()),
            BalancingMethod::PeakEwma => Chooser::PeakEwma(WeightedDraw::new(weights()), rated()),
        };
        Self { members, chooser }
    }

    fn pick(&self, now: Duration, random: &RandomSequence, usable: &impl Fn(usize) -> bool) -> Option<usize> {
        for _ in 0..MAX_CHOICES {
            let chosen = self.members[self.choose(now, random)?];
            if usable(chosen) {
                return Some(chosen);
            }
        }
        let (before, after) = self.members.split_at(random.index(self.members.len()));
        after.iter().chain(before).copied().find(|at| usable(*at))
    }

    /// Returns the position of a member.
    fn choose(&self, now: Duration, random: &RandomSequence) -> Option<usize> {
        match &self.chooser {
            Chooser::RoundRobin(next) => next.fetch_add(1, Ordering::Relaxed).checked_rem(self.members.len()),
            Chooser::Weighted(turns) => turns.next(),
            Chooser::LeastRequest(draw, rated) => {
                cheaper(draw, random, |at| f64::from(rated[at].stats.in_flight()) / rated[at].relative_weight)
            }
            Chooser::PeakEwma(draw, rated) => {
                cheaper(draw, random, |at| rated[at].stats.peak_ewma_cost(rated[at].relative_weight, now))
            }
        }
    }
}

/// Draws two instances and returns the cheaper one. Of equal ones it is the first, so that without load the weights decide.
fn cheaper(draw: &WeightedDraw, random: &RandomSequence, cost: impl Fn(usize) -> f64) -> Option<usize> {
    let (first, second) = draw.two(random)?;
    Some(match second {
        Some(second) if cost(second) < cost(first) => second,
        Some(_) | None => first,
    })
}
