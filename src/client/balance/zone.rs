//! Preference for instances in the client's zone.

use crate::pb::callboard::v1::Locality;

/// Number of instances that the client's zone must have for it to be preferred.
const MIN_LOCAL_INSTANCES: usize = 2;
/// Factor by which the instances of a zone can take more calls than their share, as Envoy's overprovisioning factor.
const OVERPROVISIONING: f64 = 1.4;

/// Distance between the client and an instance, from near to far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::client) enum Proximity {
    /// The same zone of the same region.
    Zone,
    /// Another zone of the same region.
    Region,
    /// Another region, or an unknown one.
    Other,
}

impl Proximity {
    /// Number of values.
    pub(super) const COUNT: usize = 3;

    /// Returns the distance between two localities. An empty region is a region of its own.
    pub(in crate::client) fn between(client: &Locality, instance: Option<&Locality>) -> Self {
        match instance {
            Some(instance) if client.region == instance.region => {
                if client.zone == instance.zone {
                    Self::Zone
                } else {
                    Self::Region
                }
            }
            Some(_) | None => Self::Other,
        }
    }
}

/// Capacity of the client's zone, and number of instances in it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(in crate::client) struct LocalCapacity {
    /// Sum of the weights of the zone's instances that are registered.
    pub(in crate::client) registered: f64,
    /// Sum of the weights of those that can be called.
    pub(in crate::client) callable: f64,
    /// Number of those that can be called.
    pub(in crate::client) callable_count: usize,
}

impl LocalCapacity {
    /// Returns the part of the calls that stays in the zone: `min(1, 1.4 × callable ÷ registered)`. `None`: too few instances
    /// for a preference, so that calls go to all zones by weight.
    pub(super) fn local_share(&self) -> Option<f64> {
        if self.callable_count < MIN_LOCAL_INSTANCES || self.registered <= 0.0 {
            return None;
        }
        Some((OVERPROVISIONING * self.callable / self.registered).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locality(region: &str, zone: &str) -> Locality {
        Locality { region: region.to_owned(), zone: zone.to_owned(), sub_zone: String::new() }
    }

    #[test]
    fn proximity_compares_region_and_zone() {
        let client = locality("eu", "eu-1");
        let to = |region, zone| Proximity::between(&client, Some(&locality(region, zone)));
        assert_eq!(to("eu", "eu-1"), Proximity::Zone);
        assert_eq!(to("eu", "eu-2"), Proximity::Region);
        assert_eq!(to("us", "eu-1"), Proximity::Other);
        assert_eq!(Proximity::between(&client, None), Proximity::Other);
    }

    #[test]
    fn zone_keeps_all_calls_until_it_has_lost_more_than_it_can_make_up_for() {
        let share = |callable: u8, registered: u8| {
            let capacity = LocalCapacity {
                registered: registered.into(),
                callable: callable.into(),
                callable_count: callable.into(),
            };
            capacity.local_share()
        };
        assert_eq!(share(4, 4), Some(1.0));
        assert_eq!(share(3, 4), Some(1.0));
        assert_eq!(share(2, 4), Some(0.7));
        assert_eq!(share(1, 4), None);
        assert_eq!(share(0, 0), None);
    }
}
