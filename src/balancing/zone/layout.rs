//! Shares as clients get them, and when they change.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{LocalShare, NoPreferenceReason, ZoneName, ZonePreference, ZoneTargets};

/// Sum of the shares of all zones.
pub(super) const WHOLE: u32 = 10_000;
/// Spill at which clients begin to call other zones.
const SPILL_BEGINS: f64 = 0.05;
/// Spill below which they cease to.
const SPILL_ENDS: f64 = 0.02;
/// Time for which the spill must be below that, and for which a zone without preference must be able to have one.
const CALM: Duration = Duration::from_mins(1);
/// Minimum change of a share that clients get, in ten-thousandths.
const MIN_CHANGE: u32 = 500;

/// Class of a zone for the clients of another. Clients call the instances of a class if no better class has routable ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ZoneClass {
    /// The zones that share the calls.
    Preferred,
    /// Other zones of the client's region.
    SameRegion,
    /// Zones of other regions.
    OtherRegion,
}

/// Layout of the zones of a service or a subset for the clients of one zone.
#[derive(Debug, Clone, PartialEq)]
pub struct ZoneLayout {
    /// Zone of the clients.
    pub client: ZoneName,
    /// Local share at the time of the layout, or the reason for which all zones share the calls by capacity.
    pub preference: Result<LocalShare, NoPreferenceReason>,
    /// Share of each preferred zone in ten-thousandths, at least 1. Their sum is 10,000. Empty: all zones share the calls by capacity.
    pub shares: BTreeMap<ZoneName, u32>,
}

impl ZoneLayout {
    /// Returns the layout in which all zones share the calls by capacity.
    #[must_use]
    pub fn by_capacity(client: &ZoneName, reason: NoPreferenceReason) -> Self {
        Self { client: client.clone(), preference: Err(reason), shares: BTreeMap::new() }
    }

    /// Returns whether all zones share the calls by capacity.
    #[must_use]
    pub fn is_by_capacity(&self) -> bool {
        self.shares.is_empty()
    }

    /// Returns the class of a zone.
    #[must_use]
    pub fn class(&self, zone: &ZoneName) -> ZoneClass {
        if self.is_by_capacity() || self.shares.contains_key(zone) {
            ZoneClass::Preferred
        } else if zone.region == self.client.region {
            ZoneClass::SameRegion
        } else {
            ZoneClass::OtherRegion
        }
    }

    /// Share of the calls that go to other zones, in ten-thousandths.
    #[must_use]
    pub fn spill(&self) -> u32 {
        self.shares.iter().filter(|(zone, _)| **zone != self.client).map(|(_, share)| share).sum()
    }
}

/// State of a layout with regard to its next change, if the numbers stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZoneLayoutPhase {
    /// All zones share the calls by capacity.
    ByCapacity,
    /// All zones share the calls by capacity. The clients begin to prefer their zone after this time.
    PreferencePending(Duration),
    /// All calls stay in the zone until the spill would be 5 %.
    Local,
    /// Calls go to other zones, until the spill has been below 2 % for 60 seconds.
    Spilling,
    /// Calls go to other zones, but the spill would be below 2 %. It ends after this time.
    SpillEnding(Duration),
}

/// Layout that the clients of a zone have, with the memory that keeps it from changing back and forth.
///
/// Spill begins at 5 % and ends once it was below 2 % for 60 seconds. While it lasts, a zone that gets calls keeps getting some, because
/// clients would reconnect, and the shares change only if one does by 5 points.
#[derive(Debug, Clone)]
pub struct ZoneLayoutState {
    layout: Arc<ZoneLayout>,
    /// Zones with routable instances at the latest update.
    routable: Vec<ZoneName>,
    spills: bool,
    /// Time since which the spill would be below 2 %.
    calm_since: Option<Duration>,
    /// Time since which the clients could prefer their zone, but do not.
    preferable_since: Option<Duration>,
    /// The zone of the clients has been empty since they last preferred it.
    was_empty: bool,
}

impl ZoneLayoutState {
    /// Creates the layout for new clients, by the present numbers.
    #[must_use]
    pub fn new(client: &ZoneName, targets: &ZoneTargets<'_>) -> Self {
        let mut state = Self {
            layout: Arc::new(ZoneLayout::by_capacity(client, NoPreferenceReason::FewLocalInstances)),
            routable: targets.routable_zones().cloned().collect(),
            spills: false,
            calm_since: None,
            preferable_since: None,
            was_empty: !targets.routable_zones().any(|zone| zone == client),
        };
        match targets.of(client) {
            Ok(preference) => state.prefer(&preference),
            Err(reason) => state.layout = Arc::new(ZoneLayout::by_capacity(client, reason)),
        }
        state
    }

    /// Present layout.
    #[must_use]
    pub fn layout(&self) -> &Arc<ZoneLayout> {
        &self.layout
    }

