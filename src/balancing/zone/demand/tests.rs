use proptest::{collection::vec, prelude::*};

use super::{
    super::{ClusterQuery, DemandSource, ReportingClient, ServiceZones, ZoneInstances},
    *,
};
use crate::model::Revision;

/// Interval between the reports of a client, in seconds.
const INTERVAL: u64 = 10;

/// Service with four instances in each zone, whose clients report their requests.
#[derive(Debug)]
struct ReportedService {
    zones: ServiceZones,
    instances: Arc<ZoneInstances>,
    second: u64,
}

fn name(zone: usize) -> Arc<ZoneName> {
    Arc::new(ZoneName::new("r", &format!("z{zone}")))
}

fn of_clients(client: &Arc<ZoneName>) -> ClusterQuery<'_> {
    ClusterQuery { cluster: "web", policy: Revision(7), client }
}

fn close(found: Option<f64>, expected: f64) -> bool {
    found.is_some_and(|found| (found - expected).abs() < 1e-3)
}

impl ReportedService {
    /// A service with these numbers of streams in its zones: of clients that report, and of others.
    fn new(streams: &[(u64, u64)]) -> Self {
        let summary =
            ZoneSummary { routable_weight: 4, registered_weight: 4, routable_instances: 4, ..ZoneSummary::default() };
        let instances = (0..streams.len()).map(|zone| (name(zone), summary.clone())).collect();
        let mut service = Self { zones: ServiceZones::default(), instances: Arc::new(instances), second: 0 };
        for (zone, (reporting, others)) in streams.iter().enumerate() {
            (0..*reporting).for_each(|_| service.zones.add_stream("web", &name(zone), true));
            (0..*others).for_each(|_| service.zones.add_stream("web", &name(zone), false));
        }
        for zone in 0..streams.len() {
            service.zones.layout(of_clients(&name(zone)), &service.instances, Duration::ZERO);
        }
        service
    }

    fn now(&self) -> Duration {
        Duration::from_secs(self.second)
    }

    fn report(&mut self, zone: usize, rate: f64) -> bool {
        let (now, zone) = (self.now(), name(zone));
        self.zones.report_requests(ReportingClient { cluster: "web", zone: &zone, number: 1 }, rate, now)
    }

    /// Runs for this number of seconds, in which a client of each zone reports this rate. Returns the number of changed layouts.
    fn run(&mut self, seconds: u64, rates: &[f64]) -> usize {
        let mut changes = 0;
        for _ in 0..seconds {
            if self.second.is_multiple_of(INTERVAL) {
                for (zone, rate) in rates.iter().enumerate() {
                    assert!(self.report(zone, *rate));
                }
            }
            self.second += 1;
            changes += usize::from(self.zones.update(self.now()));
        }
        changes
    }

    /// Source of the demand, and the part of a zone.
    fn demand(&self, zone: usize) -> (DemandSource, Option<f64>) {
        let report = self.zones.report(of_clients(&name(zone)), &self.instances, self.now());
        (report.source, report.zones[zone].terms.unwrap().demand)
    }

    fn spill(&mut self, zone: usize) -> u32 {
        let now = self.now();
        self.zones.layout(of_clients(&name(zone)), &self.instances, now).unwrap().spill()
    }
}

#[test]
fn demand_follows_requests_once_reports_cover_the_clients_for_half_a_minute() {
    let mut service = ReportedService::new(&[(30, 0), (10, 0)]);
    assert_eq!(service.demand(0), (DemandSource::Streams, Some(0.75)));
    service.run(30, &[10.0, 30.0]);
    assert_eq!(service.demand(0), (DemandSource::Streams, Some(0.75)), "not yet");
    service.run(1, &[10.0, 30.0]);
    let (source, demand) = service.demand(0);
    assert!(source == DemandSource::Requests && close(demand, 0.25), "{source:?} {demand:?}");
    assert_eq!(service.spill(1), 3_333, "half of the capacity, three quarters of the requests");
}

#[test]
fn few_clients_with_many_requests_are_known() {
    let mut service = ReportedService::new(&[(1, 0), (1, 0)]);
    assert_eq!(service.demand(0), (DemandSource::Unknown, None));
    service.run(60, &[150.0, 50.0]);
    assert!(close(service.demand(0).1, 0.75));
}

