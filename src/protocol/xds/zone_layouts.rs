//! Zones of the clients of all streams, and the layouts that they get.
//!
//! A stream counts in each cluster whose endpoints it subscribes to, under the zone that its client has named. The clients that report
//! their load do so on streams of their own, which count under the zone that they name there.

use std::{
    collections::BTreeSet,
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;

use super::cluster_name::split_cluster_name;
use crate::{
    balancing::{ClusterQuery, ReportingClient, ServiceZones, ZoneInstances, ZoneLayout, ZoneName, ZoneReport},
    model::ServiceName,
};

/// Zones of the clients of all streams, by service.
#[derive(Debug, Default)]
pub(super) struct ZoneLayouts {
    services: DashMap<Box<str>, ServiceZones>,
    /// Number of streams of load reports so far.
    report_streams: AtomicU64,
}

impl ZoneLayouts {
    /// Returns the layout of a cluster with these instances for the clients of a zone. `None`: all zones share their calls by capacity.
    pub(super) fn layout(
        &self,
        query: ClusterQuery<'_>,
        instances: &Arc<ZoneInstances>,
        now: Duration,
    ) -> Option<Arc<ZoneLayout>> {
        self.services.get_mut(split_cluster_name(query.cluster).0)?.layout(query, instances, now)
    }

    /// Returns whether clients of a cluster have layouts that clients with a newer policy begin with.
    pub(super) fn has(&self, cluster: &str) -> bool {
        self.services.get(split_cluster_name(cluster).0).is_some_and(|service| service.has_layouts(cluster))
    }

    /// Returns the zones of a cluster with these instances for the clients of a zone, and changes nothing.
    pub(super) fn report(&self, query: ClusterQuery<'_>, instances: &ZoneInstances, now: Duration) -> ZoneReport {
        match self.services.get(split_cluster_name(query.cluster).0) {
            Some(service) => service.report(query, instances, now),
            None => ServiceZones::default().report(query, instances, now),
        }
    }

    /// Has clients with a newer policy begin anew, because those with the present one do not prefer their zones.
    pub(super) fn end(&self, cluster: &str) {
        if let Some(mut service) = self.services.get_mut(split_cluster_name(cluster).0) {
            service.end_layouts(cluster);
        }
    }

    /// Brings all layouts up to date and returns the services with one that has changed.
    pub(super) fn update(&self, now: Duration) -> Vec<ServiceName> {
        let mut changed = Vec::new();
        for mut service in self.services.iter_mut() {
            if service.value_mut().update(now)
                && let Ok(name) = ServiceName::parse(service.key())
            {
                changed.push(name);
            }
        }
        changed
    }

    fn add(&self, cluster: &str, client: &ZonedClient) {
        let ZonedClient { zone, reports } = client;
        let service = split_cluster_name(cluster).0;
        match self.services.get_mut(service) {
            Some(mut found) => found.add_stream(cluster, zone, *reports),
            None => self.services.entry(service.into()).or_default().add_stream(cluster, zone, *reports),
        }
    }

    fn remove(&self, cluster: &str, client: &ZonedClient) {
        let service = split_cluster_name(cluster).0;
        if let Some(mut found) = self.services.get_mut(service) {
            found.remove_stream(cluster, &client.zone, client.reports);
        }
        self.services.remove_if(service, |_, found| found.is_empty());
    }
}

/// Client that has named its zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ZonedClient {
    pub(super) zone: Arc<ZoneName>,
    /// Set if the client reports its load.
    pub(super) reports: bool,
}

/// Clusters of one stream, counted under the zone of its client. Dropping it ends that.
#[derive(Debug)]
pub(super) struct ZoneSubscriptions {
    layouts: Arc<ZoneLayouts>,
    /// `None`: the client has named no zone.
    client: Option<ZonedClient>,
    clusters: BTreeSet<Arc<str>>,
}

impl ZoneSubscriptions {
    /// Creates the subscriptions of a new stream.
    pub(super) fn new(layouts: &Arc<ZoneLayouts>) -> Self {
        Self { layouts: Arc::clone(layouts), client: None, clusters: BTreeSet::new() }
    }

    /// Sets the client. `None`: it names no zone.
    pub(super) fn set_client(&mut self, client: Option<ZonedClient>) {
        if client == self.client {
            return;
        }
        let clusters = mem::take(&mut self.clusters);
        for cluster in &clusters {
            self.discount(cluster);
        }
        self.client = client;
        for cluster in clusters {
            self.add(&cluster);
        }
    }

    /// Counts the stream in a cluster whose endpoints it subscribes to.
    pub(super) fn add(&mut self, cluster: &Arc<str>) {
        if self.clusters.insert(Arc::clone(cluster))
            && let Some(client) = &self.client
        {
            self.layouts.add(cluster, client);
        }
    }

