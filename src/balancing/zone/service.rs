//! Layouts of all zones' clients of one service.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    DemandSource, NoPreferenceReason, ZoneLayout, ZoneLayoutPhase, ZoneLayoutState, ZoneName, ZonePreference,
    ZoneSummary, ZoneTargets, ZoneTerms, demand::ZoneDemand,
};
use crate::model::Revision;

/// Minimum time between two changes of the layouts of a service, unless a zone empties or returns.
const MIN_INTERVAL: Duration = Duration::from_secs(5);

/// Maximum number of policies by which the zones of a cluster are kept.
const MAX_DEFINITIONS: usize = 4;
/// Time after which the zones by an older policy are dropped unless a client with it is sent endpoints.
const MAX_UNUSED: Duration = Duration::from_mins(5);

/// Client of a cluster: its zone, and a number that no other client has.
#[derive(Debug, Clone, Copy)]
pub struct ReportingClient<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Zone of the client.
    pub zone: &'a Arc<ZoneName>,
    /// Number of the client.
    pub number: u64,
}

/// Zones of a service: the streams of their clients, and their layouts.
#[derive(Debug, Default)]
pub struct ServiceZones {
    /// By the name of the cluster: the whole service, or a subset.
    clusters: BTreeMap<Box<str>, ClusterZones>,
    /// Time of the last change of layouts that clients have.
    changed_at: Option<Duration>,
}

/// Cluster whose clients one query concerns.
#[derive(Debug, Clone, Copy)]
pub struct ClusterQuery<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Revision of the policy that defines the cluster. While a policy is changed, clients have different ones.
    pub policy: Revision,
    /// Zone of the clients.
    pub client: &'a Arc<ZoneName>,
}

/// Zones of a cluster.
#[derive(Debug, Default)]
struct ClusterZones {
    /// Clients of each zone with at least one stream.
    clients: BTreeMap<Arc<ZoneName>, ZoneClients>,
    /// Reports of clients, while there are layouts.
    demand: ZoneDemand,
    /// By the policies that define the cluster, the newest last.
    definitions: Vec<DefinedZones>,
}

/// Numbers of streams of the clients of a zone.
#[derive(Debug, Clone, Copy, Default)]
struct ZoneClients {
    streams: u64,
    /// Number of these streams whose clients report their load.
    reporting: u64,
}

/// Zones of a cluster as one policy defines it.
#[derive(Debug)]
struct DefinedZones {
    policy: Revision,
    /// Present instances.
    instances: Arc<ZoneInstances>,
    /// Layouts of zones with clients, and the instances that each has seen last.
    layouts: BTreeMap<Arc<ZoneName>, (ZoneLayoutState, Arc<ZoneInstances>)>,
    /// A newer definition begins with these layouts, because clients have them.
    is_inherited: bool,
    /// Time of the last query.
    used_at: Duration,
}

/// Numbers of the zones with instances, without streams.
pub type ZoneInstances = BTreeMap<Arc<ZoneName>, ZoneSummary>;

/// Zones of a cluster for the clients of one zone, as operators see them.
#[derive(Debug)]
pub struct ZoneReport {
    /// Zones with instances or clients, by name.
    pub zones: Vec<ReportedZone>,
    /// Numbers from which the distribution of the demand is known.
    pub source: DemandSource,
    /// Shares by the present numbers, or the reason for which all zones share the calls by capacity.
    pub preference: Result<ZonePreference, NoPreferenceReason>,
    /// Layout that the clients have, or that the first client will get.
    pub layout: Arc<ZoneLayout>,
    /// State of the layout.
    pub phase: ZoneLayoutPhase,
}

/// Zone in a report.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportedZone {
    /// Name of the zone.
    pub name: Arc<ZoneName>,
    /// Numbers of the zone.
    pub numbers: ZoneSummary,
    /// Terms of its share. `None`: it has no instances.
    pub terms: Option<ZoneTerms>,
}

