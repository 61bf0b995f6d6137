//! xDS over the wire, in both protocols.
//!
//! | module | contents |
//! |---|---|
//! | `ads_client` | a client of one stream, which answers only when a test says so |
//! | `subscribing`, `unsubscribing`, `delta` | the scenarios of xds-test-harness, and more of their kind |
//! | `answering` | accepted, rejected and late answers |
//! | `endpoints`, `effective_weights` | instances as endpoints, and their weights in a slow start |
//! | `following_client` | a client that follows its listener to clusters and their endpoints |
//! | `policy`, `policy_rejections`, `policy_resumption` | changes of policies, rejected ones, and those between two streams |
//! | `policy_clusters` | clusters of subsets |
//! | `zones`, `zone_changes` | preference for the client's zone, and how often shares change |
//! | `load_reports` | load reports of clients |
//! | `restarts` | reconnects, settling, shutdown |
//! | `status` | the list of watchers, and the client status discovery service |
//! | `bad_input`, `unread` | invalid requests, endless ones, clients that do not read |

pub mod ads_client;
mod answering;
mod bad_input;
mod delta;
mod effective_weights;
mod endpoints;
pub mod following_client;
mod load_reports;
mod policy;
mod policy_clusters;
mod policy_rejections;
mod policy_resumption;
mod restarts;
mod status;
mod subscribing;
mod unread;
mod unsubscribing;
mod zone_changes;
mod zones;

use callboard::pb::callboard::v1::{RegisterRequest, UpdateInstanceRequest};

use crate::harness::{TestClient, address, instance, seconds};

/// Returns a registration of `SERVICE/NUMBER` at `10.0.0.NUMBER:80` that outlasts the test.
fn at(service: &str, number: u8) -> RegisterRequest {
    RegisterRequest {
        ttl: seconds(86_000.0),
        addresses: vec![address(&format!("10.0.0.{number}"), 80)],
        ..instance(service, &number.to_string())
    }
}

async fn register(client: &TestClient, service: &str, number: u8) {
    client.register(at(service, number)).await.unwrap();
}

async fn set_weight(client: &TestClient, service: &str, number: u8, weight: u32) {
    let (service, id) = (service.to_owned(), number.to_string());
    client.update(&["weight"], UpdateInstanceRequest { service, id, weight, ..Default::default() }).await.unwrap();
}

async fn deregister(client: &TestClient, service: &str, number: u8) {
    client.deregister(service, &number.to_string(), &[].as_slice().into()).await.unwrap();
}
