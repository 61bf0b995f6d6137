use std::{collections::BTreeSet, time::Duration};

use proptest::{collection::vec, prelude::*};

use super::{layout::WHOLE, *};
use crate::model::Revision;

type Zones = BTreeMap<Arc<ZoneName>, ZoneSummary>;

/// Returns a zone: its region and name, its routable and registered weight, its streams. Each instance has weight 1.
fn zone(region: &str, zone: &str, routable: u64, registered: u64, streams: u64) -> (Arc<ZoneName>, ZoneSummary) {
    let capacity = ZoneSummary {
        routable_weight: routable,
        registered_weight: registered,
        routable_instances: usize::try_from(routable).unwrap(),
        streams,
        ..ZoneSummary::default()
    };
    (Arc::new(ZoneName::new(region, zone)), capacity)
}

fn name(zone: &str) -> ZoneName {
    ZoneName::new("r", zone)
}

fn shares(zones: &Zones, client: &str) -> Vec<(String, f64)> {
    let preference = ZoneTargets::new(zones).of(&name(client)).unwrap();
    let rounded = |share: f64| (share * 1000.0).round() / 1000.0;
    preference.shares.iter().map(|(zone, share)| (zone.zone.to_string(), rounded(*share))).collect()
}

fn expected<const N: usize>(shares: [(&str, f64); N]) -> Vec<(String, f64)> {
    shares.map(|(zone, share)| (zone.to_owned(), share)).to_vec()
}

#[test]
fn half_of_a_zone_spills_a_third_of_its_calls_to_the_other_zone() {
    let zones = Zones::from([zone("r", "z1", 2, 4, 20), zone("r", "z2", 4, 4, 20)]);
    let local = ZoneTargets::new(&zones).of(&name("z1")).unwrap().local;
    assert!((local.capacity_per_demand.unwrap() - 2.0 / 3.0).abs() < 1e-9, "{local:?}");
    assert!((local.overprovisioned - 0.7).abs() < 1e-9, "{local:?}");
    assert_eq!(shares(&zones, "z1"), expected([("z1", 0.667), ("z2", 0.333)]));
    assert_eq!(shares(&zones, "z2"), expected([("z2", 1.0)]));
}

#[test]
fn few_streams_leave_out_the_distribution_of_clients() {
    let zones = Zones::from([zone("r", "z1", 2, 4, 5), zone("r", "z2", 4, 4, 4), zone("r", "z3", 2, 4, 0)]);
    let local = ZoneTargets::new(&zones).of(&name("z1")).unwrap().local;
    assert_eq!(local.capacity_per_demand, None);
    // The rest goes to the others by capacity.
    assert_eq!(shares(&zones, "z1"), expected([("z1", 0.7), ("z2", 0.2), ("z3", 0.1)]));
}

#[test]
fn client_prefers_no_zone_without_two_zones_and_two_local_instances() {
    let reason = |zones: &Zones, client: &ZoneName| ZoneTargets::new(zones).of(client).unwrap_err();
    let one = Zones::from([zone("r", "z1", 4, 4, 10)]);
    assert_eq!(reason(&one, &name("z1")), NoPreferenceReason::OneZone);
    let few = Zones::from([zone("r", "z1", 1, 4, 10), zone("r", "z2", 4, 4, 10), zone("r", "z3", 0, 0, 10)]);
    for client in ["z1", "z3", "z4"] {
        assert_eq!(reason(&few, &name(client)), NoPreferenceReason::FewLocalInstances);
    }
    let unnamed = Zones::from([zone("", "", 4, 4, 0), zone("r", "z2", 4, 4, 10)]);
    assert_eq!(reason(&unnamed, &ZoneName::default()), NoPreferenceReason::ClientWithoutZone);
    let many: Zones = (0..=MAX_ZONES).map(|number| zone("r", &number.to_string(), 2, 2, 1)).collect();
    assert_eq!(reason(&many, &name("1")), NoPreferenceReason::TooManyZones);
}

