//! Comparison of the replicas with each other and with etcd.

use std::{collections::BTreeMap, time::Duration};

use callboard::{
    config::EtcdConfig,
    engine::etcd::{InstanceValue, KeySpace, RegistryKey, RegistryMeta},
    etcd::EtcdRange,
    pb::callboard::v1::{Instance, ListInstancesRequest},
};
use tokio::time::{sleep, timeout};

use super::{
    heartbeat_client::or_late,
    test_cluster::{SIZE, TestCluster},
    work::SERVICES,
};
use crate::harness::{Key, Span, Stalls, TestClient, Wall, key, wall};

const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Time in which etcd or a replica has to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Instances by service and id.
pub type Instances = BTreeMap<Key, Instance>;

/// Waits until all replicas have the instances that etcd has. Panics if that takes longer than `allowed` from `healed` on, times in
/// which the machine stalled excepted.
pub async fn agree(cluster: &TestCluster, healed: Wall, allowed: Duration) -> Instances {
    let allowed = Wall::try_from(allowed.as_millis()).unwrap();
    loop {
        let looked = wall();
        let problem = match look(cluster).await {
            Ok(instances) => {
                println!("      replicas and etcd agree {} ms after the fault", wall().saturating_sub(healed));
                return instances;
            }
            Err(problem) => problem,
        };
        let excused = Stalls::of_this_machine().between(Span { from: healed, to: looked });
        let took = looked.saturating_sub(healed);
        assert!(took <= allowed + excused, "{took} ms after the end of the fault ({excused} excused): {problem}");
        sleep(LOOK_INTERVAL).await;
    }
}

/// Compares the replicas with etcd once.
async fn look(cluster: &TestCluster) -> Result<Instances, String> {
    let stored = stored(cluster).await?;
    let addresses = cluster.addresses();
    let mut first: Option<Instances> = None;
    for replica in 0..SIZE {
        let name = format!("replica {replica}");
        let shown = shown(&addresses.client(replica)).await.map_err(|error| format!("{name}: {error}"))?;
        let revisions = shown.iter().map(|(key, instance)| (key.clone(), instance.revision)).collect();
        compare(&name, &revisions, "etcd", &stored)?;
        match &first {
            None => first = Some(shown),
            Some(first) => compare(&name, &shown, "replica 0", first)?,
        }
    }
    Ok(first.expect("there are replicas"))
}

fn compare<T: PartialEq + std::fmt::Debug>(
    left: &str,
    shown: &BTreeMap<Key, T>,
    right: &str,
    others: &BTreeMap<Key, T>,
) -> Result<(), String> {
    let keys = shown.keys().chain(others.keys());
    let differs = |key: &&Key| shown.get(*key) != others.get(*key);
    match keys.into_iter().find(differs) {
        Some(key) => Err(format!("{key:?}: {left} has {:?}, {right} has {:?}", shown.get(key), others.get(key))),
        None => Ok(()),
    }
}

/// Returns the instances in etcd with the revisions of their last changes.
pub async fn stored(cluster: &TestCluster) -> Result<BTreeMap<Key, u64>, String> {
    let (client, keys) = (cluster.etcd.client(), KeySpace::new(EtcdConfig::DEFAULT_CLUSTER));
    let range = timeout(PATIENCE, client.range(EtcdRange::prefix(keys.prefix().to_owned())));
    let range = range.await.map_err(|_| "etcd does not answer")?.map_err(|error| error.to_string())?;
    let meta = range.entries.iter().find(|entry| keys.decode(&entry.key) == Ok(RegistryKey::Meta));
    let meta = RegistryMeta::decode(&meta.ok_or("etcd has no incarnation")?.value).unwrap();
    let mut instances = BTreeMap::new();
    for entry in &range.entries {
        if let Ok(RegistryKey::Instance(service, id)) = keys.decode(&entry.key) {
            let value =
                InstanceValue::decode(&service, &id, &entry.value, meta.with_offset(entry.mod_revision)).unwrap();
            instances.insert(key(service.as_str(), id.as_str()), value.stored.instance.revision.0);
        }
    }
    Ok(instances)
}

/// Returns the instances that a replica shows.
pub async fn shown(client: &TestClient) -> Result<Instances, String> {
    let mut instances = Instances::new();
    for service in SERVICES {
        let mut request = ListInstancesRequest { service: service.to_owned(), ..ListInstancesRequest::default() };
        loop {
            let page = or_late(PATIENCE, client.discovery.clone().list_instances(request.clone())).await;
            let page = page.map_err(|status| status.to_string())?.into_inner();
            instances
                .extend(page.instances.into_iter().map(|instance| (key(&instance.service, &instance.id), instance)));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
    }
    Ok(instances)
}

mod tests {
    use super::*;

    #[test]
    fn each_difference_is_found() {
        let of = |pairs: &[(&str, u64)]| -> BTreeMap<Key, u64> {
            pairs.iter().map(|(id, revision)| (key("web", id), *revision)).collect()
        };
        let etcd = of(&[("a", 1), ("b", 2)]);
        assert_eq!(compare("replica 1", &etcd.clone(), "etcd", &etcd), Ok(()));
        for other in [of(&[("a", 1)]), of(&[("a", 1), ("b", 3)]), of(&[("a", 1), ("b", 2), ("c", 4)])] {
            assert!(compare("replica 1", &other, "etcd", &etcd).is_err(), "{other:?}");
        }
    }
}