    /// Returns the state with regard to the next change.
    #[must_use]
    pub fn phase(&self, now: Duration) -> ZoneLayoutPhase {
        let remaining = |since: Duration| CALM.saturating_sub(now.saturating_sub(since));
        if self.layout.is_by_capacity() {
            let since = self.preferable_since.map(remaining);
            return since.map_or(ZoneLayoutPhase::ByCapacity, ZoneLayoutPhase::PreferencePending);
        }
        if !self.spills {
            return ZoneLayoutPhase::Local;
        }
        self.calm_since.map(remaining).map_or(ZoneLayoutPhase::Spilling, ZoneLayoutPhase::SpillEnding)
    }

    /// Returns whether the zones with routable instances are others than at the latest update. Then the layout must not wait.
    #[must_use]
    pub fn is_urgent(&self, targets: &ZoneTargets<'_>) -> bool {
        !targets.routable_zones().eq(&self.routable)
    }

    /// Brings the layout up to date and returns whether it has changed. Unless a zone has become empty or has returned, it changes only
    /// if `may_change`.
    pub fn update(&mut self, targets: &ZoneTargets<'_>, now: Duration, may_change: bool) -> bool {
        let client = self.layout.client.clone();
        let is_urgent = self.is_urgent(targets);
        if is_urgent {
            self.routable = targets.routable_zones().cloned().collect();
            self.was_empty |= self.routable.binary_search(&client).is_err();
        }
        let may_change = may_change || is_urgent;
        match targets.of(&client) {
            Err(reason) => {
                (self.calm_since, self.preferable_since) = (None, None);
                if self.layout.is_by_capacity() || !may_change {
                    return false;
                }
                self.layout = Arc::new(ZoneLayout::by_capacity(&client, reason));
                true
            }
            Ok(preference) if self.layout.is_by_capacity() => {
                let since = *self.preferable_since.get_or_insert(now);
                let has_returned = std::mem::take(&mut self.was_empty);
                let changes = has_returned || may_change && now.saturating_sub(since) >= CALM;
                if changes {
                    self.prefer(&preference);
                }
                changes
            }
            Ok(preference) => self.adjust(&preference, now, may_change),
        }
    }

    /// Begins to prefer the zone of the clients.
    fn prefer(&mut self, preference: &ZonePreference) {
        self.spills = spill(preference, &self.layout.client) >= SPILL_BEGINS;
        (self.calm_since, self.preferable_since, self.was_empty) = (None, None, false);
        self.layout = Arc::new(self.preferring(preference, self.spills));
    }

    /// Adjusts the shares of clients that prefer their zone.
    fn adjust(&mut self, preference: &ZonePreference, now: Duration, may_change: bool) -> bool {
        let spill = spill(preference, &self.layout.client);
        if spill >= SPILL_ENDS {
            self.calm_since = None;
        }
        let spills = if self.spills {
            spill >= SPILL_ENDS || now.saturating_sub(*self.calm_since.get_or_insert(now)) < CALM
        } else {
            spill >= SPILL_BEGINS
        };
        let next = self.preferring(preference, spills);
        let has_moved = |(zone, share): (&ZoneName, &u32)| {
            // A zone without routable instances is not among the next ones.
            next.shares.get(zone).is_none_or(|next| next.abs_diff(*share) >= MIN_CHANGE)
        };
        let has_grown =
            |(zone, share): (&ZoneName, &u32)| !self.layout.shares.contains_key(zone) && *share >= MIN_CHANGE;
        let changes =
            spills != self.spills || self.layout.shares.iter().any(has_moved) || next.shares.iter().any(has_grown);
        if !changes || !may_change {
            return false;
        }
        if spills != self.spills {
            self.calm_since = None;
        }
        self.spills = spills;
        self.layout = Arc::new(next);
        true
    }

    /// Returns the layout with the shares of a preference. Zones that get calls keep getting some while there is spill.
    fn preferring(&self, preference: &ZonePreference, spills: bool) -> ZoneLayout {
        let client = &self.layout.client;
        let mut shares = if spills { preference.shares.clone() } else { BTreeMap::from([(client.clone(), 1.0)]) };
        if spills {
            let kept = self.layout.shares.keys().filter(|zone| self.routable.binary_search(zone).is_ok());
            for zone in kept {
                shares.entry(zone.clone()).or_insert(0.0);
            }
        }
        ZoneLayout { client: client.clone(), preference: Ok(preference.local), shares: ten_thousandths(shares) }
    }
}

/// Part of the calls that go to other zones.
fn spill(preference: &ZonePreference, client: &ZoneName) -> f64 {
    1.0 - preference.shares.get(client).copied().unwrap_or_default()
}

/// Scales shares to a sum of 10,000, each at least 1.
fn ten_thousandths(shares: BTreeMap<ZoneName, f64>) -> BTreeMap<ZoneName, u32> {
    let mut scaled: BTreeMap<_, _> = shares.into_iter().map(|(zone, share)| (zone, scale(share))).collect();
    let sum: u32 = scaled.values().sum();
    if let Some(largest) = scaled.values_mut().max() {
        *largest = (*largest + WHOLE).saturating_sub(sum).max(1);
    }
    scaled
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share is at least 0 and at most 1")]
fn scale(share: f64) -> u32 {
    ((share * f64::from(WHOLE)).round() as u32).clamp(1, WHOLE)
}
