//! Load reports of clients, as the registry uses them.
//!
//! Numbers in a report are those of the time since the client's report before. Clients leave out what had no calls.

use std::time::Duration;

use super::{assignment::instance_hash, error::XdsError};
use crate::{
    balancing::CallCounts,
    pb::envoy::{
        config::endpoint::v3::{ClusterStats, UpstreamLocalityStats},
        service::load_stats::v3::LoadStatsResponse,
    },
};

/// Interval of the reports that clients are asked for.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// Interval that a report may state. A client that has just started reports the time since its start.
const STATED_INTERVALS: (f64, f64) = (0.1, 600.0);
/// Maximum number of clusters and localities in a report.
const MAX_REPORTED_LOADS: usize = 50_000;
/// Maximum number of calls of a locality that counts, so that sums stay exact.
const MAX_CALLS: u64 = 1 << 40;

/// Returns the response that asks a client for reports about all its clusters, by locality.
pub(super) fn load_report_settings() -> LoadStatsResponse {
    LoadStatsResponse {
        clusters: Vec::new(),
        load_reporting_interval: Some(super::route_resource::duration(REPORT_INTERVAL)),
        report_endpoint_granularity: false,
        send_all_clusters: true,
    }
}

/// Calls to a cluster in a load report.
#[derive(Debug, PartialEq)]
pub(super) struct ClusterCalls {
    /// Name of the cluster: of a service or a subset.
    pub(super) cluster: String,
    /// Number of requests that the client started.
    pub(super) started: u64,
    /// Requests that it started per second.
    pub(super) rate: f64,
    /// Calls of the instances with localities of their own, by the hashes of their ids.
    pub(super) instances: Vec<(u32, CallCounts)>,
}

impl ClusterCalls {
    fn of(stats: ClusterStats) -> Self {
        let localities = stats.upstream_locality_stats;
        let started = localities.iter().map(|locality| started(locality).min(MAX_CALLS)).sum();
        let interval = stats.load_report_interval.and_then(|interval| Duration::try_from(interval).ok());
        let interval = interval.filter(|interval| !interval.is_zero()).unwrap_or(REPORT_INTERVAL).as_secs_f64();
        Self {
            cluster: stats.cluster_name,
            started,
            rate: per_second(started, interval.clamp(STATED_INTERVALS.0, STATED_INTERVALS.1)),
            instances: localities.iter().filter_map(instance_calls).collect(),
        }
    }
}

/// Returns the calls in a report, by cluster.
///
/// # Errors
///
/// When the report has too many clusters and localities.
pub(super) fn reported_calls(report: Vec<ClusterStats>) -> Result<Vec<ClusterCalls>, XdsError> {
    let loads = report.iter().map(|cluster| 1 + cluster.upstream_locality_stats.len()).sum();
    if loads > MAX_REPORTED_LOADS {
        return Err(XdsError::TooManyLoads(loads, MAX_REPORTED_LOADS));
    }
    Ok(report.into_iter().map(ClusterCalls::of).collect())
}

/// Number of requests to a locality that the client started. Clients that do not tell it report those that have ended.
fn started(locality: &UpstreamLocalityStats) -> u64 {
    match locality.total_issued_requests {
        0 => locality.total_successful_requests.saturating_add(locality.total_error_requests),
        started => started,
    }
}

/// Returns the calls to a locality that one instance has for itself.
fn instance_calls(stats: &UpstreamLocalityStats) -> Option<(u32, CallCounts)> {
    let hash = instance_hash(&stats.locality.as_ref()?.sub_zone)?;
    let errors = stats.total_error_requests.min(MAX_CALLS);
    let ended = stats.total_successful_requests.min(MAX_CALLS) + errors;
    (ended > 0).then_some((hash, CallCounts { ended, errors }))
}

#[expect(clippy::cast_precision_loss, reason = "a rate needs no more precision")]
fn per_second(requests: u64, seconds: f64) -> f64 {
    requests as f64 / seconds
}

/// Limit on the load reports of one stream: one each second, and ten more at once.
#[derive(Debug)]
pub(super) struct ReportLimit {
    /// Reports that may arrive at once.
    tokens: f64,
    at: Duration,
}

