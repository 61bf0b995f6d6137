//! Every accepted value survives storing, loading, export and import.

use std::collections::BTreeSet;

use proptest::{collection::vec, option, strategy::ValueTree as _, test_runner::TestRunner};

use super::*;
use crate::{
    engine::{disk::export, record::test_values as values},
    model::ConsulRegistration,
    registry::{InstanceDescription, NewCheck, Register, RegisterWithoutLease},
};

/// Strategy of instances and the states of their checks.
fn contents_of_a_store() -> BoxedStrategy<LoadedRecords> {
    let with_states = values::stored().prop_flat_map(|stored| {
        let one = |check: &crate::model::Check| {
            let instance = &stored.instance;
            let key = (instance.service.clone(), instance.id.clone(), check.id().clone());
            option::of((Just(key), values::saved(check.created)))
        };
        let states: Vec<_> = stored.instance.checks.iter().map(one).collect();
        (Just(stored), states)
    });
    (vec(with_states, 0..5), values::policies())
        .prop_map(|(all, policies)| {
            let newest = policies.iter().flat_map(|stored| &stored.revisions).map(|revision| revision.revision).max();
            let revision = newest.unwrap_or_default();
            let mut found = LoadedRecords { policies, revision, ..LoadedRecords::default() };
            let (mut keys, mut leases) = (BTreeSet::new(), BTreeSet::new());
            for (stored, states) in all {
                let StoredInstance { instance, lease } = &stored;
                let new = keys.insert((instance.service.clone(), instance.id.clone()));
                if new && lease.is_none_or(|lease| leases.insert(lease.id.0)) {
                    found.revision = found.revision.max(instance.revision).max(instance.registered_revision);
                    found.check_states.extend(states.into_iter().flatten());
                    found.instances.push(stored);
                }
            }
            let key = |stored: &StoredInstance| (stored.instance.service.clone(), stored.instance.id.clone());
            found.instances.sort_by_key(key);
            found.check_states.sort_by(|one, other| one.0.cmp(&other.0));
            found
        })
        .boxed()
}

fn exported(found: &LoadedRecords) -> LoadedRecords {
    let mut lines = Vec::new();
    export::write(found, &mut lines, || {}).unwrap();
    export::read(&*lines, |_| {}).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&lines)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_field_survives_store_load_export_and_import(found in contents_of_a_store()) {
        let directory = TempDir::new().unwrap();
        Store::create(directory.path(), StartPoint { revision: found.revision, ..START }, &found).unwrap();
        prop_assert_eq!(&Store::read(directory.path()).unwrap(), &found);
        prop_assert_eq!(&exported(&found), &found);
        let elsewhere = TempDir::new().unwrap();
        import(elsewhere.path(), &exported(&found), at(0)).unwrap();
        let imported = Store::read(elsewhere.path()).unwrap();
        prop_assert_eq!(
            (imported.instances, imported.check_states, imported.policies),
            (found.instances, found.check_states, found.policies)
        );
    }
}

#[test]
fn values_include_every_kind_of_probe() {
    let mut runner = TestRunner::deterministic();
    let mut probe = || values::kind(&values::definition().new_tree(&mut runner).unwrap().current().probe);
    let kinds: BTreeSet<_> = (0..200).map(|_| probe()).collect();
    assert_eq!(kinds.len(), 5, "{kinds:?}");
}

/// Strategy of commands as protocols make them, for one of a few instances.
fn accepted() -> BoxedStrategy<Command> {
    let target = || (Just("web"), prop::sample::select(vec!["a", "b", "c"]));
    let description = || {
        let parts = (values::addresses(), values::tags(), values::metadata(), values::weight(), values::locality());
        parts.prop_map(|(addresses, tags, metadata, weight, locality)| InstanceDescription {
            addresses,
            tags,
            metadata,
            weight,
            locality,
        })
    };
    let check = || {
        let verdict =
            prop::sample::select(vec![crate::model::CheckStatus::Passing, crate::model::CheckStatus::Critical]);
        (values::definition(), verdict)
            .prop_map(|(definition, verdict)| NewCheck { definition: definition.into(), status: verdict })
    };
    let checks = || vec(check(), 0..3);
    let register = (target(), description(), checks(), values::terms(), values::boot(), any::<(bool, bool, u128)>());
    let register =
        register.prop_map(|((service, id), description, checks, terms, boot, (starting, replace, lease))| {
            Command::Register(Register {
                service: name(service),
                id: crate::registry::test_support::id(id),
                boot,
                description,
                checks,
                terms,
                starting,
                replace,
                lease: crate::model::LeaseId(lease),
            })
        });
    let without_lease = (target(), description(), checks(), values::registration(), any::<bool>());
    let without_lease =
        without_lease.prop_map(|((service, id), description, checks, consul_registration, replace_checks)| {
            let consul_registration = ConsulRegistration { node: "".into(), id: id.into(), ..consul_registration };
            let (service, id) = (name(service), crate::registry::test_support::id(id));
            Command::RegisterWithoutLease(Box::new(RegisterWithoutLease {
                service,
                id,
                description,
                consul_registration,
                checks,
                replace_checks,
            }))
        });
    let patch =
        (option::of(values::tags()), option::of(values::metadata()), option::weighted(0.8, prop::bool::weighted(0.8)));
    let reason = prop_oneof!["\\PC{0,20}", Just("two\nlines\0".to_owned()), Just("r".repeat(512))];
    let update = (target(), patch, reason).prop_map(|((service, id), (tags, metadata, draining), reason)| {
        let reason = Some(reason.into());
        update(service, id, Patch { weight: None, draining, starting: None, tags, metadata, reason })
    });
    let add = (target(), check()).prop_map(|((service, id), check)| Command::AddCheck {
        service: name(service),
        id: crate::registry::test_support::id(id),
        check,
    });
    prop_oneof![2 => register.boxed(), 4 => without_lease.boxed(), 4 => update.boxed(), 1 => add.boxed()].boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn accepted_command_survives_a_restart(script in vec(accepted(), 1..20)) {
        let directory = TempDir::new().unwrap();
        let disk = open(directory.path(), Durability::Durable);
        for command in script {
            // Some commands are rejected in the present state.
            let _ = submit(&disk, command);
        }
        let before = contents(&disk);
        disk.close();
        drop(disk);
        let found = Store::read(directory.path()).unwrap();
        prop_assert_eq!(&found.unreadable, &[]);
        prop_assert_eq!(&exported(&found), &found);
        let again = open(directory.path(), Durability::Durable);
        prop_assert_eq!(contents(&again), before);
        again.close();
    }
}
