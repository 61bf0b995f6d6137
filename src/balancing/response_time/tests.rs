use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// Interval between the reports of an instance, in seconds: a third of the default TTL.
const REPORT_SECONDS: u64 = 5;

/// Service whose instances report the same load in each interval.
#[derive(Debug)]
struct Service {
    rounds: ResponseTimeRounds,
    /// State, configured weight, reported load.
    instances: Vec<(ReportedLoad, u16, LoadReport)>,
    second: u64,
}

fn report(millis: u64, error_percent: u64) -> LoadReport {
    LoadReport {
        response_time: Some(Duration::from_millis(millis)),
        requests: 100,
        errors: error_percent,
        ..LoadReport::default()
    }
}

impl Service {
    fn new(instances: impl IntoIterator<Item = (u16, LoadReport)>) -> Self {
        let instances = instances.into_iter().map(|(weight, load)| (ReportedLoad::default(), weight, load)).collect();
        Self { rounds: ResponseTimeRounds::default(), instances, second: 0 }
    }

    fn of_times(times: &[u64]) -> Self {
        Self::new(times.iter().map(|time| (1, report(*time, 0))))
    }

    /// Runs for this number of seconds. Returns the number of publications.
    fn run(&mut self, seconds: u64) -> usize {
        let mut publications = 0;
        for _ in 0..seconds {
            self.second += 1;
            let now = self.second * 1_000;
            let before = self.published();
            for (load, _, report) in &mut self.instances {
                // A report in each interval, observed each second.
                load.add(now - now % (REPORT_SECONDS * 1_000), report);
            }
            self.observe(now);
            publications += usize::from(before != self.published());
        }
        publications
    }

    fn observe(&mut self, now: u64) {
        let mut weighed: Vec<_> = self
            .instances
            .iter_mut()
            .map(|(load, weight, _)| WeighedInstance { load, weight: f64::from(*weight) })
            .collect();
        self.rounds.observe(now, &mut weighed);
    }

    fn published(&self) -> Vec<f64> {
        self.instances.iter().map(|(load, ..)| load.published.get()).collect()
    }

    fn total(&self) -> f64 {
        let configured: f64 = self.instances.iter().map(|(_, weight, _)| f64::from(*weight)).sum();
        let published = self.instances.iter().map(|(load, weight, _)| f64::from(*weight) * load.published.get());
        published.sum::<f64>() / configured
    }
}

#[test]
fn slow_instance_gets_half_and_fast_instance_twice_its_weight() {
    let mut service = Service::of_times(&[10, 10, 10, 10, 40, 2]);
    service.run(120);
    for (published, target) in service.published().iter().zip([1.0, 1.0, 1.0, 1.0, 0.5, 2.0]) {
        assert!((published - target).abs() < 0.2 * published, "{published} for {target}");
    }
}

#[test]
fn errors_reduce_the_weight_by_at_most_half() {
    let mut service = Service::new([(1, report(10, 0)), (1, report(10, 20)), (1, report(10, 100))]);
    service.run(120);
    for (published, target) in service.published().iter().zip([1.0, 0.8, 0.5]) {
        assert!((published - target).abs() < 0.2 * published, "{published} for {target}");
    }
}

#[test]
fn fewer_than_three_reporting_instances_keep_the_configured_weights() {
    let mut service = Service::of_times(&[10, 100]);
    assert_eq!(service.run(60), 0);
    let mut service = Service::of_times(&[10, 10, 100]);
    service.run(60);
    assert!(service.published()[2] < 0.8);
    // One of the three no longer reports.
    service.instances[0].2.response_time = None;
    service.run(29);
    assert!(service.published()[2] < 0.8, "its last report is recent enough");
    service.run(15);
    assert_eq!(service.published(), [1.0, 1.0, 1.0]);
}

#[test]
fn instance_without_recent_reports_returns_to_its_configured_weight() {
    let mut service = Service::of_times(&[10, 10, 10, 40]);
    service.run(100);
    assert!(service.published()[3] < 0.61);
    service.instances[3].2 = LoadReport::default();
    service.run(150);
    assert!((service.published()[3] - 1.0).abs() < 0.2);
}

