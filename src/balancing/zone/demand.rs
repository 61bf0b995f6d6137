//! Demand of the zones by the requests that their clients report.
//!
//! Each client reports the number of requests that it has started since its report before. The demand of a zone is the sum of the rates
//! in the latest reports of its clients, averaged over [`AVERAGING_TIME`]. A client that makes few requests then counts less than one
//! that makes many, which numbers of streams do not tell.
//!
//! Reports are used only where they tell more than the streams do: nearly all streams of the cluster are of clients that report, each
//! zone with clients has a recent report, they have done so for [`MIN_MEASUREMENT`], and there are enough requests that chance alone does
//! not move the shares. The average keeps short bursts of one zone from moving calls to others; the hysteresis of the layouts takes the
//! rest. The averages stay for [`GRACE`] without such reports, because clients that reconnect report nothing for an interval.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{ZoneName, ZoneSummary, ratio};

/// Age from which a report no longer counts: three intervals.
const MAX_REPORT_AGE: Duration = Duration::from_secs(30);
/// Time for which reports must cover the clients before they are used.
const MIN_MEASUREMENT: Duration = Duration::from_secs(30);
/// Time for which the averages stay while reports do not cover the clients.
const GRACE: Duration = Duration::from_secs(30);
/// Time constant of the averages, in seconds.
const AVERAGING_TIME: f64 = 60.0;
/// Minimum number of requests of all zones in the averaging time: with 1,000, chance moves the part of a zone by about one point.
const MIN_REQUESTS: f64 = 1_000.0;
/// Part of that number with which averages that are used stay in use, so that light traffic does not change the source of the demand
/// back and forth.
const REMAINING_REQUESTS: f64 = 0.5;
/// Part of the streams of a cluster whose clients must report their load.
const MIN_COVERAGE: f64 = 0.9;

/// Requests that the clients of one cluster report.
#[derive(Debug, Default)]
pub(super) struct ZoneDemand {
    /// Latest report of each client, by zone and number of the client.
    reports: BTreeMap<Arc<ZoneName>, HashMap<u64, ReportedRate>>,
    average: Option<AverageDemand>,
}

/// Rate of requests in the latest report of a client.
#[derive(Debug, Clone, Copy)]
struct ReportedRate {
    /// Requests per second.
    rate: f64,
    at: Duration,
}

/// Average rates of all zones since the reports cover the clients.
#[derive(Debug)]
struct AverageDemand {
    since: Duration,
    at: Duration,
    /// Latest time at which the reports covered the clients.
    covered_at: Duration,
    is_used: bool,
    /// Sum of the weights of the averaged rates. It approaches 1 with time.
    weight: f64,
    /// Weighted sums of the rates, by zone.
    sums: BTreeMap<Arc<ZoneName>, f64>,
}

impl ZoneDemand {
    /// Takes in a report of a client: its requests per second since the report before.
    pub(super) fn report(&mut self, client: u64, zone: &Arc<ZoneName>, rate: f64, now: Duration) {
        self.reports.entry(Arc::clone(zone)).or_default().insert(client, ReportedRate { rate, at: now });
    }

    /// Forgets the reports of a client.
    pub(super) fn remove(&mut self, client: u64, zone: &ZoneName) {
        if let Some(clients) = self.reports.get_mut(zone) {
            clients.remove(&client);
            if clients.is_empty() {
                self.reports.remove(zone);
            }
        }
    }

    /// Brings the averages to this time.
    pub(super) fn update(&mut self, zones: &BTreeMap<Arc<ZoneName>, ZoneSummary>, now: Duration) {
        let is_recent = |report: &ReportedRate| now.saturating_sub(report.at) < MAX_REPORT_AGE;
        self.reports.retain(|_, clients| {
            clients.retain(|_, report| is_recent(report));
            !clients.is_empty()
        });
        let covers = self.covers(zones);
        match &mut self.average {
            Some(average) if covers => average.add(&self.reports, now),
            Some(average) if now.saturating_sub(average.covered_at) < GRACE => average.at = now,
            Some(_) | None => self.average = covers.then(|| AverageDemand::new(now)),
        }
    }

    /// Average number of requests of a zone in 1,000 seconds. `None`: the reports do not cover the clients of all zones.
    pub(super) fn request_rate(&self, zone: &ZoneName) -> Option<u64> {
        let average = self.average.as_ref().filter(|average| average.is_used);
        average.map(|average| thousandths(average.of(zone)))
    }

    /// Returns whether the reports tell the requests of nearly all clients of the zones with instances.
    fn covers(&self, zones: &BTreeMap<Arc<ZoneName>, ZoneSummary>) -> bool {
        let (mut streams, mut reporting) = (0_u64, 0_u64);
        for (zone, summary) in zones.iter().filter(|(zone, summary)| zone.is_named() && summary.registered_weight > 0) {
            if summary.streams > 0 && !self.reports.contains_key(zone) {
                return false;
            }
            streams += summary.streams;
            reporting += summary.reporting_streams;
        }
        reporting > 0 && ratio(reporting, streams) >= MIN_COVERAGE
    }
}

/// Rate in requests per second below which a zone without reports is forgotten.
const MIN_RATE: f64 = 0.001;

impl AverageDemand {
    fn new(now: Duration) -> Self {
        Self { since: now, at: now, covered_at: now, is_used: false, weight: 0.0, sums: BTreeMap::new() }
    }

    /// Adds the present rates, which count for the time since the update before.
    fn add(&mut self, reports: &BTreeMap<Arc<ZoneName>, HashMap<u64, ReportedRate>>, now: Duration) {
        let decay = (-now.saturating_sub(self.at).as_secs_f64() / AVERAGING_TIME).exp();
        (self.at, self.covered_at) = (now, now);
        self.weight = self.weight * decay + (1.0 - decay);
        for sum in self.sums.values_mut() {
            *sum *= decay;
        }
        for (zone, clients) in reports {
            let rate: f64 = clients.values().map(|report| report.rate).sum();
            *self.sums.entry(Arc::clone(zone)).or_default() += (1.0 - decay) * rate;
        }
        // Zones are what clients name, which may be other ones every day.
        self.sums.retain(|zone, sum| *sum > MIN_RATE || reports.contains_key(zone));
        let requests = AVERAGING_TIME * self.sums.keys().map(|zone| self.of(zone)).sum::<f64>();
        let required = if self.is_used { MIN_REQUESTS * REMAINING_REQUESTS } else { MIN_REQUESTS };
        self.is_used = now.saturating_sub(self.since) >= MIN_MEASUREMENT && requests >= required;
    }

    /// Average rate of a zone, in requests per second.
    fn of(&self, zone: &ZoneName) -> f64 {
        let sum = self.sums.get(zone).copied().unwrap_or_default();
        if self.weight > 0.0 { sum / self.weight } else { 0.0 }
    }
}

/// Returns a rate in thousandths.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the rate is not negative, and clamped")]
fn thousandths(rate: f64) -> u64 {
    (rate.clamp(0.0, 1e12) * 1_000.0).round() as u64
}
