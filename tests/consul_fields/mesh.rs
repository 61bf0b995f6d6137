//! Parts of registrations that are about Consul's service mesh.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{NODE, catalog, on, survives};
use crate::{
    consul::{ask, get, len, put, register},
    harness::ServerProcess,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesh_settings_are_shown_as_given_and_survive_restart_and_export() {
    let directory = TempDir::new().unwrap();
    let serve = on(directory.path()).await;
    let proxy = json!({"DestinationServiceName": "web", "Mode": "transparent", "Config": {"a": 0, "deep": {"b": [1, null, "x"]}},
        "Upstreams": [{"DestinationName": "db", "LocalBindPort": 1}], "MeshGateway": {"Mode": "local"}, "Expose": {"Checks": true}});
    register(&serve, json!({"ID": "p", "Name": "web-proxy", "Kind": "connect-proxy", "Port": 1, "Proxy": proxy})).await;
    register(
        &serve,
        json!({"ID": "g", "Name": "gate", "Kind": "mesh-gateway", "Port": 1, "Proxy": {"Config": {"b": 2}}}),
    )
    .await;
    register(&serve, json!({"ID": "n", "Name": "native", "Port": 1, "Connect": {"Native": true}})).await;
    let gateway = json!({"Service": "edge", "Kind": "api-gateway", "Connect": {"Native": true}, "Port": 1});
    assert_eq!(catalog(&serve, json!({"Node": "gw", "Address": "10.0.0.1", "Service": gateway})).await.status, 200);
    let first = |body: Value| body[0].clone();
    assert_eq!(get(&serve, "/v1/agent/service/p").await.body["Proxy"], proxy);
    assert_eq!(first(get(&serve, "/v1/health/service/web-proxy").await.body)["Service"]["Proxy"], proxy);
    assert_eq!(first(get(&serve, "/v1/catalog/service/web-proxy").await.body)["ServiceProxy"], proxy);
    assert_eq!(get(&serve, "/v1/catalog/node/n1").await.body["Services"]["p"]["Proxy"], proxy);
    assert_eq!(get(&serve, "/v1/catalog/node/gw").await.body["Services"]["edge"]["Connect"], json!({"Native": true}));
    assert_eq!(get(&serve, "/v1/agent/service/n").await.body["Connect"], json!({"Native": true}));
    assert_eq!(get(&serve, "/v1/agent/service/g").await.body["Proxy"]["Config"], json!({"b": 2}));
    // What is read can be registered again, and is the same.
    let mut again = get(&serve, "/v1/agent/service/p").await.body;
    let fields = again.as_object_mut().unwrap();
    let name = fields.remove("Service").unwrap();
    fields.insert("Name".to_owned(), name);
    for shown in ["ContentHash", "Datacenter"] {
        fields.remove(shown);
    }
    let before = get(&serve, "/v1/agent/service/p").await.body;
    register(&serve, again).await;
    assert_eq!(get(&serve, "/v1/agent/service/p").await.body, before);
    for (body, why) in [
        (json!({"Name": "x", "Kind": "connect-proxy", "Port": 1}), "1 error occurred"),
        (json!({"Name": "x", "Kind": "terminating-gateway"}), "Port must be non-zero for a terminating-gateway"),
        (json!({"Name": "x", "Connect": {"Native": true}}), "Connect native service."),
        (json!({"Name": "x", "Proxy": {"Config": {"a": "x".repeat(70_000)}}}), "keep it within 65536 bytes"),
        (json!({"Name": "x", "Proxy": []}), "cannot unmarshal array"),
    ] {
        let said = put(&serve, "/v1/agent/service/register", &body).await;
        assert!(said.status == 400 && said.body.to_string().contains(why), "{said:?}");
    }
    assert_eq!(len(&get(&serve, "/v1/catalog/service/x").await.body), 0);
    survives(serve, &directory, "web-proxy", "n1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecar_is_registered_and_removed_with_its_service() {
    let serve = ServerProcess::start(&NODE).await;
    let with = |id: &str, sidecar: Value| json!({"ID": id, "Name": "web", "Port": 80, "Tags": ["t"], "Connect": {"SidecarService": sidecar}});
    let sidecar = async |id: &str| get(&serve, &format!("/v1/agent/service/{id}-sidecar-proxy")).await.body;
    register(&serve, with("a", json!({}))).await;
    register(&serve, with("b", json!({"Proxy": {"Config": {"x": 1}}, "Tags": ["own"]}))).await;
    register(&serve, with("c", json!({"Port": 21_002, "Check": {"TTL": "1h"}}))).await;
    register(&serve, with("d", json!({"Name": "other"}))).await;
    let mut found = BTreeMap::new();
    for id in ["a", "b", "c", "d"] {
        let body = sidecar(id).await;
        assert_eq!(body["Proxy"]["DestinationServiceID"], id, "{body}");
        assert_eq!(body["Proxy"]["LocalServicePort"], 80);
        found.insert(id, (body["Port"].clone(), body["Service"].clone(), body["Tags"].clone()));
    }
    let expected = |port: u16, name: &str, tag: &str| (json!(port), json!(name), json!([tag]));
    assert_eq!(found["a"], expected(21_000, "web-sidecar-proxy", "t"));
    assert_eq!(found["b"], expected(21_001, "web-sidecar-proxy", "own"));
    assert_eq!(found["c"], expected(21_002, "web-sidecar-proxy", "t"));
    assert_eq!(found["d"], expected(21_003, "other", "t"));
    let checks = get(&serve, "/v1/agent/checks").await.body;
    assert_eq!(checks["service:a-sidecar-proxy"]["Name"], "Connect Sidecar Listening");
    assert_eq!(checks["service:c-sidecar-proxy"]["Type"], "ttl");
    register(&serve, with("b", json!({}))).await;
    assert_eq!(sidecar("b").await["Port"], 21_001, "it keeps its port");
    for (sidecar, why) in [
        (json!({"ID": "x"}), "cannot specify an ID"),
        (json!({"Connect": {"SidecarService": {}}}), "cannot have a nested SidecarService"),
        (json!({"Nope": 1}), "unknown field"),
    ] {
        let said = put(&serve, "/v1/agent/service/register", &with("e", sidecar)).await;
        assert!(said.status == 400 && said.body.to_string().contains(why), "{said:?}");
    }
    assert_eq!(get(&serve, "/v1/agent/service/e").await.status, 404, "a bad sidecar registers nothing");
    for id in ["a", "b", "c", "d"] {
        assert_eq!(ask(&serve, "PUT", &format!("/v1/agent/service/deregister/{id}"), "").await.status, 200);
    }
    assert_eq!(get(&serve, "/v1/agent/services").await.body, json!({}));
    // A service of that id that is no proxy of it is left alone.
    register(&serve, json!({"ID": "a", "Name": "web"})).await;
    register(&serve, json!({"ID": "a-sidecar-proxy", "Name": "mine"})).await;
    ask(&serve, "PUT", "/v1/agent/service/deregister/a", "").await;
    assert_eq!(get(&serve, "/v1/agent/service/a-sidecar-proxy").await.status, 200);
}