impl ServiceZones {
    /// Returns the zones of a cluster with these instances for the clients of a zone, and changes nothing. A client without a stream is
    /// counted as a stream, as it will be once it has opened one.
    #[must_use]
    pub fn report(&self, query: ClusterQuery<'_>, instances: &ZoneInstances, now: Duration) -> ZoneReport {
        let known = self.clusters.get(query.cluster);
        let mut zones =
            known.map_or_else(|| instances.clone(), |known| with_clients(instances, &known.clients, &known.demand));
        let definition = known.and_then(|known| known.definitions.iter().find(|one| one.policy == query.policy));
        let state = definition.and_then(|definition| definition.layouts.get(query.client)).map(|(state, _)| state);
        if query.client.is_named() {
            let streams = &mut zones.entry(Arc::clone(query.client)).or_default().streams;
            *streams = (*streams).max(1);
        }
        let targets = ZoneTargets::new(&zones);
        let present = |state: &ZoneLayoutState| (Arc::clone(state.layout()), state.phase(now));
        let (layout, phase) = state.map_or_else(|| present(&ZoneLayoutState::new(query.client, &targets)), present);
        let reported = zones.iter().map(|(name, numbers)| ReportedZone {
            name: Arc::clone(name),
            numbers: numbers.clone(),
            terms: targets.terms(name),
        });
        let (zones, source) = (reported.collect(), targets.source());
        ZoneReport { zones, source, preference: targets.of(query.client), layout, phase }
    }

    /// Counts a stream of a client in this zone. `reports`: the client reports its load.
    pub fn add_stream(&mut self, cluster: &str, zone: &Arc<ZoneName>, reports: bool) {
        let found = match self.clusters.get_mut(cluster) {
            Some(found) => found,
            None => self.clusters.entry(cluster.into()).or_default(),
        };
        let clients = found.clients.entry(Arc::clone(zone)).or_default();
        clients.streams += 1;
        clients.reporting += u64::from(reports);
    }

    /// Ceases to count a stream of a client in this zone.
    pub fn remove_stream(&mut self, cluster: &str, zone: &ZoneName, reports: bool) {
        let Some(found) = self.clusters.get_mut(cluster) else { return };
        let Some(clients) = found.clients.get_mut(zone) else { return };
        clients.streams -= 1;
        clients.reporting -= u64::from(reports);
        if clients.streams > 0 {
            return;
        }
        found.clients.remove(zone);
        for definition in &mut found.definitions {
            definition.layouts.remove(zone);
        }
        if found.clients.is_empty() {
            self.clusters.remove(cluster);
        }
    }

    /// Takes in a report of a client: its requests per second since the report before. Returns whether the report counts: only clusters
    /// with layouts need reports.
    pub fn report_requests(&mut self, client: ReportingClient<'_>, rate: f64, now: Duration) -> bool {
        let found = self.clusters.get_mut(client.cluster).filter(|found| found.with_layouts().is_some());
        found.map(|found| found.demand.report(client.number, client.zone, rate, now)).is_some()
    }

    /// Forgets the reports of a client.
    pub fn remove_reports(&mut self, client: ReportingClient<'_>) {
        if let Some(found) = self.clusters.get_mut(client.cluster) {
            found.demand.remove(client.number, client.zone);
        }
    }

