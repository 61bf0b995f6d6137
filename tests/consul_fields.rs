//! What registrations in Consul's words carry, and how it is looked up.

use serde_json::{Value, json};
use tokio::join;

use crate::{
    consul::{Said, ask, get, len, put, register, until},
    harness::{Serve, instance},
};

fn names(body: &Value) -> Vec<&str> {
    body.as_array().unwrap().iter().map(|entry| entry["Service"]["Service"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn look_up_in_any_case_finds_every_spelling_and_each_keeps_its_own() {
    let serve = Serve::start(&[]).await;
    register(&serve, json!({"Name": "Redis", "ID": "b", "Check": {"TTL": "1h"}})).await;
    register(&serve, json!({"Name": "redis", "ID": "a", "Check": {"TTL": "1h"}})).await;
    let peer = serve.peer().await;
    peer.register(instance("REDIS", "c")).await.unwrap();
    for name in ["redis", "Redis", "REDIS", "rEdIs"] {
        let found = get(&serve, &format!("/v1/health/service/{name}")).await.body;
        assert_eq!(names(&found), ["redis", "Redis", "REDIS"], "by id");
        let found = get(&serve, &format!("/v1/catalog/service/{name}")).await.body;
        assert_eq!(
            found.as_array().unwrap().iter().map(|one| &one["ServiceName"]).collect::<Vec<_>>(),
            ["redis", "Redis", "REDIS"]
        );
        let checks = get(&serve, &format!("/v1/health/checks/{name}")).await.body;
        assert_eq!(len(&checks), 3, "{checks}");
        let health = ask(&serve, "GET", &format!("/v1/agent/health/service/name/{name}"), "").await;
        assert_eq!((health.status, len(&health.body)), (503, 2), "the agent tells of its own services: {health:?}");
    }
    let services = get(&serve, "/v1/catalog/services").await.body;
    assert_eq!(services, json!({"consul": [], "REDIS": [], "Redis": [], "redis": []}));
    assert_eq!(len(&get(&serve, "/v1/health/service/CONSUL").await.body), 1, "so is the service of every Consul");
    let watched = peer.list("redis").await;
    assert_eq!(watched.len(), 1, "the native API tells spellings apart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_query_wakes_when_another_spelling_comes_or_goes() {
    let serve = Serve::start(&[]).await;
    let wait =
        async |index: u64| -> Said { get(&serve, &format!("/v1/health/service/rediS?index={index}&wait=60s")).await };
    let nothing = get(&serve, "/v1/health/service/redis").await;
    let (first, ()) = join!(wait(nothing.index), register(&serve, json!({"Name": "Redis", "ID": "b"})));
    assert!(names(&first.body) == ["Redis"] && first.index > nothing.index, "{first:?}");
    let (both, ()) = join!(wait(first.index), register(&serve, json!({"Name": "redis", "ID": "a"})));
    assert!(names(&both.body) == ["redis", "Redis"] && both.index > first.index, "{both:?}");
    // The one that stays is older than the one that goes.
    let (one, _) = join!(wait(both.index), put(&serve, "/v1/agent/service/deregister/a", &json!(null)));
    assert!(names(&one.body) == ["Redis"] && one.index > both.index, "{one:?}");
    let (none, _) = join!(wait(one.index), put(&serve, "/v1/agent/service/deregister/b", &json!(null)));
    assert!(len(&none.body) == 0 && none.index > one.index, "{none:?}");
    until(&serve, "/v1/catalog/services", |services| *services == json!({"consul": []})).await;
}
