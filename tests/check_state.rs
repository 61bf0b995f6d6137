//! State of checks across restarts: TTLs, outputs and durations.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    consul::{ask, get, len, put, register, until},
    harness::{Child, ServerProcess},
};

/// Reports that a check passes, with this note.
async fn pass(server: &ServerProcess, check: &str, note: &str) {
    let response = ask(server, "PUT", &format!("/v1/agent/check/pass/{check}?note={note}"), "").await;
    assert_eq!(response.status, 200, "{response:?}");
}

/// Stops a server with a signal, and waits for its end.
async fn stop(server: ServerProcess) {
    server.child.signal(Signal::TERM);
    let ended = server.child.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
}

/// Returns status and output of the first check.
fn first(checks: &Value) -> (&str, &str) {
    (checks[0]["Status"].as_str().unwrap(), checks[0]["Output"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ttl_expires_although_the_server_restarts_more_often() {
    let data = TempDir::new().unwrap();
    let arguments = ["--settle", "0", "--data-dir", data.path().to_str().unwrap()];
    let mut server = ServerProcess::start(&arguments).await;
    for name in ["silent", "alive"] {
        register(&server, json!({"Name": name, "Check": {"TTL": "3s", "Status": "passing"}})).await;
        pass(&server, &format!("service:{name}"), "fine").await;
    }
    for _ in 0..5 {
        for _ in 0..3 {
            sleep(Duration::from_millis(400)).await;
            pass(&server, "service:alive", "fine").await;
        }
        server = server.restart(&arguments).await;
        assert_eq!(
            len(&get(&server, "/v1/health/service/alive?passing").await.body),
            1,
            "the instance reports within its TTL"
        );
    }
    let checks = get(&server, "/v1/health/checks/silent").await.body;
    assert_eq!(first(&checks), ("critical", "TTL expired (last output before timeout follows): fine"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_survives_a_stop_and_ttl_expires_during_it() {
    let data = TempDir::new().unwrap();
    let arguments = ["--settle", "0", "--data-dir", data.path().to_str().unwrap()];
    let server = ServerProcess::start(&arguments).await;
    for (name, ttl) in [("long", "1h"), ("short", "2s")] {
        register(&server, json!({"Name": name, "Check": {"TTL": ttl, "Status": "passing"}})).await;
        pass(&server, &format!("service:{name}"), "first").await;
        // A report of the same status makes no event, but changes the output.
        pass(&server, &format!("service:{name}"), "second").await;
    }
    stop(server).await;
    sleep(Duration::from_secs(2)).await;
    let export = Child::run(&["export", "--data-dir", arguments[3]]).await;
    assert_eq!(export.code(), Some(0), "{}", export.stderr);
    let server = ServerProcess::start(&arguments).await;
    assert_eq!(first(&get(&server, "/v1/health/checks/long").await.body), ("passing", "second"));
    let expired = until(&server, "/v1/health/checks/short", |checks| first(checks).0 == "critical").await;
    assert_eq!(first(&expired).1, "TTL expired (last output before timeout follows): second");

    let (target, file) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let file = file.path().join("export.jsonl");
    std::fs::write(&file, export.stdout).unwrap();
    let to = target.path().to_str().unwrap();
    let imported = Child::run(&["import", "--data-dir", to, file.to_str().unwrap()]).await;
    assert_eq!(imported.code(), Some(0), "{}", imported.stderr);
    let imported = ServerProcess::start(&["--settle", "0", "--data-dir", to]).await;
    assert_eq!(first(&get(&imported, "/v1/health/checks/long").await.body), ("passing", "second"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ttl_below_one_second_is_rejected_by_all_endpoints() {
    let server = ServerProcess::start(&["--settle", "0"]).await;
    for (ttl, shown) in [(json!(60), "60ns"), (json!("500us"), "500us"), (json!("0.5s"), "500ms")] {
        let check = json!({"Name": "d1", "TTL": ttl});
        let service = json!({"Service": "d1", "Port": 1});
        for (path, body) in [
            ("agent/service/register", json!({"Name": "d1", "Check": {"TTL": ttl}})),
            ("agent/service/register", json!({"Name": "d1", "Checks": [{"TTL": "10s"}, {"TTL": ttl}]})),
            ("agent/check/register", check.clone()),
            ("catalog/register", json!({"Node": "n", "Address": "10.0.0.1", "Service": service, "Check": check})),
        ] {
            let response = put(&server, &format!("/v1/{path}"), &body).await;
            let text = response.body.as_str().unwrap_or_default();
            assert_eq!(response.status, 400, "{path} {body}: {text}");
            assert!(text.starts_with(&format!("Invalid check: check.ttl \"{shown}\" is shorter than 1s")), "{text}");
            assert!(text.contains("nanoseconds, as in Go") && text.contains("\"10s\""), "{text}");
        }
    }
    for ttl in [json!("-1s"), json!(-5), json!(0), json!("0s")] {
        let response = put(&server, "/v1/agent/service/register", &json!({"Name": "d1", "Check": {"TTL": ttl}})).await;
        assert_eq!((response.status, response.body), (400, "Invalid check: TTL must be > 0 for TTL checks".into()));
    }
    assert_eq!(get(&server, "/v1/catalog/services").await.body, json!({"consul": []}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durations_and_reasons_survive_a_restart_exactly() {
    let data = TempDir::new().unwrap();
    let arguments = ["--settle", "0", "--data-dir", data.path().to_str().unwrap()];
    let server = ServerProcess::start(&arguments).await;
    let check = json!({
        "CheckID": "odd", "TCP": "127.0.0.1:1", "Interval": "1h0.0000015s", "Timeout": "250us",
        "DeregisterCriticalServiceAfter": "2h0.000000001s",
    });
    register(&server, json!({"Name": "web", "Check": check})).await;
    let response = ask(&server, "PUT", "/v1/agent/service/maintenance/web?enable=true&reason=one%0Atwo%00", "").await;
    assert_eq!(response.status, 200, "{response:?}");
    let fields = |checks: &Value| {
        let all = checks.as_array().unwrap().iter();
        all.map(|check| json!([check["CheckID"], check["Interval"], check["Timeout"], check["Notes"]]))
            .collect::<Vec<_>>()
    };
    let before = fields(&get(&server, "/v1/health/checks/web").await.body);
    assert!(before.iter().any(|check| check[1] == "1h0m0.0000015s" && check[2] == "250µs"), "{before:?}");
    let server = server.restart(&arguments).await;
    assert_eq!(fields(&get(&server, "/v1/health/checks/web").await.body), before);
}
