//! Statistical tests of the picker, with fixed seeds.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;

const CALLS: u32 = 10_000;

fn candidates(weights: &[f64]) -> Vec<PickCandidate> {
    let candidate =
        |weight: &f64| PickCandidate { weight: *weight, stats: Arc::default(), proximity: Proximity::Other };
    weights.iter().map(candidate).collect()
}

fn picker(method: BalancingMethod, candidates: &[PickCandidate], random: &RandomSequence) -> Picker {
    Picker::new(method, candidates, None, random)
}

/// Makes calls that end at once, and returns the number for each candidate.
fn idle_calls(method: BalancingMethod, weights: &[f64], seed: u64) -> Vec<u32> {
    let (random, candidates) = (RandomSequence::new(seed), candidates(weights));
    let picker = picker(method, &candidates, &random);
    let mut calls = vec![0; weights.len()];
    for _ in 0..CALLS {
        calls[picker.pick(Duration::ZERO, &random, |_| true).unwrap()] += 1;
    }
    calls
}

/// Fails if a number of calls is further from its share than five standard deviations.
fn assert_share(calls: u32, share: f64) {
    let (n, calls) = (f64::from(CALLS), f64::from(calls));
    let tolerance = 5.0 * (n * share * (1.0 - share)).sqrt();
    assert!((calls - n * share).abs() <= tolerance, "{calls} calls instead of {} ± {tolerance}", n * share);
}

#[test]
fn round_robin_ignores_weights() {
    assert_eq!(idle_calls(BalancingMethod::RoundRobin, &[3.0, 2.0, 1.0, 1.0], 1), [2_500; 4]);
}

#[test]
fn shares_follow_the_weights() {
    for method in [BalancingMethod::WeightedRoundRobin, BalancingMethod::LeastRequest] {
        for seed in 0..8 {
            let calls = idle_calls(method, &[3.0, 2.0, 1.0, 0.5], seed);
            for (calls, weight) in calls.into_iter().zip([3.0, 2.0, 1.0, 0.5]) {
                assert_share(calls, weight / 6.5);
            }
        }
    }
}

#[test]
fn weighted_round_robin_is_smooth() {
    let (random, candidates) = (RandomSequence::new(7), candidates(&[5.0, 1.0, 1.0]));
    let picker = picker(BalancingMethod::WeightedRoundRobin, &candidates, &random);
    let picks: Vec<_> = (0..700).map(|_| picker.pick(Duration::ZERO, &random, |_| true).unwrap()).collect();
    for window in picks.windows(7) {
        let heavy = window.iter().filter(|at| **at == 0).count();
        assert!((4..=6).contains(&heavy), "{window:?}");
    }
}

/// Simulation of four servers, and of calls that arrive at a fixed interval.
struct Simulation {
    random: RandomSequence,
    candidates: Vec<PickCandidate>,
    picker: Picker,
    now: Duration,
    /// Calls in progress: end, start and server.
    open: Vec<(Duration, Duration, usize)>,
}

impl Simulation {
    fn new(method: BalancingMethod, seed: u64) -> Self {
        let (random, candidates) = (RandomSequence::new(seed), candidates(&[1.0; 4]));
        let picker = picker(method, &candidates, &random);
        Self { random, candidates, picker, now: Duration::ZERO, open: Vec::new() }
    }

    /// Makes calls, one every 2 ms, to servers with these response times in milliseconds. Returns the number for each server.
    fn run(&mut self, calls: u32, response_times: [u64; 4]) -> [u32; 4] {
        let mut counts = [0; 4];
        for _ in 0..calls {
            self.now += Duration::from_millis(2);
            let (random, candidates, now) = (&self.random, &self.candidates, self.now);
            self.open.retain(|(end, start, server)| {
                if *end <= now {
                    candidates[*server].stats.respond(CallOutcome::Responded, end.saturating_sub(*start), *end);
                    candidates[*server].stats.end();
                }
                *end > now
            });
            let server = self.picker.pick(now, random, |_| true).unwrap();
            candidates[server].stats.start();
            counts[server] += 1;
            self.open.push((now + Duration::from_millis(response_times[server]), now, server));
        }
        counts
    }
}

#[test]
fn two_choices_prefer_the_faster() {
    for (method, most) in [(BalancingMethod::LeastRequest, 900), (BalancingMethod::PeakEwma, 100)] {
        for seed in 0..8 {
            let counts = Simulation::new(method, seed).run(CALLS, [50, 5, 5, 5]);
            assert!(counts[0] < most, "{method:?} {seed}: {counts:?}");
            assert!(counts[1..].iter().all(|count| *count > 2_500), "{method:?} {seed}: {counts:?}");
        }
    }
}

