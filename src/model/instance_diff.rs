//! Comparison of two states of one instance.

use super::{Address, Conditions, ConsulRegistration, Instance};

/// Parts in which two states of one instance differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one for each part of an instance")]
pub struct InstanceDiff {
    /// Addresses.
    pub addresses: bool,
    /// Addresses that the registration itself names: all but a host that the instance takes over from its node.
    pub own_addresses: bool,
    /// Tags.
    pub tags: bool,
    /// Metadata.
    pub metadata: bool,
    /// Weight.
    pub weight: bool,
    /// Locality.
    pub locality: bool,
    /// Checks: their definitions, their status or their revisions.
    pub checks: bool,
    /// Status.
    pub status: bool,
    /// Drain of an instance that was registered through Consul's API, which shows it as a check of its own.
    pub draining: bool,
    /// Conditions that come from the node.
    pub node_conditions: bool,
    /// Any field of the Consul registration.
    pub consul_registration: bool,
    /// A field of the Consul registration that the registration itself describes.
    pub consul_description: bool,
    /// The registration: one of the states belongs to a new one.
    pub registration: bool,
}

impl InstanceDiff {
    /// Returns whether readers see a difference.
    #[must_use]
    pub fn is_visible(self) -> bool {
        let Self {
            addresses,
            own_addresses: _, // a part of the addresses
            tags,
            metadata,
            weight,
            locality,
            checks,
            status,
            draining,
            node_conditions,
            consul_registration,
            consul_description: _, // a part of the Consul registration
            registration,
        } = self;
        addresses
            || (tags || metadata || weight || locality)
            || (checks || status || draining || node_conditions)
            || (consul_registration || registration)
    }

    /// Returns whether the instance's own description differs. Check results, drains and the node's state are not part
    /// of it.
    #[must_use]
    pub fn changes_description(self) -> bool {
        let Self {
            addresses: _, // may be those of the node
            own_addresses,
            tags,
            metadata,
            weight,
            locality,
            checks: _,
            status: _,
            draining: _,
            node_conditions: _,
            consul_registration: _, // has the reason for maintenance, too
            consul_description,
            registration: _, // a new registration may have the same description
        } = self;
        own_addresses || tags || metadata || weight || locality || consul_description
    }
}

impl Instance {
    /// Compares this state of an instance with a later one.
    ///
    /// This is the only comparison by parts. It destructures the structs field by field, so that a new field does not
    /// compile until it is handled here.
    #[must_use]
    pub fn diff(&self, after: &Self) -> InstanceDiff {
        let Self {
            service: _, // both are states of one instance
            id: _,
            addresses,
            tags,
            metadata,
            weight,
            locality,
            checks,
            conditions,
            consul_registration,
            registered_at: _, // set with registered_revision
            registered_revision,
            revision: _, // set where this comparison finds a visible difference
        } = self;
        let registrations = (consul_registration.as_deref(), after.consul_registration.as_deref());
        let of_node = registrations.0.is_some_and(ConsulRegistration::is_addressed_by_node)
            && registrations.1.is_some_and(ConsulRegistration::is_addressed_by_node);
        let conditions = conditions.diff(after.conditions);
        InstanceDiff {
            addresses: *addresses != after.addresses,
            own_addresses: !same_own_addresses(addresses, &after.addresses, of_node),
            tags: *tags != after.tags,
            metadata: *metadata != after.metadata,
            weight: *weight != after.weight,
            locality: *locality != after.locality,
            checks: checks.shown() != after.checks.shown(),
            status: self.status() != after.status(),
            draining: conditions.draining && consul_registration.is_some(),
            node_conditions: conditions.node,
            consul_registration: *consul_registration != after.consul_registration,
            consul_description: match registrations {
                (Some(before), Some(after)) => !before.same_description(after),
                (None, None) => false,
                (Some(_), None) | (None, Some(_)) => true,
            },
            registration: *registered_revision != after.registered_revision,
        }
    }
}

/// Parts in which two [`Conditions`] differ, as far as readers see them apart from the status.
#[derive(Debug, Clone, Copy)]
struct ConditionsDiff {
    draining: bool,
    node: bool,
}

impl Conditions {
    fn diff(self, after: Self) -> ConditionsDiff {
        let Self {
            starting: _, // seen in the status
            self_draining,
            operator_draining,
            suspect: _,     // seen in the status
            was_healthy: _, // seen in the status
            node_drained,
            node_critical,
            node_warning,
        } = self;
        ConditionsDiff {
            draining: (self_draining || operator_draining) != (after.self_draining || after.operator_draining),
            node: (node_drained, node_critical, node_warning)
                != (after.node_drained, after.node_critical, after.node_warning),
        }
    }
}