#[test]
fn spill_goes_to_other_regions_only_beyond_the_spare_capacity_of_the_region() {
    let far = |streams| zone("far", "z9", 50, 50, streams);
    let zones = Zones::from([zone("r", "z1", 20, 20, 40), zone("r", "z2", 30, 30, 10), far(50)]);
    assert_eq!(shares(&zones, "z1"), expected([("z1", 0.5), ("z2", 0.5)]));
    let zones = Zones::from([zone("r", "z1", 20, 20, 40), zone("r", "z2", 20, 20, 10), far(50)]);
    // 22.2 % of the capacity, 40 % of the clients; z2 has 12.2 % left.
    assert_eq!(shares(&zones, "z1"), expected([("z9", 0.139), ("z1", 0.556), ("z2", 0.306)]));
}

#[test]
fn layout_follows_a_spill_that_begins_and_ends() {
    let zones = |routable| Zones::from([zone("r", "z1", routable, 100, 50), zone("r", "z2", 200 - routable, 300, 50)]);
    let update = |state: &mut ZoneLayoutState, zones: &Zones, second: u64| {
        state.update(&ZoneTargets::new(zones), Duration::from_secs(second), true)
    };
    let mut state = ZoneLayoutState::new(&name("z1"), &ZoneTargets::new(&zones(100)));
    assert_eq!(state.layout().shares, BTreeMap::from([(name("z1"), WHOLE)]));
    assert!(!update(&mut state, &zones(96), 0), "4 % are too few to begin");
    assert!(update(&mut state, &zones(94), 1));
    assert_eq!(state.layout().shares, BTreeMap::from([(name("z1"), 9_400), (name("z2"), 600)]));
    assert!(!update(&mut state, &zones(90), 2), "4 points are too few to move");
    assert!(update(&mut state, &zones(89), 3));
    assert_eq!(state.layout().spill(), 1_100);
    // Below 2 % for 60 seconds without interruption.
    assert!(update(&mut state, &zones(99), 10));
    assert!(!update(&mut state, &zones(97), 69));
    assert!(!update(&mut state, &zones(99), 70));
    assert!(!update(&mut state, &zones(99), 129));
    assert!(update(&mut state, &zones(99), 130));
    assert_eq!(state.layout().shares, BTreeMap::from([(name("z1"), WHOLE)]));
}

#[test]
fn change_waits_for_permission_unless_a_zone_empties_or_returns() {
    let zones = |one, two| Zones::from([zone("r", "z1", one, 4, 50), zone("r", "z2", two, 4, 50)]);
    let mut state = ZoneLayoutState::new(&name("z1"), &ZoneTargets::new(&zones(4, 4)));
    let mut update = |one, two| {
        state.update(&ZoneTargets::new(&zones(one, two)), Duration::ZERO, false).then(|| state.layout().spill())
    };
    assert_eq!(update(2, 4), None);
    assert_eq!(update(1, 4), None, "fewer than two local instances are no emergency");
    assert_eq!(update(0, 4), Some(0), "by capacity");
    assert_eq!(update(1, 4), None);
    assert_eq!(update(2, 4), Some(3_333));
    assert_eq!(update(2, 0), Some(0));
    assert_eq!(update(2, 4), Some(3_333));
}

#[test]
fn zone_with_one_instance_that_comes_and_goes_is_preferred_after_a_minute() {
    let zones = |one| Zones::from([zone("r", "z1", one, one, 50), zone("r", "z2", 4, 4, 50)]);
    let mut state = ZoneLayoutState::new(&name("z1"), &ZoneTargets::new(&zones(2)));
    let mut update = |one, second| state.update(&ZoneTargets::new(&zones(one)), Duration::from_secs(second), true);
    assert!(update(1, 0));
    let changes = (1..59).filter(|second| update(1 + second % 2, *second)).count();
    assert_eq!(changes, 0);
    assert!(!update(2, 60));
    assert!(!update(2, 119));
    assert!(update(2, 120));
}

fn query(client: &Arc<ZoneName>) -> ClusterQuery<'_> {
    ClusterQuery { cluster: "web", policy: Revision(7), client }
}

