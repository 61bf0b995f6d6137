//! Choice of the instances that a channel connects to.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use http::uri::Authority;

use crate::{
    client::balance::Proximity,
    pb::callboard::v1::{Instance, InstanceStatus, Locality},
};

/// Chooses instances up to a number. Which ones depends on their ids and on a random number of the channel, so that clients
/// choose different ones, and that another instance changes little.
#[derive(Debug)]
pub(super) struct InstanceSelection {
    max_connections: usize,
    seed: u64,
}

impl InstanceSelection {
    pub(super) fn new(max_connections: usize, seed: u64) -> Self {
        Self { max_connections: max_connections.max(1), seed }
    }

    /// Returns the instances to connect to: the nearest, if a locality is preferred. Those that fail are replaced by others,
    /// but stay selected, so that they are tried again; up to as many as are wanted in all.
    pub(super) fn select<'a>(
        &self,
        callable: impl Iterator<Item = &'a Arc<Instance>>,
        locality: Option<&Locality>,
        failing: impl Fn(&Instance) -> bool,
    ) -> Vec<&'a Arc<Instance>> {
        let mut callable: Vec<_> = callable.collect();
        if callable.len() <= self.max_connections {
            return callable;
        }
        callable.sort_by_cached_key(|instance| {
            let proximity = locality.map(|client| Proximity::between(client, instance.locality.as_ref()));
            (proximity, self.rank(&instance.id))
        });
        let mut working = 0;
        callable.truncate(2 * self.max_connections);
        let wanted = callable.into_iter().take_while(|instance| {
            let more = working < self.max_connections;
            working += usize::from(!failing(instance));
            more
        });
        wanted.collect()
    }

    fn rank(&self, id: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, id).hash(&mut hasher);
        hasher.finish()
    }
}

/// Returns whether clients should call an instance.
pub(super) fn is_callable(instance: &Instance) -> bool {
    match instance.status() {
        InstanceStatus::Serving | InstanceStatus::Suspect => true,
        InstanceStatus::Unspecified
        | InstanceStatus::Starting
        | InstanceStatus::Draining
        | InstanceStatus::Unhealthy => false,
    }
}

/// Returns the host, the port and the authority of an instance: those of the address with this name, or of the primary one.
/// `None`: the instance has no such address.
pub(super) fn endpoint(instance: &Instance, name: Option<&str>) -> Option<(String, u16, Authority)> {
    let address = match name {
        Some(name) => instance.addresses.iter().find(|address| address.name == name)?,
        None => instance.addresses.first()?,
    };
    let port = u16::try_from(address.port).ok()?;
    let is_ipv6 = address.host.contains(':') && !address.host.starts_with('[');
    let authority = if is_ipv6 { format!("[{}]:{port}", address.host) } else { format!("{}:{port}", address.host) };
    Some((address.host.clone(), port, authority.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::callboard::v1::Address;

    fn instances(count: usize) -> Vec<Arc<Instance>> {
        let instance = |at| {
            let zone = if at % 4 == 0 { "near" } else { "far" };
            let locality = Some(Locality { zone: zone.to_owned(), ..Locality::default() });
            Arc::new(Instance { id: format!("i-{at}"), locality, ..Instance::default() })
        };
        (0..count).map(instance).collect()
    }

    #[test]
    fn selection_is_bounded_and_changes_little() {
        let selection = InstanceSelection::new(10, 1);
        let all = instances(100);
        let before = selection.select(all.iter(), None, |_| false);
        assert_eq!(before.len(), 10);
        let gone = before[0].id.clone();
        let after = selection.select(all.iter().filter(|instance| instance.id != gone), None, |_| false);
        let kept = after.iter().filter(|instance| before.contains(instance)).count();
        assert_eq!((after.len(), kept), (10, 9));
        let other = InstanceSelection::new(10, 2).select(all.iter(), None, |_| false);
        assert_ne!(before, other, "another channel chooses others");
    }

    #[test]
    fn failing_instances_are_replaced_and_tried_again() {
        let selection = InstanceSelection::new(10, 1);
        let all = instances(100);
        let first = selection.select(all.iter(), None, |_| false);
        let failing: Vec<_> = first[..3].iter().map(|instance| instance.id.clone()).collect();
        let selected = selection.select(all.iter(), None, |instance| failing.contains(&instance.id));
        assert_eq!(selected.len(), 13);
        assert_eq!(selection.select(all.iter(), None, |_| true).len(), 20);
    }

    #[test]
    fn near_instances_are_selected_first() {
        let near = Locality { zone: "near".to_owned(), ..Locality::default() };
        let all = instances(100);
        let selected = InstanceSelection::new(30, 1).select(all.iter(), Some(&near), |_| false);
        let in_zone = selected.iter().filter(|instance| instance.locality.as_ref() == Some(&near)).count();
        assert_eq!((selected.len(), in_zone), (30, 25));
    }

    #[test]
    fn endpoint_is_the_primary_or_the_named_address() {
        let address = |host: &str, port, name: &str| Address { host: host.to_owned(), port, name: name.to_owned() };
        let addresses = vec![address("::1", 80, "http"), address("10.0.0.1", 81, "grpc")];
        let instance = Instance { addresses, ..Instance::default() };
        let authority = |name| endpoint(&instance, name).map(|(_, _, authority)| authority.to_string());
        assert_eq!(authority(None).unwrap(), "[::1]:80");
        assert_eq!(authority(Some("grpc")).unwrap(), "10.0.0.1:81");
        assert_eq!(authority(Some("other")), None);
    }
}