/// Compares addresses. `of_node`: in both states the first host is that of the node, and changes with it.
fn same_own_addresses(before: &[Address], after: &[Address], of_node: bool) -> bool {
    let (Some((first, rest)), Some((first_after, rest_after))) = (before.split_first(), after.split_first()) else {
        return before == after;
    };
    let Address { host, port, name } = first;
    (of_node || *host == first_after.host) && (port, name, rest) == (&first_after.port, &first_after.name, rest_after)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        model::{
            Check, CheckDefinition, CheckId, CheckStatus, InstanceChecks, Locality, Metadata, Probe, Revision, Tags,
            UnixMillis, Weight,
        },
        registry::test_support::entry,
    };

    /// Instance that was registered through Consul's API.
    fn consul_instance() -> Instance {
        let mut instance = entry("web", "a", 1).instance.clone();
        let registration = ConsulRegistration { address: "10.0.0.1".into(), ..ConsulRegistration::default() };
        instance.consul_registration = Some(registration.into());
        instance
    }

    fn edit_registration(instance: &mut Instance, edit: impl FnOnce(&mut ConsulRegistration)) {
        edit(Arc::make_mut(instance.consul_registration.as_mut().unwrap()));
    }

    type Edit = fn(&mut Instance);

    #[test]
    fn each_field_is_visible_and_part_of_the_description_where_it_should_be() {
        let edits: [(&str, Edit, bool, bool); 19] = [
            ("address", |instance| instance.addresses[0].port = 81, true, true),
            ("tags", |instance| instance.tags = Tags::parse(&["v2"]).unwrap(), true, true),
            (
                "metadata",
                |instance| {
                    let metadata = std::collections::BTreeMap::from([("k".to_owned(), "v".to_owned())]);
                    instance.metadata = Metadata::parse(metadata.iter()).unwrap();
                },
                true,
                true,
            ),
            ("weight", |instance| instance.weight = Weight::parse(9).unwrap(), true, true),
            ("locality", |instance| instance.locality = Locality::parse("eu", "", "").unwrap(), true, true),
            (
                "checks",
                |instance| {
                    let definition = CheckDefinition::new(CheckId::parse("c").unwrap(), "c", Probe::Ttl);
                    let check = Check::new(definition.into(), CheckStatus::Passing);
                    instance.checks = InstanceChecks::new(vec![check]).unwrap();
                },
                true,
                false,
            ),
            ("starting", |instance| instance.conditions.starting = true, true, false),
            ("drain by itself", |instance| instance.conditions.self_draining = true, true, false),
            ("drain by operator", |instance| instance.conditions.operator_draining = true, true, false),
            ("suspect", |instance| instance.conditions.suspect = true, true, false),
            ("node drained", |instance| instance.conditions.node_drained = true, true, false),
            ("node critical", |instance| instance.conditions.node_critical = true, true, false),
            ("node warning", |instance| instance.conditions.node_warning = true, true, false),
            ("was healthy", |instance| instance.conditions.was_healthy = true, false, false),
            ("kind", |instance| edit_registration(instance, |it| it.kind = "proxy".into()), true, true),
            ("maintenance", |instance| edit_registration(instance, |it| it.maintenance = "disk".into()), true, false),
            ("no registration", |instance| instance.consul_registration = None, true, true),
            ("new registration", |instance| instance.registered_revision = Revision(9), true, false),
            (
                "stamps",
                |instance| (instance.revision, instance.registered_at) = (Revision(9), UnixMillis(9)),
                false,
                false,
            ),
        ];
        let before = consul_instance();
        assert_eq!(before.diff(&before), InstanceDiff::default());
        for (field, edit, visible, described) in edits {
            let mut after = before.clone();
            edit(&mut after);
            for diff in [before.diff(&after), after.diff(&before)] {
                assert_eq!((diff.is_visible(), diff.changes_description()), (visible, described), "{field}: {diff:?}");
            }
        }
    }

    #[test]
    fn host_of_node_is_visible_and_not_part_of_the_description() {
        let mut before = consul_instance();
        edit_registration(&mut before, |registration| registration.address = "".into());
        let mut after = before.clone();
        after.addresses[0].host = "10.9.9.9".into();
        assert!(before.diff(&after).is_visible() && !before.diff(&after).changes_description());
        edit_registration(&mut after, |registration| registration.address = "10.9.9.9".into());
        assert!(before.diff(&after).changes_description(), "named by the registration");
    }

    #[test]
    fn second_drain_is_visible_only_without_the_first() {
        let mut before = consul_instance();
        before.conditions.operator_draining = true;
        let mut after = before.clone();
        after.conditions.self_draining = true;
        assert!(!before.diff(&after).is_visible(), "the instance already drains");
        before.conditions = Conditions { node_drained: true, ..Conditions::default() };
        after.conditions = Conditions { node_drained: true, operator_draining: true, ..Conditions::default() };
        assert!(before.diff(&after).is_visible(), "Consul shows it as a check, though the node is drained already");
        (before.consul_registration, after.consul_registration) = (None, None);
        assert!(!before.diff(&after).is_visible(), "readers of the native API see only the status");
    }
}