    /// Returns whether no stream is counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clusters.is_empty()
    }

    /// Returns the layout of a cluster with these instances for the clients of a zone that have streams. `None`: all zones share their
    /// calls by capacity. A layout changes only if a zone has become empty or has returned.
    pub fn layout(
        &mut self,
        query: ClusterQuery<'_>,
        instances: &Arc<ZoneInstances>,
        now: Duration,
    ) -> Option<Arc<ZoneLayout>> {
        let ClusterZones { clients, demand, definitions } = self.clusters.get_mut(query.cluster)?;
        let definition = defined(definitions, query.policy, now);
        if !Arc::ptr_eq(&definition.instances, instances) && definition.instances != *instances {
            definition.instances = Arc::clone(instances);
        }
        if !clients.contains_key(query.client) {
            return None;
        }
        // Also for a zone without instances, so that its clients prefer it as soon as it has some.
        let zones = || with_clients(&definition.instances, clients, demand);
        let (state, seen) = definition.layouts.entry(Arc::clone(query.client)).or_insert_with(|| {
            let state = ZoneLayoutState::new(query.client, &ZoneTargets::new(&zones()));
            (state, Arc::clone(&definition.instances))
        });
        if !Arc::ptr_eq(seen, &definition.instances) {
            *seen = Arc::clone(&definition.instances);
            if state.update(&ZoneTargets::new(&zones()), now, false) {
                self.changed_at = Some(now);
            }
        }
        let layout = Arc::clone(state.layout());
        Some(layout).filter(|layout| !layout.is_by_capacity())
    }

    /// Returns whether clients of a cluster have layouts that clients with a newer policy begin with.
    #[must_use]
    pub fn has_layouts(&self, cluster: &str) -> bool {
        let definitions = self.clusters.get(cluster).into_iter().flat_map(|found| &found.definitions);
        definitions.into_iter().any(|definition| definition.is_inherited && !definition.layouts.is_empty())
    }

    /// Has clients with a newer policy begin anew, because those with the present one do not prefer their zones.
    pub fn end_layouts(&mut self, cluster: &str) {
        let found = self.clusters.get_mut(cluster);
        found.into_iter().flat_map(|found| &mut found.definitions).for_each(|one| one.is_inherited = false);
    }

    /// Brings all layouts up to date if the last change is long enough ago. Returns whether one has changed.
    pub fn update(&mut self, now: Duration) -> bool {
        self.clusters.values_mut().for_each(|found| found.update_demand(now));
        if self.changed_at.is_some_and(|last| now.saturating_sub(last) < MIN_INTERVAL) {
            return false;
        }
        let mut changed = false;
        for ClusterZones { clients, demand, definitions } in self.clusters.values_mut() {
            let newest = definitions.last().map(|newest| newest.policy);
            definitions.retain(|one| Some(one.policy) == newest || now.saturating_sub(one.used_at) < MAX_UNUSED);
            for definition in definitions.iter_mut().filter(|definition| !definition.layouts.is_empty()) {
                let zones = with_clients(&definition.instances, clients, demand);
                let targets = ZoneTargets::new(&zones);
                for (state, _) in definition.layouts.values_mut() {
                    changed |= state.update(&targets, now, true);
                }
            }
        }
        if changed {
            self.changed_at = Some(now);
        }
        changed
    }
}

impl ClusterZones {
    /// Returns the newest definition with layouts.
    fn with_layouts(&self) -> Option<&DefinedZones> {
        self.definitions.iter().rfind(|definition| !definition.layouts.is_empty())
    }

    /// Brings the demand to this time.
    fn update_demand(&mut self, now: Duration) {
        let zones = self.with_layouts().map(|found| with_clients(&found.instances, &self.clients, &self.demand));
        match zones {
            Some(zones) => self.demand.update(&zones, now),
            None => self.demand = ZoneDemand::default(),
        }
    }
}

/// Returns the zones of a cluster as a policy defines it. A new policy begins with the layouts of the one before, which clients have.
fn defined(definitions: &mut Vec<DefinedZones>, policy: Revision, now: Duration) -> &mut DefinedZones {
    let at = definitions.iter().position(|one| one.policy == policy).unwrap_or_else(|| {
        if definitions.len() >= MAX_DEFINITIONS {
            definitions.remove(0);
        }
        let before = definitions.iter().rfind(|one| one.policy < policy && one.is_inherited);
        let (instances, layouts) =
            before.map(|before| (Arc::clone(&before.instances), before.layouts.clone())).unwrap_or_default();
        let at = definitions.partition_point(|one| one.policy < policy);
        definitions.insert(at, DefinedZones { policy, instances, layouts, is_inherited: true, used_at: now });
        at
    });
    definitions[at].used_at = now;
    &mut definitions[at]
}

/// Adds the numbers of the clients to those of the instances. Zones without instances have clients only.
fn with_clients(
    instances: &ZoneInstances,
    clients: &BTreeMap<Arc<ZoneName>, ZoneClients>,
    demand: &ZoneDemand,
) -> ZoneInstances {
    let mut zones = instances.clone();
    for (zone, clients) in clients {
        let summary = zones.entry(Arc::clone(zone)).or_default();
        (summary.streams, summary.reporting_streams) = (clients.streams, clients.reporting);
    }
    for (zone, summary) in &mut zones {
        summary.request_rate = demand.request_rate(zone);
    }
    zones
}