#[test]
fn reports_that_do_not_cover_the_clients_are_not_used() {
    let streams = (DemandSource::Streams, Some(0.5));
    let mut others = ReportedService::new(&[(8, 2), (8, 2)]);
    others.run(60, &[10.0, 30.0]);
    assert_eq!(others.demand(0), streams, "a fifth of the clients does not report");
    let mut silent = ReportedService::new(&[(10, 0), (10, 0)]);
    silent.run(60, &[10.0]);
    assert_eq!(silent.demand(0), streams, "the clients of a zone have not reported");
    let mut few = ReportedService::new(&[(10, 0), (10, 0)]);
    few.run(60, &[4.0, 12.0]);
    assert_eq!(few.demand(0), streams, "fewer than 1,000 requests in a minute");
    let mut old = ReportedService::new(&[(10, 0), (10, 0)]);
    old.run(60, &[10.0, 30.0]);
    assert_eq!(old.demand(0).0, DemandSource::Requests);
    old.run(48, &[]);
    assert!(close(old.demand(0).1, 0.25), "the averages stay for a while");
    old.run(2, &[]);
    assert_eq!(old.demand(0), streams);
}

#[test]
fn client_that_is_gone_no_longer_counts() {
    let mut service = ReportedService::new(&[(10, 0), (10, 0)]);
    service.run(60, &[10.0, 30.0]);
    service.zones.remove_reports(ReportingClient { cluster: "web", zone: &name(1), number: 1 });
    service.run(20, &[]);
    assert!(close(service.demand(0).1, 0.25), "it may only have reconnected");
    service.run(11, &[]);
    assert_eq!(service.demand(0).0, DemandSource::Streams);
}

#[test]
fn requests_are_used_until_they_are_half_of_those_required() {
    let mut service = ReportedService::new(&[(10, 0), (10, 0)]);
    service.run(600, &[5.0, 11.0]);
    assert_eq!(service.demand(0).0, DemandSource::Streams, "960 in a minute");
    service.run(600, &[6.0, 12.0]);
    assert_eq!(service.demand(0).0, DemandSource::Requests);
    service.run(600, &[3.0, 6.0]);
    assert_eq!(service.demand(0).0, DemandSource::Requests);
    service.run(600, &[2.0, 6.0]);
    assert_eq!(service.demand(0).0, DemandSource::Streams);
}

#[test]
fn cluster_without_layouts_takes_no_reports() {
    let mut service = ReportedService::new(&[(10, 0), (10, 0)]);
    let client = ReportingClient { cluster: "other", zone: &name(0), number: 1 };
    assert!(!service.zones.report_requests(client, 1.0, Duration::ZERO));
}

#[test]
fn rates_that_alternate_by_a_fifth_change_no_layout() {
    let mut service = ReportedService::new(&[(10, 0), (10, 0)]);
    service.run(120, &[100.0, 100.0]);
    for _ in 0..60 {
        assert_eq!(service.run(INTERVAL, &[120.0, 80.0]), 0);
        assert_eq!(service.run(INTERVAL, &[80.0, 120.0]), 0);
    }
}

proptest! {
    #[test]
    fn demand_of_constant_rates_is_their_proportion(rates in vec(1.0..1e6_f64, 2..8)) {
        let mut service = ReportedService::new(&vec![(5, 0); rates.len()]);
        service.run(45, &rates);
        let sum: f64 = rates.iter().sum();
        for (zone, rate) in rates.iter().enumerate() {
            let (source, demand) = service.demand(zone);
            let is_known = sum * AVERAGING_TIME >= MIN_REQUESTS;
            prop_assert_eq!(source == DemandSource::Requests, is_known);
            prop_assert!(!is_known || close(demand, rate / sum), "{:?} for {} of {}", demand, rate, sum);
        }
    }

    #[test]
    fn demand_that_stays_in_the_band_changes_no_layout(wobbles in vec(96.0..104.0_f64, 1..100)) {
        let mut service = ReportedService::new(&[(10, 0), (10, 0)]);
        service.run(60, &[100.0, 100.0]);
        for wobble in wobbles {
            prop_assert_eq!(service.run(INTERVAL, &[wobble, 200.0 - wobble]), 0);
        }
        prop_assert_eq!((service.spill(0), service.spill(1)), (0, 0));
    }
}
