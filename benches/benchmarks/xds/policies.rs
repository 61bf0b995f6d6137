//! Clients of a service with a policy: what assignments for several zones and subsets cost, compared with one for all clients.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use callboard::pb::{
    callboard::v1::{
        self as pb, SetPolicyRequest, admin_service_client::AdminServiceClient,
        registry_service_client::RegistryServiceClient,
    },
    envoy::config::core::v3::{Locality, Node, node::UserAgentVersionType},
};
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{
    Outcome,
    ads::{ASSIGNMENT, AdsStream, CLUSTER, LISTENER, StateOfTheWorld},
    count,
};
use crate::{
    client::{connect, instance, milliseconds, service_name},
    now,
    processes::Server,
    report::median,
};

/// Number of instances of the service.
const INSTANCES: usize = 1_000;
/// Number of zones, each with a client.
const ZONES: usize = 4;
/// Number of subsets, and of routes to them: the most that a policy may have.
const SUBSETS: usize = 16;
const ROUTES: usize = 32;
/// Measured changes.
const CHANGES: usize = 50;

/// Policy of the service.
#[derive(Debug, Clone, Copy)]
pub enum MeasuredPolicy {
    /// None.
    Absent,
    /// Preference for the client's zone.
    Zones,
    /// Subsets, each with the rest of the service as its spill.
    Subsets,
}

/// Rows of the table.
pub const ROWS: [(&str, MeasuredPolicy); 3] = [
    ("xds_policy_none", MeasuredPolicy::Absent),
    ("xds_policy_zones", MeasuredPolicy::Zones),
    ("xds_policy_subsets", MeasuredPolicy::Subsets),
];

/// Client with the number of assignments that it gets for each change.
type CountedClient = (AdsStream<StateOfTheWorld>, usize);

/// Measures the first answers and changes of one instance.
pub async fn run(policy: MeasuredPolicy) -> Result<Outcome> {
    let server = Server::callboard_pinned()?;
    register(server.address).await?;
    let channel = connect(server.address, 1).await?.remove(0);
    if let Some(document) = policy.document() {
        set_policy(&channel, &document).await?;
    }
    let cpu = || anyhow::Ok(server.cpu()?.as_secs_f64() * 1e6);

    let (began, before) = (now(), cpu()?);
    let mut clients = policy.clients(&channel).await?;
    let (first, first_cpu) = (milliseconds(began.elapsed()), cpu()? - before);

    let mut writer = RegistryServiceClient::new(channel);
    let (mut delays, mut bytes, before) = (Vec::new(), 0, cpu()?);
    for change in 0..CHANGES {
        let began = now();
        writer.register(placed_instance(0, 1 + u32::from(change % 2 == 0))).await?;
        for (client, expected) in &mut clients {
            bytes += client.collect(ASSIGNMENT, *expected).await?.iter().map(bytes::Bytes::len).sum::<usize>();
        }
        delays.push(milliseconds(began.elapsed()));
    }
    Ok(vec![
        ("first", "ms", first),
        ("first_cpu", "µs", first_cpu),
        ("change", "ms", median(delays)),
        ("change_cpu", "µs", (cpu()? - before) / count(CHANGES)),
        ("change_bytes", "B", count(bytes / CHANGES)),
    ])
}

/// Sets the policy of the service.
pub async fn set_policy(channel: &Channel, document: &Json) -> Result<()> {
    let policy = structure(document).context("the policy is no object")?;
    let request = SetPolicyRequest { service: service_name(0), policy: Some(policy), ..Default::default() };
    AdminServiceClient::new(channel.clone()).set_policy(request).await?;
    Ok(())
}

impl MeasuredPolicy {
    fn document(self) -> Option<Json> {
        match self {
            Self::Absent => None,
            Self::Zones => Some(json!({ "zone": "prefer" })),
            Self::Subsets => {
                let name = |subset: usize| format!("v{subset}");
                let filter = |subset| (name(subset), json!(format!("metadata[\"version\"] == \"{subset}\"")));
                let route = |route: usize| json!({ "header": { "x-route": route.to_string() }, "to": { (name(route % SUBSETS)): 100 } });
                Some(json!({
                    "subsets": (0..SUBSETS).map(filter).collect::<serde_json::Map<_, _>>(),
                    "route": (0..ROUTES).map(route).collect::<Vec<_>>(),
                }))
            }
        }
    }

    /// Opens the clients of the service and returns after they have their first endpoints.
    async fn clients(self, channel: &Channel) -> Result<Vec<CountedClient>> {
        let service = service_name(0);
        let mut clients = Vec::new();
        match self {
            Self::Absent | Self::Zones => {
                for number in 0..ZONES {
                    let mut client = AdsStream::open_as(channel, node_in(&zone(number), number)).await?;
                    client.subscribe_to_service(&service).await?;
                    clients.push((client, 1));
                }
            }
            Self::Subsets => {
                let mut client = AdsStream::open_as(channel, node_in(&zone(0), 0)).await?;
                client.subscribe(LISTENER, vec![service.clone()]).await?;
                client.collect(LISTENER, 1).await?;
                let mut clusters: Vec<_> = (0..SUBSETS).map(|subset| format!("{service}|v{subset}")).collect();
                clusters.push(service);
                for url in [CLUSTER, ASSIGNMENT] {
                    client.subscribe(url, clusters.clone()).await?;
                    client.collect(url, clusters.len()).await?;
                }
                clients.push((client, clusters.len()));
            }
        }
        Ok(clients)
    }
}

async fn register(address: SocketAddr) -> Result<()> {
    const IN_FLIGHT: usize = 64;
    let channel = connect(address, 1).await?.remove(0);
    let mut tasks = JoinSet::<Result<()>>::new();
    for id in 0..INSTANCES {
        if tasks.len() == IN_FLIGHT
            && let Some(done) = tasks.join_next().await
        {
            done??;
        }
        let mut client = RegistryServiceClient::new(channel.clone());
        tasks.spawn(async move {
            client.register(placed_instance(id, 0)).await?;
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Returns a registration in one of the zones and of one of the versions. The variants of an instance have different ports.
fn placed_instance(id: usize, variant: u32) -> pb::RegisterRequest {
    let mut request = instance(0, id);
    request.addresses.iter_mut().for_each(|address| address.port += variant);
    request.locality = Some(pb::Locality { region: "eu".into(), zone: zone(id), ..Default::default() });
    request.metadata = [("version".into(), (id % SUBSETS).to_string())].into();
    request
}

/// Returns a client in a zone, which follows all of a policy.
pub fn node_in(zone: &str, number: usize) -> Node {
    Node {
        id: format!("client-{number:05}"),
        locality: Some(Locality { region: "eu".into(), zone: zone.into(), ..Locality::default() }),
        user_agent_name: "gRPC Go".into(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion("1.85.0".into())),
        ..Node::default()
    }
}

fn zone(number: usize) -> String {
    format!("eu-{}", number % ZONES)
}

/// Converts a JSON object.
fn structure(document: &Json) -> Option<Struct> {
    let fields = document.as_object()?.iter().map(|(key, value)| (key.clone(), converted(value)));
    Some(Struct { fields: fields.collect() })
}

fn converted(value: &Json) -> Value {
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(converted).collect() }),
        Json::Object(_) => Kind::StructValue(structure(value).unwrap_or_default()),
    };
    Value { kind: Some(kind) }
}