    /// Ceases to count the stream in a cluster.
    pub(super) fn remove(&mut self, cluster: &str) {
        if self.clusters.remove(cluster) {
            self.discount(cluster);
        }
    }

    fn discount(&self, cluster: &str) {
        if let Some(client) = &self.client {
            self.layouts.remove(cluster, client);
        }
    }
}

impl Drop for ZoneSubscriptions {
    fn drop(&mut self) {
        for cluster in &self.clusters {
            self.discount(cluster);
        }
    }
}

/// Requests that one client reports, counted under its zone. Dropping it ends that.
#[derive(Debug)]
pub(super) struct ZoneLoadReports {
    layouts: Arc<ZoneLayouts>,
    zone: Arc<ZoneName>,
    number: u64,
    /// Clusters in which a report of the client counts.
    clusters: BTreeSet<Box<str>>,
}

impl ZoneLoadReports {
    /// Creates the reports of a client in this zone.
    pub(super) fn new(layouts: &Arc<ZoneLayouts>, zone: Arc<ZoneName>) -> Self {
        let number = layouts.report_streams.fetch_add(1, Ordering::Relaxed);
        Self { layouts: Arc::clone(layouts), zone, number, clusters: BTreeSet::new() }
    }

    /// Takes in a report: the requests per second of each cluster that has any. The client made no requests to the others.
    pub(super) fn report<'a>(&mut self, rates: impl Iterator<Item = (&'a str, f64)> + Clone, now: Duration) {
        let reported: BTreeSet<_> = rates.clone().map(|(cluster, _)| cluster).collect();
        let idle: Vec<_> = self.clusters.iter().filter(|cluster| !reported.contains(&***cluster)).cloned().collect();
        for cluster in &idle {
            if !self.add(cluster, 0.0, now) {
                self.clusters.remove(cluster);
            }
        }
        for (cluster, rate) in rates {
            if self.add(cluster, rate, now) && !self.clusters.contains(cluster) {
                self.clusters.insert(cluster.into());
            }
        }
    }

    /// Takes in the rate of a cluster. Returns whether it counts.
    fn add(&self, cluster: &str, rate: f64, now: Duration) -> bool {
        let service = self.layouts.services.get_mut(split_cluster_name(cluster).0);
        service.is_some_and(|mut service| service.report_requests(self.client(cluster), rate, now))
    }

    fn client<'a>(&'a self, cluster: &'a str) -> ReportingClient<'a> {
        ReportingClient { cluster, zone: &self.zone, number: self.number }
    }
}

impl Drop for ZoneLoadReports {
    fn drop(&mut self) {
        for cluster in &self.clusters {
            if let Some(mut service) = self.layouts.services.get_mut(split_cluster_name(cluster).0) {
                service.remove_reports(self.client(cluster));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{balancing::ZoneSummary, model::Revision};

    #[test]
    fn stream_counts_under_its_zone_until_it_ends() {
        let layouts = Arc::<ZoneLayouts>::default();
        let zone = |name| Arc::new(ZoneName::new("r", name));
        let instances = |one: u64| {
            let capacity = |routable| ZoneSummary {
                routable_weight: routable,
                registered_weight: 4,
                routable_instances: 4,
                ..ZoneSummary::default()
            };
            Arc::new(ZoneInstances::from([(zone("z1"), capacity(one)), (zone("z2"), capacity(4))]))
        };
        let cluster: Arc<str> = "web|v1".into();
        let mut streams: Vec<_> = (0..20).map(|_| ZoneSubscriptions::new(&layouts)).collect();
        for (number, stream) in streams.iter_mut().enumerate() {
            stream.add(&cluster);
            let zone = zone(if number % 2 == 0 { "z1" } else { "z2" });
            stream.set_client(Some(ZonedClient { zone, reports: false }));
        }
        let spill = |policy, one, now| {
            let now = Duration::from_secs(now);
            let query = ClusterQuery { cluster: "web|v1", policy: Revision(policy), client: &zone("z1") };
            let layout = layouts.layout(query, &instances(one), now)?;
            Some((layout.spill(), layouts.update(now)))
        };
        assert_eq!(spill(7, 4, 0), Some((0, Vec::new())));
        assert_eq!(spill(7, 2, 1), Some((0, vec![ServiceName::parse("web").unwrap()])));
        assert_eq!(spill(7, 2, 2), Some((3_333, Vec::new())));
        assert_eq!(spill(8, 4, 3), Some((3_333, Vec::new())), "clients have the layout of the policy before");
        layouts.end("web|v1");
        assert!(!layouts.has("web|v1"));
        assert_eq!(spill(9, 4, 3), Some((0, Vec::new())), "it begins anew");
        assert_eq!(spill(8, 4, 3), Some((3_333, Vec::new())), "a client that has not got the newer policy");
        streams[0].remove("web|v1");
        drop(streams);
        assert!(layouts.services.is_empty());
        assert_eq!(spill(9, 4, 4), None);
    }
}