#[test]
fn response_times_of_zero_are_no_error() {
    let mut service = Service::of_times(&[0, 0, 0, 0]);
    assert_eq!(service.run(60), 0);
    let mut service = Service::of_times(&[0, 10, 10, 10]);
    service.run(100);
    assert!(service.published()[0] > 1.6);
}

#[test]
fn average_follows_a_change_with_its_time_constant() {
    let mut load = ReportedLoad::default();
    load.add(0, &report(100, 0));
    load.add(10_000, &report(200, 0));
    let (average, _) = load.response_time.unwrap();
    assert!((average - 0.1632).abs() < 0.001, "{average}: 63 % of the way after ten seconds");
    load.add(10_000, &report(900, 0));
    assert_eq!(load.response_time, Some((average, 10_000)), "the same report is added once");
    load.add(60_000, &report(50, 0));
    assert_eq!(load.response_time, Some((0.05, 60_000)), "nothing is left of the average before a silence");
}

#[test]
fn published_total_is_restored_when_fast_instances_leave() {
    let mut service =
        Service::new((0..4).map(|n| (if n == 3 { 30 } else { 1 }, report(if n == 3 { 10 } else { 80 }, 99))));
    service.run(100);
    service.instances.remove(3);
    service.instances.iter_mut().for_each(|(.., load)| *load = report(80, 99));
    service.run(15);
    assert!(service.total() >= 0.499, "{}", service.total());
}

fn instances() -> impl Strategy<Value = Vec<(u16, LoadReport)>> {
    let load = (0..5_000_u64, 0..=100_u64).prop_map(|(millis, errors)| report(millis, errors));
    prop::collection::vec((1..1_000_u16, load), 3..20)
}

proptest! {
    /// With constant reports the factors approach their targets from one side, with few publications.
    #[test]
    fn factors_converge_without_oscillation(instances in instances()) {
        let mut service = Service::new(instances);
        let mut publications = 0;
        let mut paths: Vec<Vec<f64>> = vec![Vec::new(); service.instances.len()];
        for _ in 0..30 {
            let in_round = service.run(10);
            prop_assert!(in_round <= 1, "{} publications in ten seconds", in_round);
            publications += in_round;
            for (path, (load, ..)) in paths.iter_mut().zip(&service.instances) {
                path.push(load.factor);
            }
            prop_assert!(service.published().iter().all(|factor| (0.1..=10.0).contains(factor)));
            prop_assert!(service.total() >= MIN_TOTAL - ROUNDING, "{}", service.total());
        }
        // Each publication moves a factor by a fifth on its way from 1 to at least a quarter or at most 2.
        prop_assert!(publications <= 8, "{} publications", publications);
        for path in paths {
            let falls = path.windows(2).all(|two| two[1] <= two[0] + 1e-9);
            let rises = path.windows(2).all(|two| two[1] >= two[0] - 1e-9);
            prop_assert!(falls || rises, "{path:?}");
        }
        let mut times: Vec<f64> = service.instances.iter().map(|(load, ..)| load.response_time.unwrap().0).collect();
        let median = median(&mut times);
        let now = service.second * 1_000;
        for (load, ..) in &service.instances {
            prop_assert!((load.factor - load.target(now, Some(median))).abs() < 0.01);
        }
        let settled = service.run(100);
        prop_assert_eq!(settled, 0, "constant reports publish nothing more");
    }

    /// Whatever is reported, and whenever: the bounds hold in each round.
    #[test]
    fn bounds_hold_for_any_reports(
        weights in prop::collection::vec(1..=65_535_u16, 1..12),
        reports in prop::collection::vec((0..12_usize, 0..=100_000_u64, 0..20_u64, 0..20_u64, any::<bool>(), 0..8_000_u64), 1..200),
    ) {
        let mut service = Service::new(weights.into_iter().map(|weight| (weight, LoadReport::default())));
        let (mut now, mut last_publication) = (0, None);
        for (at, millis, requests, errors, has_time, pause) in reports {
            now += pause;
            let count = service.instances.len();
            let response_time = has_time.then(|| Duration::from_millis(millis));
            let report = LoadReport { response_time, requests, errors, ..LoadReport::default() };
            service.instances[at % count].0.add(now, &report);
            let before = service.published();
            service.observe(now);
            if before != service.published() {
                prop_assert!(last_publication.is_none_or(|last| now - last >= ROUND_INTERVAL));
                last_publication = Some(now);
            }
            prop_assert!(service.published().iter().all(|factor| (0.1..=600.0).contains(factor)));
            prop_assert!(service.total() >= MIN_TOTAL - ROUNDING, "{}", service.total());
        }
    }
}

