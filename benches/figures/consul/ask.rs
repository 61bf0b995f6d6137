//! What Consul's API is asked for here, as requests.

use anyhow::Result;
use serde_json::{Value, json};

use super::line::{Line, get, put, put_json};
use crate::{children::Server, client::service_name};

/// How many registrations are under way when many are made.
const LANES: usize = 16;

/// A check that holds for longer than any measurement, once it was fed.
pub fn fed() -> Value {
    json!({ "TTL": "1h", "Status": "passing" })
}

/// A registration as they are in life. `version` is part of what it says of itself; `check`: `null` for none.
#[expect(clippy::needless_pass_by_value, reason = "it is made for this")]
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

/// The check of an instance passes.
pub fn pass(id: usize) -> Vec<u8> {
    put(&format!("/v1/agent/check/pass/service:{}", instance_id(id)), b"")
}

/// The check of an instance fails.
pub fn fail(id: usize) -> Vec<u8> {
    put(&format!("/v1/agent/check/fail/service:{}", instance_id(id)), b"")
}

/// Who works of a service?
pub fn passing(service: usize, gzip: bool) -> Vec<u8> {
    let more = if gzip { "Accept-Encoding: gzip\r\n" } else { "" };
    get(&format!("/v1/health/service/{}?passing", service_name(service)), more)
}

/// The same, once it is another than it was at this index.
pub fn passing_after(service: usize, index: u64) -> Vec<u8> {
    get(&format!("/v1/health/service/{}?passing&wait=10m&index={index}", service_name(service)), "")
}

/// Registers instances from 0 on, each in the service, and with the check, that these say.
pub async fn register_all(
    server: &Server,
    count: usize,
    service: impl Fn(usize) -> usize,
    check: impl Fn(usize) -> Value,
) -> Result<()> {
    let lanes = LANES.min(count);
    let mut open = Line::open_all(server.http()?, lanes).await?;
    let registration = |id: usize| register(service(id), id, 0, check(id));
    for first in (0..count).step_by(lanes) {
        let ids = first..count.min(first + lanes);
        for (id, line) in ids.clone().zip(&mut open) {
            line.send(&registration(id)).await?;
        }
        for (_, line) in ids.zip(&mut open) {
            line.answer().await?;
        }
    }
    Ok(())
}
