//! Requests to Consul's API.

use anyhow::Result;
use serde_json::{Value, json};

use super::http_connection::{HttpConnection, get, put, put_json};
use crate::{client::service_name, processes::Server};

/// Number of registrations in flight.
const LANES: usize = 16;

/// Returns a passing TTL check that does not expire during a measurement.
pub fn ttl_check() -> Value {
    json!({ "TTL": "1h", "Status": "passing" })
}

/// Returns a registration of realistic size. `version` is part of its metadata; `check` is `null` for none.
#[expect(clippy::needless_pass_by_value, reason = "every caller builds the value for this call")]
pub fn register(service: usize, id: usize, version: usize, check: Value) -> Vec<u8> {
    let body = json!({
        "ID": instance_id(id),
        "Name": service_name(service),
        "Tags": ["v2", "http"],
        "Address": format!("10.{}.{}.{}", id >> 16 & 255, id >> 8 & 255, id & 255),
        "Port": 8_080,
        "Meta": { "team": "checkout", "version": format!("1.4.{version:06}") },
        "Check": check,
    });
    put_json("/v1/agent/service/register", &body)
}

fn instance_id(id: usize) -> String {
    format!("instance-{id:06}")
}

/// Returns a report that the check of an instance passes.
pub fn pass_check(id: usize) -> Vec<u8> {
    put(&format!("/v1/agent/check/pass/service:{}", instance_id(id)), b"")
}

/// Returns a report that the check of an instance fails.
pub fn fail_check(id: usize) -> Vec<u8> {
    put(&format!("/v1/agent/check/fail/service:{}", instance_id(id)), b"")
}

/// Returns a read of the passing instances of a service.
pub fn read_passing(service: usize, gzip: bool) -> Vec<u8> {
    let more = if gzip { "Accept-Encoding: gzip\r\n" } else { "" };
    get(&format!("/v1/health/service/{}?passing", service_name(service)), more)
}

/// Returns a blocking query on the passing instances, after this index.
pub fn read_passing_after(service: usize, index: u64) -> Vec<u8> {
    get(&format!("/v1/health/service/{}?passing&wait=10m&index={index}", service_name(service)), "")
}

/// Registers instances from 0 on; `service` and `check` return the service and the check of each.
pub async fn register_all(
    server: &Server,
    count: usize,
    service: impl Fn(usize) -> usize,
    check: impl Fn(usize) -> Value,
) -> Result<()> {
    let lanes = LANES.min(count);
    let mut open = HttpConnection::open_all(server.http()?, lanes).await?;
    let registration = |id: usize| register(service(id), id, 0, check(id));
    for first in (0..count).step_by(lanes) {
        let ids = first..count.min(first + lanes);
        for (id, connection) in ids.clone().zip(&mut open) {
            connection.send(&registration(id)).await?;
        }
        for (_, connection) in ids.zip(&mut open) {
            connection.answer().await?;
        }
    }
    Ok(())
}