/// Runs instances that report nothing themselves, while clients report these numbers of calls and errors each second.
fn run_with_client_calls(service: &mut Service, seconds: u64, calls: &[(u64, u64)]) {
    for _ in 0..seconds {
        service.second += 1;
        let now = service.second * 1_000;
        for ((load, ..), (ended, errors)) in service.instances.iter_mut().zip(calls) {
            load.add_calls(now, CallCounts { ended: *ended, errors: *errors });
        }
        service.observe(now);
    }
}

#[test]
fn errors_in_reports_of_clients_reduce_the_weight_without_response_times() {
    let mut service = Service::of_times(&[10, 10, 10]);
    run_with_client_calls(&mut service, 120, &[(100, 0), (100, 2), (100, 40)]);
    for (published, target) in service.published().iter().zip([1.0, 1.0, 0.6]) {
        assert!((published - target).abs() < 0.2 * published, "{published} for {target}");
    }
    // Two instances with enough calls are too few.
    run_with_client_calls(&mut service, 60, &[(0, 0), (100, 2), (100, 40)]);
    assert_eq!(service.published(), [1.0; 3]);
}

#[test]
fn few_calls_tell_no_error_rate() {
    let mut service = Service::of_times(&[10, 10, 10]);
    for _ in 0..12 {
        run_with_client_calls(&mut service, 1, &[(100, 0), (100, 0), (3, 3)]);
        run_with_client_calls(&mut service, 9, &[(0, 0); 3]);
    }
    assert_eq!(service.published(), [1.0; 3]);
}

#[test]
fn error_rate_is_the_larger_of_those_of_the_instance_and_of_its_clients() {
    let rate_of = |own: u64, clients: u64| {
        let mut load = ReportedLoad::default();
        load.add(1_000, &report(10, own));
        load.add_calls(1_000, CallCounts { ended: 100, errors: clients });
        1.0 - load.target(2_000, Some(0.01))
    };
    for (own, clients, expected) in
        [(0, 0, 0.0), (20, 0, 0.2), (0, 30, 0.3), (20, 30, 0.3), (30, 20, 0.3), (90, 90, 0.5)]
    {
        assert!((rate_of(own, clients) - expected).abs() < 1e-9, "{own} and {clients}: {}", rate_of(own, clients));
    }
    let mut load = ReportedLoad::default();
    load.add_calls(1_000, CallCounts { ended: 100, errors: 40 });
    assert!((load.target(30_999, None) - 0.6).abs() < 1e-9);
    assert!((load.target(31_000, None) - 1.0).abs() < 1e-9, "the report is too old");
}

proptest! {
    #[test]
    fn target_with_reports_of_clients_stays_in_its_bounds(
        reports in proptest::collection::vec((0..40_000_u64, any::<u64>(), any::<u64>()), 1..50),
        response_time in 0..100_000_u64,
    ) {
        let (mut load, mut now) = (ReportedLoad::default(), 0);
        load.add(1, &report(response_time, 0));
        for (gap, ended, errors) in reports {
            now += gap;
            load.add_calls(now, CallCounts { ended, errors });
            for median in [None, Some(0.0), Some(0.05)] {
                let target = load.target(now, median);
                prop_assert!((0.25..=2.0).contains(&target), "{}", target);
            }
        }
    }
}