#[test]
fn layouts_of_a_service_change_once_in_five_seconds_unless_a_zone_empties() {
    let instances = |one, two| Arc::new(Zones::from([zone("r", "z1", one, 4, 0), zone("r", "z2", two, 4, 0)]));
    let (z1, z2, other) = (Arc::new(name("z1")), Arc::new(name("z2")), Arc::new(name("z3")));
    let mut service = ServiceZones::default();
    for _ in 0..50 {
        for zone in [&z1, &z2, &other] {
            service.add_stream("web", zone, false);
        }
    }
    let spill = |service: &mut ServiceZones, zone, instances: &Arc<Zones>, second| {
        service.layout(query(zone), instances, Duration::from_secs(second)).map(|layout| layout.spill())
    };
    let whole = instances(4, 4);
    assert_eq!(spill(&mut service, &z1, &whole, 0), Some(0));
    assert_eq!(spill(&mut service, &z2, &whole, 0), Some(0));
    assert_eq!(spill(&mut service, &other, &whole, 0), None, "it has no instances");
    let half = instances(2, 4);
    assert_eq!(spill(&mut service, &z1, &half, 1), Some(0), "the layout waits for the next update");
    assert!(service.update(Duration::from_secs(1)));
    assert_eq!(spill(&mut service, &z1, &half, 1), Some(3_333));
    assert_eq!(spill(&mut service, &z2, &half, 1), Some(0));
    let more = instances(3, 4);
    assert_eq!(spill(&mut service, &z1, &more, 2), Some(3_333));
    assert!(!service.update(Duration::from_secs(5)));
    assert!(service.update(Duration::from_secs(6)));
    assert_eq!(spill(&mut service, &z1, &more, 6), Some(1_429));
    assert_eq!(spill(&mut service, &z2, &instances(3, 0), 6), None, "a zone has become empty");
    for _ in 0..50 {
        for zone in [&z1, &z2, &other] {
            service.remove_stream("web", zone, false);
        }
    }
    assert!(service.is_empty());
}

/// During a change of a policy some clients have the old one, in which a subset may have other instances.
#[test]
fn clients_with_different_policies_have_layouts_of_their_own_instances() {
    let instances = |one, two| Arc::new(Zones::from([zone("r", "z1", one, 4, 0), zone("r", "z2", two, 4, 0)]));
    let (z1, z2) = (Arc::new(name("z1")), Arc::new(name("z2")));
    let mut service = ServiceZones::default();
    for _ in 0..20 {
        service.add_stream("web", &z1, false);
        service.add_stream("web", &z2, false);
    }
    let (old, new) =
        ((query(&z1), instances(4, 4)), (ClusterQuery { policy: Revision(8), ..query(&z1) }, instances(2, 4)));
    let spill = |service: &mut ServiceZones, (query, instances): &(ClusterQuery<'_>, Arc<Zones>), second| {
        service.layout(*query, instances, Duration::from_secs(second)).map(|layout| layout.spill())
    };
    assert_eq!(spill(&mut service, &old, 0), Some(0));
    assert_eq!(spill(&mut service, &new, 0), Some(0), "the layout that clients have");
    assert_eq!(spill(&mut service, &old, 0), Some(0));
    assert!(service.update(Duration::from_secs(1)));
    for second in 1..300 {
        assert_eq!(spill(&mut service, &new, second), Some(3_333), "{second}");
        assert_eq!(spill(&mut service, &old, second), Some(0), "{second}");
        assert!(second < 10 || !service.update(Duration::from_secs(second)), "nothing has changed");
    }
    // One of them has no instances in a zone: that zone does not come and go for the other.
    let without = (new.0, instances(0, 4));
    assert_eq!(spill(&mut service, &without, 300), None);
    assert_eq!(spill(&mut service, &old, 300), Some(0));
    assert!(!service.update(Duration::from_secs(306)), "nothing more has changed");
    let report = service.report(old.0, &old.1, Duration::from_secs(306));
    assert_eq!((report.layout.spill(), report.phase), (0, ZoneLayoutPhase::Local));

    // The clients with the old policy ask for nothing any more.
    for second in [400, 700] {
        spill(&mut service, &new, second);
        service.update(Duration::from_secs(second));
    }
    let half = (old.0, instances(2, 4));
    assert_eq!(spill(&mut service, &half, 700), Some(3_333), "the old layout was dropped, so it begins anew");
}

