//! Agreement of nodes and the instances on them over HTTP, gRPC and DNS.

use std::collections::{BTreeMap, BTreeSet};

use callboard::pb::callboard::v1::{Instance, InstanceStatus};
use hickory_proto::rr::RecordType;
use serde_json::Value;

use crate::{
    consul_replay::client,
    dns::client::{DnsClient, data},
    harness::{ServerProcess, TestClient},
};

pub async fn get(serve: &ServerProcess, path: &str) -> Value {
    let answer = client::ask(serve.http, "GET", path, "", |text| text).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.body
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// An instance as its node has it: service and port, by which it is found over gRPC.
type Place = (String, u32);

/// State that the catalog says an instance has to have: status, and host where its node gives it.
type Expected = (InstanceStatus, Option<String>);

/// Describes how the protocols differ about a node or an instance. `None`: they agree.
pub async fn disagreement(serve: &ServerProcess) -> Option<String> {
    let mut expected: BTreeMap<(Place, String), Expected> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for node in list(&get(serve, "/v1/catalog/nodes").await) {
        let name = text(node, "Node");
        let checks = get(serve, &format!("/v1/health/node/{name}")).await;
        let critical: Vec<&str> = list(&checks)
            .iter()
            .filter(|check| text(check, "ServiceID").is_empty() && text(check, "Status") == "critical")
            .map(|check| text(check, "CheckID"))
            .collect();
        let status = if critical.contains(&"_node_maintenance") {
            InstanceStatus::Draining
        } else if critical.is_empty() {
            InstanceStatus::Serving
        } else {
            InstanceStatus::Unhealthy
        };
        let services = get(serve, &format!("/v1/catalog/node-services/{name}")).await;
        for service in list(&services["Services"]).iter().filter(|service| text(service, "ID") != "consul") {
            let id = text(service, "ID");
            if !ids.insert((name.to_owned(), id.to_owned())) {
                return Some(format!("{id:?} on node {name:?} is in two services"));
            }
            let place = (text(service, "Service").to_owned(), service["Port"].as_u64().unwrap().try_into().unwrap());
            let host = (name != "n1").then(|| text(node, "Address").to_owned());
            expected.insert((place, name.to_owned()), (status, host));
        }
    }
    let client = serve.client().await;
    let dns = DnsClient::new(serve.dns.unwrap()).await;
    let services = get(serve, "/v1/catalog/services").await;
    let mut seen = 0;
    for service in services.as_object().unwrap().keys().filter(|service| *service != "consul") {
        let instances = client.list(service).await;
        seen += instances.len();
        for instance in &instances {
            if let Some(found) = differs(instance, &expected) {
                return Some(found);
            }
        }
        if let Some(found) = resolves(service, &instances, &client, &dns).await {
            return Some(found);
        }
    }
    (seen != expected.len()).then(|| format!("{seen} instances, of which the nodes have {}", expected.len()))
}

/// Compares an instance with what its node says.
fn differs(instance: &Instance, expected: &BTreeMap<(Place, String), Expected>) -> Option<String> {
    let address = &instance.addresses[0];
    let place = (instance.service.clone(), address.port);
    let mut on_nodes =
        expected.iter().filter(|((known, _), _)| *known == place).map(|(_, expected)| expected).peekable();
    if on_nodes.peek().is_none() {
        return Some(format!("{}/{} is on no node", instance.service, instance.id));
    }
    let agrees = on_nodes
        .any(|(status, host)| instance.status() == *status && host.as_ref().is_none_or(|host| *host == address.host));
    (!agrees).then(|| format!("{}/{} differs from its node: {instance:?}", instance.service, instance.id))
}

/// Compares what DNS says of a service with its instances, unless those change meanwhile.
async fn resolves(service: &str, instances: &[Instance], client: &TestClient, dns: &DnsClient) -> Option<String> {
    let hosts: BTreeSet<_> = instances
        .iter()
        .filter(|instance| instance.status() == InstanceStatus::Serving)
        .map(|instance| instance.addresses[0].host.clone())
        .collect();
    let answered: BTreeSet<_> =
        data(&dns.ask(&format!("{service}.service.consul."), RecordType::A).await).into_iter().collect();
    let stands = answered != hosts && client.list(service).await == instances;
    stands.then(|| format!("DNS says {answered:?} of {service:?}, which has {hosts:?}"))
}
