//! Registering again: under the same name, and under another, to which the id moves.

use callboard::pb::callboard::v1::InstanceStatus;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    consul::{ask, get, len, put, register, until},
    harness::{ServerProcess, wall},
};

/// Checks of a service by id, each with its status and output.
async fn checks(serve: &ServerProcess, service: &str) -> Value {
    let found = get(serve, &format!("/v1/health/checks/{service}")).await.body;
    let row = |one: &Value| (one["CheckID"].as_str().unwrap().to_owned(), json!([one["Status"], one["Output"]]));
    found.as_array().unwrap().iter().map(row).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn id_registered_under_another_name_keeps_its_checks_and_its_maintenance() {
    let data = TempDir::new().unwrap();
    let arguments = ["--data-dir", data.path().to_str().unwrap()];
    let mut serve = ServerProcess::start(&arguments).await;
    let own = json!([{"CheckID": "x", "TTL": "1h"}, {"CheckID": "y", "TTL": "1h", "Status": "passing"}]);
    register(&serve, json!({"Name": "ra", "ID": "r", "Port": 1, "Checks": own})).await;
    ask(&serve, "PUT", "/v1/agent/check/pass/x?note=fine", "").await;
    ask(&serve, "PUT", "/v1/agent/check/fail/x?note=broken", "").await;
    ask(&serve, "PUT", "/v1/agent/check/warn/y?note=slow", "").await;
    let before = get(&serve, "/v1/health/checks/ra").await.body;
    // Without checks, with one of them defined anew, and back.
    let redefined = json!([{"CheckID": "x", "TTL": "2h", "Status": "passing"}]);
    for (name, asked) in [("rb", json!([])), ("rc", redefined), ("ra", json!([]))] {
        register(&serve, json!({"Name": name, "ID": "r", "Port": 1, "Checks": asked})).await;
        assert_eq!(checks(&serve, name).await, json!({"x": ["critical", "broken"], "y": ["warning", "slow"]}));
        let listed = get(&serve, "/v1/agent/services").await.body;
        assert_eq!((listed.as_object().unwrap().len(), &listed["r"]["Service"]), (1, &json!(name)));
        let status = serve.client().await.get(name, "r").await.unwrap().status;
        assert_eq!(status, i32::from(InstanceStatus::Unhealthy), "it has worked before, so it does not start");
    }
    let after = get(&serve, "/v1/health/checks/ra").await.body;
    assert_eq!(after[0]["CreateIndex"], before[0]["CreateIndex"]);
    assert!(after[0]["ModifyIndex"].as_u64() > before[0]["ModifyIndex"].as_u64(), "x was defined anew");
    assert_eq!(after[1]["ModifyIndex"], before[1]["ModifyIndex"], "y is as it was");

    ask(&serve, "PUT", "/v1/agent/service/maintenance/r?enable=true&reason=move", "").await;
    for _ in 0..2 {
        register(&serve, json!({"Name": "rb", "ID": "r", "Port": 1})).await;
        let found = get(&serve, "/v1/agent/checks").await.body;
        assert_eq!(found["_service_maintenance:r"]["Notes"], "move", "{found}");
        serve = serve.restart(&arguments).await;
    }
    assert_eq!(len(&get(&serve, "/v1/health/checks/rb").await.body), 3);
    assert_eq!(len(&get(&serve, "/v1/health/service/ra").await.body), 0);
    ask(&serve, "PUT", "/v1/agent/service/maintenance/r?enable=false", "").await;
    for check in ["x", "y"] {
        assert_eq!(ask(&serve, "PUT", &format!("/v1/agent/check/pass/{check}?note=good"), "").await.status, 200);
    }
    assert_eq!(checks(&serve, "rb").await, json!({"x": ["passing", "good"], "y": ["passing", "good"]}));
    assert_eq!(len(&get(&serve, "/v1/health/service/rb?passing").await.body), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_during_a_move_reaches_the_moved_instance() {
    let data = TempDir::new().unwrap();
    // Each takes its time to get to the disk.
    let serve = ServerProcess::start(&["--data-dir", data.path().to_str().unwrap()]).await;
    register(&serve, json!({"Name": "n0", "ID": "r", "Check": {"CheckID": "x", "TTL": "1h"}})).await;
    for round in 1..30 {
        let status = if round % 2 == 0 { "fail" } else { "pass" };
        let (feed, name) = (format!("/v1/agent/check/{status}/x?note={round}"), format!("n{round}"));
        let maintain = format!("/v1/agent/service/maintenance/r?enable={}&reason={round}", round % 2 == 0);
        let extra = json!({"ID": format!("extra{round}"), "Name": "extra", "ServiceID": "r", "TTL": "1h"});
        let body = json!({"Name": name, "ID": "r"});
        let (reported, maintained, added, moved) = tokio::join!(
            ask(&serve, "PUT", &feed, ""),
            ask(&serve, "PUT", &maintain, ""),
            put(&serve, "/v1/agent/check/register", &extra),
            put(&serve, "/v1/agent/service/register", &body),
        );
        assert_eq!([reported.status, maintained.status, added.status, moved.status], [200; 4], "{round}: {reported:?}");
        let found = get(&serve, "/v1/agent/checks").await.body;
        let status = if round % 2 == 0 { "critical" } else { "passing" };
        assert_eq!((&found["x"]["Status"], &found["x"]["Output"]), (&status.into(), &round.to_string().into()));
        assert_eq!(found["_service_maintenance:r"].is_object(), round % 2 == 0, "{found}");
        assert!(found[format!("extra{round}")].is_object(), "{found}");
        ask(&serve, "PUT", &format!("/v1/agent/check/deregister/extra{round}"), "").await;
        let services = get(&serve, "/v1/catalog/services").await.body;
        assert_eq!(services, json!({"consul": [], name: []}));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ttl_of_a_moved_check_continues() {
    let serve = ServerProcess::start(&[]).await;
    register(&serve, json!({"Name": "ra", "ID": "r", "Check": {"CheckID": "x", "TTL": "3s", "Status": "passing"}}))
        .await;
    let began = wall();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    register(&serve, json!({"Name": "rb", "ID": "r"})).await;
    let found = until(&serve, "/v1/health/service/rb?passing", |body| len(body) == 0).await;
    assert_eq!(found, json!([]));
    let took = wall() - began;
    assert!((2_500..4_500).contains(&took), "{took} ms, where 3 s were said: a move is no report");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_are_replaced_if_requested() {
    let serve = ServerProcess::start(&[]).await;
    let again = json!({"Name": "ra", "ID": "r", "Checks": [{"CheckID": "x", "TTL": "1h"}]});
    let extra = json!({"ID": "extra", "Name": "extra", "ServiceID": "r", "TTL": "1h"});
    register(&serve, again.clone()).await;
    for (query, replaces) in
        [("", false), ("=false", false), ("=0", false), ("=true", true), ("=1", true), ("bare", true)]
    {
        put(&serve, "/v1/agent/check/register", &extra).await;
        let parameter = match query {
            "" => String::new(),
            "bare" => "?replace-existing-checks".to_owned(),
            value => format!("?replace-existing-checks{value}"),
        };
        let said = put(&serve, &format!("/v1/agent/service/register{parameter}"), &again).await;
        assert_eq!(said.status, 200, "{said:?}");
        let left = len(&get(&serve, "/v1/health/checks/ra").await.body);
        assert_eq!(left, if replaces { 1 } else { 2 }, "{parameter}");
    }
    let said = put(&serve, "/v1/agent/service/register?replace-existing-checks=perhaps", &again).await;
    assert_eq!(said.status, 400, "{said:?}");
}