impl ReportLimit {
    /// Maximum number of reports at once.
    const BURST: f64 = 10.0;

    pub(super) fn new(now: Duration) -> Self {
        Self { tokens: Self::BURST, at: now }
    }

    /// Counts a report.
    ///
    /// # Errors
    ///
    /// When the limit is reached.
    pub(super) fn count(&mut self, now: Duration) -> Result<(), XdsError> {
        self.tokens = (self.tokens + now.saturating_sub(self.at).as_secs_f64()).min(Self::BURST) - 1.0;
        self.at = now;
        if self.tokens < 0.0 { Err(XdsError::TooManyReports) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::envoy::config::core::v3::Locality;

    fn locality(sub_zone: &str, [issued, successful, failed]: [u64; 3]) -> UpstreamLocalityStats {
        UpstreamLocalityStats {
            locality: Some(Locality { region: "r".into(), zone: "z".into(), sub_zone: sub_zone.into() }),
            total_issued_requests: issued,
            total_successful_requests: successful,
            total_error_requests: failed,
            total_requests_in_progress: 1,
        }
    }

    fn cluster(seconds: Option<i64>, localities: Vec<UpstreamLocalityStats>) -> ClusterStats {
        let interval = seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
        ClusterStats {
            cluster_name: "web|v1".into(),
            upstream_locality_stats: localities,
            load_report_interval: interval,
        }
    }

    #[test]
    fn report_has_the_rate_of_a_cluster_and_the_calls_of_its_instances() {
        let localities = vec![
            locality("rack~0012abcd", [100, 80, 10]),
            locality("~ffffffff~@", [50, 0, 7]),
            locality("rack~w3", [40, 40, 0]),
            locality("~@web-dr", [10, 10, 0]),
            locality("rack~0012abcX", [0, 1, 1]),
        ];
        let [calls] = &reported_calls(vec![cluster(Some(20), localities)]).unwrap()[..] else { panic!("one cluster") };
        assert_eq!((calls.cluster.as_str(), calls.started), ("web|v1", 202));
        assert!((calls.rate - 10.1).abs() < 1e-9);
        let expected =
            [(0x0012_abcd, CallCounts { ended: 90, errors: 10 }), (0xffff_ffff, CallCounts { ended: 7, errors: 7 })];
        assert_eq!(calls.instances, expected);
    }

    #[test]
    fn interval_that_cannot_be_is_replaced() {
        for (seconds, rate) in [(None, 10.0), (Some(0), 10.0), (Some(-5), 10.0), (Some(i64::MAX), 100.0 / 600.0)] {
            let calls = reported_calls(vec![cluster(seconds, vec![locality("", [100, 0, 0])])]).unwrap();
            assert!((calls[0].rate - rate).abs() < 1e-9, "{seconds:?}: {}", calls[0].rate);
        }
    }

    #[test]
    fn numbers_beyond_any_client_do_not_overflow() {
        let localities = vec![locality("~0012abcd", [u64::MAX, u64::MAX, u64::MAX]); 3];
        let calls = reported_calls(vec![cluster(Some(1), localities)]).unwrap();
        assert_eq!(calls[0].started, 3 << 40);
        assert_eq!(calls[0].instances[0].1, CallCounts { ended: 2 << 40, errors: 1 << 40 });
    }

    #[test]
    fn report_of_too_many_localities_is_rejected() {
        let localities = vec![UpstreamLocalityStats::default(); MAX_REPORTED_LOADS - 1];
        assert!(reported_calls(vec![cluster(None, localities.clone())]).is_ok());
        let error = reported_calls(vec![cluster(None, localities), ClusterStats::default()]).unwrap_err();
        assert!(matches!(error, XdsError::TooManyLoads(50_001, 50_000)), "{error}");
    }

    #[test]
    fn ten_reports_may_arrive_at_once_and_then_one_each_second() {
        let mut limit = ReportLimit::new(Duration::ZERO);
        for second in [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3] {
            assert!(limit.count(Duration::from_secs(second)).is_ok());
        }
        assert!(limit.count(Duration::from_millis(3_500)).is_err());
    }
}