#[test]
fn report_has_the_layout_of_the_clients_and_its_next_change() {
    let instances = |one| Arc::new(Zones::from([zone("r", "z1", one, 4, 0), zone("r", "z2", 4, 4, 0)]));
    let (z1, z2, other) = (Arc::new(name("z1")), Arc::new(name("z2")), Arc::new(name("z3")));
    let report = |service: &ServiceZones, zone: &Arc<ZoneName>, instances: &Arc<Zones>, second| {
        service.report(query(zone), instances, Duration::from_secs(second))
    };
    let mut service = ServiceZones::default();
    let first = report(&service, &z1, &instances(4), 0);
    assert_eq!((first.layout.spill(), first.phase), (0, ZoneLayoutPhase::Local));
    let streams: Vec<_> = first.zones.iter().map(|zone| (zone.numbers.streams, zone.terms.unwrap().demand)).collect();
    assert_eq!(streams, [(1, None), (0, None)], "the first client counts, but the distribution is not known");
    assert!(service.is_empty());
    for (zone, reason) in
        [(&other, NoPreferenceReason::FewLocalInstances), (&Arc::default(), NoPreferenceReason::ClientWithoutZone)]
    {
        let report = report(&service, zone, &instances(4), 0);
        assert_eq!((report.preference, report.phase), (Err(reason), ZoneLayoutPhase::ByCapacity));
        assert!(report.layout.is_by_capacity());
    }

    for _ in 0..20 {
        service.add_stream("web", &z1, false);
        service.add_stream("web", &z2, false);
    }
    let (half, whole) = (instances(2), instances(4));
    assert!(service.layout(query(&z1), &half, Duration::ZERO).is_some());
    let spilling = report(&service, &z1, &half, 0);
    assert_eq!((spilling.layout.spill(), spilling.phase), (3_333, ZoneLayoutPhase::Spilling));
    let terms = spilling.zones[0].terms.unwrap();
    assert!((terms.capacity - 1.0 / 3.0).abs() < 1e-9 && terms.demand == Some(0.5), "{terms:?}");
    assert_eq!(terms.local, spilling.preference.ok().map(|preference| preference.local));

    assert!(service.layout(query(&z1), &whole, Duration::from_secs(1)).is_some());
    let ending = report(&service, &z1, &whole, 11);
    assert_eq!(ending.layout.spill(), 3_333, "clients keep what they have");
    assert_eq!(ending.phase, ZoneLayoutPhase::SpillEnding(Duration::from_secs(50)));
    assert_eq!(ending.preference.unwrap().shares, BTreeMap::from([(name("z1"), 1.0)]));
}

fn any_zones() -> impl Strategy<Value = Zones> {
    let capacity = (0..3_u8, 1..500_u64, 0..500_u64, 0..6_usize, 0..300_u64);
    vec(capacity, 2..9).prop_map(|zones| {
        let capacity = |(number, (region, routable, lost, instances, streams))| {
            let routable_weight = if instances == 0 { 0 } else { routable };
            let registered_weight = routable + lost;
            let (routable_instances, clients) = (instances, ZoneSummary { streams, ..ZoneSummary::default() });
            let capacity = ZoneSummary { routable_weight, registered_weight, routable_instances, ..clients };
            (Arc::new(ZoneName::new(&format!("r{region}"), &format!("z{number}"))), capacity)
        };
        zones.into_iter().enumerate().map(capacity).collect()
    })
}

