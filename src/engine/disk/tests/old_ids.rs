//! Stores with ids of the form before format 3: `node/id`, and the names of nodes.

use redb::{Database, TableDefinition};

use super::*;
use crate::{
    engine::disk::export,
    model::{ConsulRegistration, InstanceId, ServiceName},
};

/// Record of the old form, with node and id of its Consul registration.
fn old(service: &str, stored_id: &str, (node, id): (&str, &str), revision: u64) -> StoredInstance {
    let consul_registration = ConsulRegistration { node: node.into(), id: id.into(), ..ConsulRegistration::default() };
    let instance = Instance {
        service: ServiceName::parse_stored(service).unwrap(),
        id: InstanceId::parse_any(stored_id).unwrap(),
        consul_registration: Some(consul_registration.into()),
        registered_revision: Revision(revision),
        revision: Revision(revision),
        ..crate::registry::test_support::entry("web", "a", 1).instance.clone()
    };
    StoredInstance { instance, lease: None }
}

fn old_instances() -> Vec<StoredInstance> {
    vec![
        old("web", "n2/web", ("n2", "web"), 1),
        old("web", "plain", ("", "plain"), 2),
        old("web", "@odd", ("", "@odd"), 3),
        old("web", "@n2/web", ("", "@n2/web"), 4),
        old("web", "Edge/x", ("Edge", "x"), 5),
        old("web", "edge/x", ("edge", "x"), 6),
        old("_nodes", "edge", ("", "a-uuid"), 8),
        old("_nodes", "Edge", ("", ""), 7),
        old("_nodes", "_agent", ("", ""), 9),
    ]
}

/// Ids, names of nodes, and revisions.
fn rows(instances: &[StoredInstance]) -> Vec<(String, String, u64)> {
    let row = |StoredInstance { instance, .. }: &StoredInstance| {
        let node = instance.consul_registration.as_ref().unwrap().node.to_string();
        (instance.id.to_string(), node, instance.revision.0)
    };
    let mut rows: Vec<_> = instances.iter().map(row).collect();
    rows.sort();
    rows
}

fn expected() -> Vec<(String, String, u64)> {
    let row = |id: &str, node: &str, revision| (id.to_owned(), node.to_owned(), revision);
    vec![
        row("@", "", 9),
        row("@/@n2/web", "", 4),
        row("@/@odd", "", 3),
        row("@edge", "edge", 8),
        row("@edge/x", "edge", 6),
        row("@n2/web", "n2", 1),
        row("plain", "", 2),
    ]
}

fn old_store() -> LoadedRecords {
    LoadedRecords { instances: old_instances(), revision: Revision(9), ..LoadedRecords::default() }
}

#[test]
fn store_with_old_ids_is_rewritten_by_opening() {
    const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
    let directory = TempDir::new().unwrap();
    Store::create(directory.path(), StartPoint { revision: Revision(9), ..START }, &old_store()).unwrap();
    let database = Database::open(directory.path().join("registry.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("format", 2_u32.to_be_bytes().as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(database);

    assert_eq!(
        rows(&Store::read(directory.path()).unwrap().instances),
        expected(),
        "reading does not change the store"
    );
    let engine = open(directory.path(), Durability::Durable);
    let registry = engine.registry();
    let (n2, local) =
        (registry.get(&name("web"), "@n2/web").unwrap(), registry.get(&name("web"), "@/@n2/web").unwrap());
    assert_eq!((n2.instance.revision, local.instance.revision), (Revision(1), Revision(4)));
    assert_eq!(registry.node("EDGE").unwrap().instance.revision, Revision(8));
    // Removing the instance must also remove its old record.
    submit(&engine, deregister_any("web", "@n2/web")).unwrap();
    engine.close();
    drop(engine);
    let left: Vec<_> = expected().into_iter().filter(|(id, ..)| id != "@n2/web").collect();
    assert_eq!(rows(&Store::read(directory.path()).unwrap().instances), left);
}

fn deregister_any(service: &str, id: &str) -> Command {
    let (service, id) = (name(service), InstanceId::parse_any(id).unwrap());
    Command::Deregister { service, id, guard: crate::registry::DeregisterGuard::Any }
}

#[test]
fn export_with_old_ids_is_read() {
    let found = old_store();
    let mut lines = Vec::new();
    export::write(&found, &mut lines, || {}).unwrap();
    let found = export::read(&*lines, |_| {}).unwrap();
    assert_eq!((rows(&found.instances), found.revision), (expected(), Revision(9)));
    let mut again = Vec::new();
    export::write(&found, &mut again, || {}).unwrap();
    assert_eq!(export::read(&*again, |_| {}).unwrap(), found);
}
