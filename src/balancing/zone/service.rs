//! Layouts of all zones' clients of one service.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    NoPreferenceReason, ZoneLayout, ZoneLayoutPhase, ZoneLayoutState, ZoneName, ZonePreference, ZoneSummary,
    ZoneTargets, ZoneTerms,
};

/// Minimum time between two changes of the layouts of a service, unless a zone empties or returns.
const MIN_INTERVAL: Duration = Duration::from_secs(5);

/// Zones of a service: the streams of their clients, and their layouts.
#[derive(Debug, Default)]
pub struct ServiceZones {
    /// By the name of the cluster: the whole service, or a subset.
    clusters: BTreeMap<Box<str>, ClusterZones>,
    /// Time of the last change of layouts that clients have.
    changed_at: Option<Duration>,
}

/// Zones of a cluster.
#[derive(Debug, Default)]
struct ClusterZones {
    /// Zones with instances or clients.
    zones: BTreeMap<Arc<ZoneName>, ZoneSummary>,
    /// Present instances, from which the numbers in `zones` are.
    instances: Arc<ZoneInstances>,
    /// Layouts of zones with clients and instances, and the instances that each has seen last.
    layouts: BTreeMap<Arc<ZoneName>, (ZoneLayoutState, Arc<ZoneInstances>)>,
}

/// Numbers of the zones with instances, without streams.
pub type ZoneInstances = BTreeMap<Arc<ZoneName>, ZoneSummary>;

/// Zones of a cluster for the clients of one zone, as operators see them.
#[derive(Debug)]
pub struct ZoneReport {
    /// Zones with instances or clients, by name.
    pub zones: Vec<ReportedZone>,
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
    pub fn report(
        &self,
        (cluster, client): (&str, &Arc<ZoneName>),
        instances: &ZoneInstances,
        now: Duration,
    ) -> ZoneReport {
        let known = self.clusters.get(cluster);
        let mut zones = instances.clone();
        for (zone, summary) in
            known.into_iter().flat_map(|known| &known.zones).filter(|(_, summary)| summary.streams > 0)
        {
            zones.entry(Arc::clone(zone)).or_default().streams = summary.streams;
        }
        let state = known.and_then(|known| known.layouts.get(client)).map(|(state, _)| state);
        if client.is_named() {
            let streams = &mut zones.entry(Arc::clone(client)).or_default().streams;
            *streams = (*streams).max(1);
        }
        let targets = ZoneTargets::new(&zones);
        let present = |state: &ZoneLayoutState| (Arc::clone(state.layout()), state.phase(now));
        let (layout, phase) = state.map_or_else(|| present(&ZoneLayoutState::new(client, &targets)), present);
        let reported = zones.iter().map(|(name, numbers)| ReportedZone {
            name: Arc::clone(name),
            numbers: numbers.clone(),
            terms: targets.terms(name),
        });
        ZoneReport { zones: reported.collect(), preference: targets.of(client), layout, phase }
    }

    /// Counts a stream of a client in this zone.
    pub fn add_stream(&mut self, cluster: &str, zone: &Arc<ZoneName>) {
        let found = match self.clusters.get_mut(cluster) {
            Some(found) => found,
            None => self.clusters.entry(cluster.into()).or_default(),
        };
        found.zones.entry(Arc::clone(zone)).or_default().streams += 1;
    }

    /// Ceases to count a stream of a client in this zone.
    pub fn remove_stream(&mut self, cluster: &str, zone: &ZoneName) {
        let Some(found) = self.clusters.get_mut(cluster) else { return };
        let Some(capacity) = found.zones.get_mut(zone) else { return };
        capacity.streams = capacity.streams.saturating_sub(1);
        if capacity.streams == 0 {
            found.layouts.remove(zone);
            if capacity.registered_weight == 0 {
                found.zones.remove(zone);
            }
        }
        if found.zones.values().all(|capacity| capacity.streams == 0) {
            self.clusters.remove(cluster);
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
        (cluster, client): (&str, &Arc<ZoneName>),
        instances: &Arc<ZoneInstances>,
        now: Duration,
    ) -> Option<Arc<ZoneLayout>> {
        let found = self.clusters.get_mut(cluster)?;
        found.set_instances(instances);
        let capacity = found.zones.get(client)?;
        if capacity.streams == 0 || capacity.registered_weight == 0 {
            found.layouts.remove(client);
            return None;
        }
        let (state, seen) = found.layouts.entry(Arc::clone(client)).or_insert_with(|| {
            let state = ZoneLayoutState::new(client, &ZoneTargets::new(&found.zones));
            (state, Arc::clone(&found.instances))
        });
        if !Arc::ptr_eq(seen, &found.instances) {
            *seen = Arc::clone(&found.instances);
            if state.update(&ZoneTargets::new(&found.zones), now, false) {
                self.changed_at = Some(now);
            }
        }
        let layout = Arc::clone(state.layout());
        Some(layout).filter(|layout| !layout.is_by_capacity())
    }

    /// Returns whether clients of a cluster have layouts.
    #[must_use]
    pub fn has_layouts(&self, cluster: &str) -> bool {
        self.clusters.get(cluster).is_some_and(|found| !found.layouts.is_empty())
    }

    /// Drops the layouts of a cluster whose clients no longer prefer their zones.
    pub fn forget_layouts(&mut self, cluster: &str) {
        if let Some(found) = self.clusters.get_mut(cluster) {
            found.layouts.clear();
        }
    }

    /// Brings all layouts up to date if the last change is long enough ago. Returns whether one has changed.
    pub fn update(&mut self, now: Duration) -> bool {
        if self.changed_at.is_some_and(|last| now.saturating_sub(last) < MIN_INTERVAL) {
            return false;
        }
        let mut changed = false;
        for ClusterZones { zones, layouts, .. } in self.clusters.values_mut().filter(|found| !found.layouts.is_empty())
        {
            let targets = ZoneTargets::new(zones);
            for (state, _) in layouts.values_mut() {
                changed |= state.update(&targets, now, true);
            }
        }
        if changed {
            self.changed_at = Some(now);
        }
        changed
    }
}

impl ClusterZones {
    fn set_instances(&mut self, instances: &Arc<ZoneInstances>) {
        if Arc::ptr_eq(&self.instances, instances) || self.instances == *instances {
            return;
        }
        self.instances = Arc::clone(instances);
        for capacity in self.zones.values_mut() {
            *capacity = ZoneSummary { streams: capacity.streams, ..ZoneSummary::default() };
        }
        for (zone, capacity) in &**instances {
            let streams = self.zones.get(zone).map_or(0, |known| known.streams);
            self.zones.insert(Arc::clone(zone), ZoneSummary { streams, ..capacity.clone() });
        }
        self.zones.retain(|_, capacity| capacity.streams > 0 || capacity.registered_weight > 0);
    }
}