#[test]
fn peak_ewma_reacts_within_a_few_calls_and_recovers() {
    for seed in 0..8 {
        let mut simulation = Simulation::new(BalancingMethod::PeakEwma, seed);
        simulation.run(2_000, [5, 5, 5, 5]);
        // The calls that are sent before the first slow response, and a few more.
        let slow = simulation.run(500, [200, 5, 5, 5]);
        assert!(slow[0] <= 40, "{seed}: {slow:?}");
        // The estimate of 200 ms falls to 5 ms within 10 s × ln 40, which is 18,500 calls.
        simulation.run(25_000, [5, 5, 5, 5]);
        let recovered = simulation.run(CALLS, [5, 5, 5, 5]);
        assert!(recovered[0] > 1_000, "{seed}: {recovered:?}");
    }
}

#[test]
fn unknown_instance_gets_one_call_until_it_responds() {
    let (random, candidates) = (RandomSequence::new(3), candidates(&[1.0; 4]));
    for known in &candidates[1..] {
        known.stats.respond(CallOutcome::Responded, Duration::from_millis(5), Duration::ZERO);
    }
    let picker = picker(BalancingMethod::PeakEwma, &candidates, &random);
    let mut first = 0;
    for _ in 0..100 {
        let at = picker.pick(Duration::ZERO, &random, |_| true).unwrap();
        candidates[at].stats.start();
        first += u32::from(at == 0);
    }
    assert_eq!(first, 1);
}

#[test]
fn new_instance_that_fails_fast_is_not_the_fastest() {
    let (random, candidates) = (RandomSequence::new(3), candidates(&[1.0; 4]));
    for known in &candidates[1..] {
        known.stats.respond(CallOutcome::Responded, Duration::from_millis(5), Duration::ZERO);
    }
    let picker = picker(BalancingMethod::PeakEwma, &candidates, &random);
    let mut calls = [0; 4];
    for call in 0..1_000 {
        let now = Duration::from_millis(call);
        let at = picker.pick(now, &random, |_| true).unwrap();
        calls[at] += 1;
        let (outcome, millis) = if at == 0 { (CallOutcome::Failed, 1) } else { (CallOutcome::Responded, 5) };
        candidates[at].stats.respond(outcome, Duration::from_millis(millis), now);
    }
    assert_eq!(calls[0], 1, "{calls:?}");
}

#[test]
fn calls_stay_in_the_zone_by_its_capacity() {
    let random = RandomSequence::new(11);
    let mut candidates = candidates(&[1.0; 6]);
    for (at, proximity) in
        [Proximity::Zone, Proximity::Zone, Proximity::Region, Proximity::Region].into_iter().enumerate()
    {
        candidates[at].proximity = proximity;
    }
    let capacity = LocalCapacity { registered: 4.0, callable: 2.0, callable_count: 2 };
    let picker = Picker::new(BalancingMethod::WeightedRoundRobin, &candidates, Some(capacity), &random);
    let mut calls = [0; 6];
    for _ in 0..CALLS {
        calls[picker.pick(Duration::ZERO, &random, |_| true).unwrap()] += 1;
    }
    assert_share(calls[0] + calls[1], 0.7);
    assert_share(calls[2] + calls[3], 0.3);
    assert_eq!(calls[4] + calls[5], 0, "the region has instances");
    // With the zone and the region unusable, calls go further.
    let far = picker.pick(Duration::ZERO, &random, |at| at >= 4).unwrap();
    assert!(far >= 4);
}

proptest! {
    #[test]
    fn pick_returns_a_usable_candidate_if_there_is_one(
        weights in prop::collection::vec(0.0_f64..100.0, 0..20),
        usable in prop::collection::vec(any::<bool>(), 20),
        near in prop::collection::vec(0_u8..3, 20),
        seed in any::<u64>(),
        method in prop::sample::select(vec![
            BalancingMethod::RoundRobin,
            BalancingMethod::WeightedRoundRobin,
            BalancingMethod::LeastRequest,
            BalancingMethod::PeakEwma,
        ]),
        callable_count in 0_usize..4,
    ) {
        let random = RandomSequence::new(seed);
        let mut candidates = candidates(&weights);
        for (candidate, near) in candidates.iter_mut().zip(&near) {
            candidate.proximity = [Proximity::Zone, Proximity::Region, Proximity::Other][usize::from(*near)];
        }
        let capacity = LocalCapacity { registered: 3.0, callable: 1.0, callable_count };
        let picker = Picker::new(method, &candidates, Some(capacity), &random);
        for _ in 0..20 {
            let picked = picker.pick(Duration::ZERO, &random, |at| usable[at]);
            prop_assert_eq!(picked.is_some(), usable[..weights.len()].iter().any(|usable| *usable));
            if let Some(at) = picked {
                prop_assert!(usable[at]);
            }
        }
    }
}
