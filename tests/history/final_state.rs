//! Final state as every reader and every protocol shows it.

use std::collections::BTreeSet;

use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::SERVICES;
use crate::{
    harness::{Key, Reader, TestClient, TestServer, get, key, within},
    invariant::converges::Shown,
};

/// Checks every protocol's answer about the instances that are `left`.
pub async fn shown(server: &TestServer, readers: &[Reader], left: &[Key]) -> Vec<Shown> {
    let client = server.client().await;
    let mut shown: Vec<Shown> =
        readers.iter().map(|reader| watched(reader, &readers[readers.len() - 1], left)).collect();
    for service in SERVICES {
        let instances = client.list(service).await;
        let set = instances.into_iter().map(|instance| key(&instance.service, &instance.id)).collect();
        let should = left.iter().filter(|(of, _)| of == service).cloned().collect();
        shown.push(Shown { origin: format!("ListInstances of {service}"), set, should });
    }
    shown.push(Shown {
        origin: "Prometheus".to_owned(),
        set: targets(server).await,
        should: left.iter().cloned().collect(),
    });
    shown.push(health(&client, &readers[readers.len() - 1]).await);
    shown
}

/// Compares a reader with the instances of the unfiltered reader that match its scope and filter.
fn watched(reader: &Reader, everything: &Reader, left: &[Key]) -> Shown {
    let wanted = |instance: &&Key| {
        let content = &everything.view.set[*instance];
        reader.record.scope.includes(&instance.0) && (reader.record.filter.matches)(content)
    };
    Shown {
        origin: format!("Watch by \"{}\"", reader.record.reader),
        set: reader.view.set.keys().cloned().collect(),
        should: left.iter().filter(wanted).cloned().collect(),
    }
}

async fn targets(server: &TestServer) -> BTreeSet<Key> {
    let (status, page) = get(server.http(), "/prometheus/sd").await;
    assert_eq!(status, 200, "{page}");
    let targets: Vec<serde_json::Value> = serde_json::from_str(&page).unwrap();
    let label = |target: &serde_json::Value, name: &str| {
        target["labels"][format!("__meta_callboard_{name}")].as_str().unwrap().to_owned()
    };
    targets.iter().map(|target| (label(target, "service"), label(target, "instance_id"))).collect()
}

/// Health reports SERVING for the services with an available instance.
async fn health(client: &TestClient, everything: &Reader) -> Shown {
    let mut set = BTreeSet::new();
    for service in SERVICES {
        let request = HealthCheckRequest { service: service.to_owned() };
        match within("Check", client.health.clone().check(request)).await {
            Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => {
                set.insert(key(service, "any"));
            }
            Ok(_) => {}
            Err(status) => assert_eq!(status.code(), Code::NotFound),
        }
    }
    let counts = everything.view.set.values().filter(|instance| (super::SERVING.matches)(instance));
    let should = counts.map(|instance| key(&instance.service, "any")).collect();
    Shown { origin: "health".to_owned(), set, should }
}