proptest! {
    #[test]
    fn shares_are_positive_sum_up_and_leave_out_zones_without_routable_instances(zones in any_zones()) {
        let targets = ZoneTargets::new(&zones);
        for client in zones.keys() {
            let layout = ZoneLayoutState::new(client, &targets);
            let shares = &layout.layout().shares;
            if targets.of(client).is_err() {
                prop_assert!(shares.is_empty());
                continue;
            }
            prop_assert_eq!(shares.values().sum::<u32>(), WHOLE);
            prop_assert!(shares.values().all(|share| *share >= 1));
            prop_assert!(shares.contains_key(client));
            prop_assert!(shares.keys().all(|zone| zones[zone].routable_weight > 0), "{:?}", shares);
        }
    }

    #[test]
    fn each_zone_is_in_one_class_and_each_region_comes_before_the_others(zones in any_zones()) {
        let targets = ZoneTargets::new(&zones);
        for client in zones.keys() {
            let state = ZoneLayoutState::new(client, &targets);
            for zone in zones.keys() {
                let expected = match state.layout() {
                    layout if layout.is_by_capacity() || layout.shares.contains_key(zone) => ZoneClass::Preferred,
                    _ if zone.region == client.region => ZoneClass::SameRegion,
                    _ => ZoneClass::OtherRegion,
                };
                prop_assert_eq!(state.layout().class(zone), expected);
            }
        }
    }

    #[test]
    fn load_of_each_zone_fits_its_capacity(mut zones in any_zones()) {
        for capacity in zones.values_mut() {
            capacity.registered_weight = capacity.routable_weight.max(1);
            if capacity.routable_instances < MIN_LOCAL_INSTANCES {
                capacity.streams = 0;
            }
        }
        let streams: u64 = zones.values().map(|capacity| capacity.streams).sum();
        let routable: u64 = zones.values().map(|capacity| capacity.routable_weight).sum();
        prop_assume!(streams >= MIN_KNOWN_STREAMS);
        let targets = ZoneTargets::new(&zones);
        let mut load = BTreeMap::<ZoneName, f64>::new();
        for (client, capacity) in zones.iter().filter(|(_, capacity)| capacity.streams > 0) {
            let shares = targets.of(client).unwrap().shares;
            prop_assert!((shares.values().sum::<f64>() - 1.0).abs() < 1e-9);
            for (zone, share) in shares {
                *load.entry(zone).or_default() += share * ratio(capacity.streams, streams);
            }
        }
        for (zone, load) in load {
            let capacity = ratio(zones[&zone].routable_weight, routable);
            prop_assert!(load <= capacity + 1e-6, "{:?}: {} of {}", zone, load, capacity);
        }
    }

    #[test]
    fn local_share_rises_with_capacity_and_falls_with_clients(mut zones in any_zones(), more in 1..200_u64) {
        let share = |zones: &Zones, client: &ZoneName| ZoneTargets::new(zones).of(client).map(|found| found.local.share);
        let known: u64 = zones.values().map(|capacity| capacity.streams).sum();
        prop_assume!(known >= MIN_KNOWN_STREAMS);
        let client = zones.keys().next().unwrap().clone();
        let Ok(before) = share(&zones, &client) else { return Ok(()) };
        let entry = zones.get_mut(&client).unwrap();
        entry.routable_weight += more;
        entry.registered_weight += more;
        let with_capacity = share(&zones, &client).unwrap();
        prop_assert!(with_capacity >= before - 1e-9);
        let entry = zones.get_mut(&client).unwrap();
        prop_assume!(entry.streams > 0);
        entry.streams += more;
        prop_assert!(share(&zones, &client).unwrap() <= with_capacity + 1e-9);
    }

    #[test]
    fn layout_does_not_change_while_the_spill_stays_in_the_band(
        spills in any::<bool>(),
        wobbles in vec(951..980_u64, 1..200),
    ) {
        let zones = |local: u64| Zones::from([zone("r", "z1", local, 1_000, 500), zone("r", "z2", 2_000 - local, 2_000, 500)]);
        let mut state = ZoneLayoutState::new(&name("z1"), &ZoneTargets::new(&zones(if spills { 940 } else { 1_000 })));
        let before = state.layout().clone();
        prop_assert_eq!(before.spill() > 0, spills);
        for (second, local) in wobbles.into_iter().enumerate() {
            let now = Duration::from_secs(second as u64 * 100);
            prop_assert!(!state.update(&ZoneTargets::new(&zones(local)), now, true), "{}", local);
        }
        prop_assert_eq!(state.layout(), &before);
    }

    #[test]
    fn layout_after_any_changes_has_shares_for_routable_zones_only(steps in vec((any_zones(), any::<bool>()), 1..20)) {
        let client = ZoneName::new("r0", "z0");
        let mut state = ZoneLayoutState::new(&client, &ZoneTargets::new(&steps[0].0));
        for (second, (zones, may_change)) in steps.iter().enumerate() {
            let before = state.layout().clone();
            let changed = state.update(&ZoneTargets::new(zones), Duration::from_secs(second as u64), *may_change);
            let layout = state.layout();
            prop_assert_eq!(changed, layout.shares != before.shares, "{:?}", layout);
            let routable: BTreeSet<_> = zones.iter().filter(|(_, zone)| zone.routable_weight > 0).map(|(name, _)| &**name).collect();
            prop_assert!(layout.shares.keys().all(|zone| routable.contains(zone)), "{:?}", layout);
            prop_assert!(layout.is_by_capacity() || layout.shares.values().sum::<u32>() == WHOLE);
        }
    }
}
