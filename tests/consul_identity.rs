//! Identities of Consul's API: which registrations are one, which are not, and what an id takes along when it moves.

mod check;
mod moving;

use std::collections::BTreeSet;

use callboard::pb::callboard::v1::{RegisterRequest, UpdateInstanceRequest};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Code;

use crate::{
    consul::{ask, get, len, put, register},
    harness::{ServerProcess, instance, seconds},
};

/// API through which a registration is made and removed.
#[derive(Debug, Clone, Copy)]
enum RegistrationApi {
    Native,
    Http,
    Catalog,
}

/// A registration: how it is made, on which node, under which id.
type Registration = (RegistrationApi, String, String);

const LOCAL: &str = "n1";

/// Registrations of which each two were one at some time, or would be if their parts were joined carelessly.
fn registrations() -> Vec<Registration> {
    let local = |way: RegistrationApi, id: &str| (way, LOCAL.to_owned(), id.to_owned());
    let on = |node: &str, id: &str| (RegistrationApi::Catalog, node.to_owned(), id.to_owned());
    let (longest, half) = ("n".repeat(512), "h".repeat(253));
    vec![
        local(RegistrationApi::Native, "n4/web"),
        local(RegistrationApi::Native, "native"),
        local(RegistrationApi::Http, "n2/web"),
        local(RegistrationApi::Http, "@n2/web"),
        local(RegistrationApi::Http, "@/a b"),
        local(RegistrationApi::Http, "a b"),
        local(RegistrationApi::Http, "a%20b"),
        local(RegistrationApi::Http, "wéb"),
        local(RegistrationApi::Http, "_agent"),
        local(RegistrationApi::Http, &half),
        local(RegistrationApi::Http, &longest),
        on("n2", "web"),
        on("n4", "web"),
        on("a/b", "c"),
        on("a", "b/c"),
        on("a%2Fb", "c"),
        on("_agent", "x"),
        on("@", "x"),
        on("N 2", "x"),
        on("Köln", "x"),
        on(&half, &half),
        on(&longest, &longest),
    ]
}

/// Registers in a service each.
async fn add(serve: &ServerProcess, service: &str, (way, node, id): &Registration) {
    match way {
        RegistrationApi::Native => {
            let request = RegisterRequest { ttl: seconds(600.0), ..instance(service, id) };
            serve.client().await.register(request).await.unwrap();
        }
        RegistrationApi::Http => register(serve, json!({"Name": service, "ID": id, "Port": 1})).await,
        RegistrationApi::Catalog => {
            let body =
                json!({"Node": node, "Address": "10.0.0.1", "Service": {"Service": service, "ID": id, "Port": 1}});
            let said = put(serve, "/v1/catalog/register", &body).await;
            assert_eq!(said.status, 200, "{node}/{id}: {said:?}");
        }
    }
}

async fn remove(serve: &ServerProcess, service: &str, (way, node, id): &Registration) {
    match way {
        RegistrationApi::Native => {
            let removed = serve.client().await.deregister(service, id, &bytes::Bytes::new()).await.unwrap();
            assert!(removed.is_some(), "{id}");
        }
        RegistrationApi::Http => {
            let id = percent_encoded(id);
            let said = ask(serve, "PUT", &format!("/v1/agent/service/deregister/{id}"), "").await;
            assert_eq!(said.status, 200, "{id}: {said:?}");
        }
        RegistrationApi::Catalog => {
            let said = put(serve, "/v1/catalog/deregister", &json!({"Node": node, "ServiceID": id})).await;
            assert_eq!(said.status, 200, "{node}/{id}: {said:?}");
        }
    }
}

fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Nodes and ids that a service has.
async fn shown(serve: &ServerProcess, service: &str) -> BTreeSet<(String, String)> {
    let found = get(serve, &format!("/v1/catalog/service/{service}")).await.body;
    let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    found.as_array().unwrap().iter().map(|one| (text(one, "Node"), text(one, "ServiceID"))).collect()
}

/// Each in its service, registered, found again after a kill, and taken away one by one.
async fn assert_kept_apart(service_of: impl Fn(usize) -> String) {
    let data = TempDir::new().unwrap();
    let arguments = ["--data-dir", data.path().to_str().unwrap(), "--node-name", LOCAL];
    let serve = ServerProcess::start(&arguments).await;
    let all = registrations();
    let mut present = BTreeSet::new();
    for (at, registration) in all.iter().enumerate() {
        add(&serve, &service_of(at), registration).await;
        present.insert((service_of(at), registration.1.clone(), registration.2.clone()));
        assert_eq!(everything(&serve, &all, &service_of).await, present, "after {registration:?} has come");
    }
    let serve = serve.restart(&arguments).await;
    assert_eq!(everything(&serve, &all, &service_of).await, present, "after a kill");
    for (at, registration) in all.iter().enumerate() {
        remove(&serve, &service_of(at), registration).await;
        present.remove(&(service_of(at), registration.1.clone(), registration.2.clone()));
        assert_eq!(everything(&serve, &all, &service_of).await, present, "after {registration:?} has gone");
    }
}

async fn everything(
    serve: &ServerProcess,
    all: &[Registration],
    service_of: &impl Fn(usize) -> String,
) -> BTreeSet<(String, String, String)> {
    let services: BTreeSet<String> = (0..all.len()).map(service_of).collect();
    let mut found = BTreeSet::new();
    for service in services {
        found.extend(shown(serve, &service).await.into_iter().map(|(node, id)| (service.clone(), node, id)));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_of_one_service_with_different_identities_are_kept_apart() {
    assert_kept_apart(|_| "web".to_owned()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_of_two_services_with_different_identities_are_kept_apart() {
    assert_kept_apart(|at| format!("web{}", at % 2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_of_the_other_kind_is_rejected_unless_replaced() {
    let serve = ServerProcess::start(&["--node-name", LOCAL]).await;
    let client = serve.client().await;
    register(&serve, json!({"Name": "web", "ID": "a", "Port": 1})).await;
    let refused = client.register(instance("web", "a")).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains("set replace"), "{refused}");
    assert_eq!(get(&serve, "/v1/agent/service/a").await.status, 200, "a refusal changes nothing");
    let lease = client.register(RegisterRequest { replace: true, ..instance("web", "a") }).await.unwrap().lease_id;
    assert_eq!(get(&serve, "/v1/agent/service/a").await.status, 404);

    let catalog = json!({"Node": "N1", "Address": "10.0.0.1", "Service": {"Service": "web", "ID": "a"}});
    for (path, body) in [
        ("/v1/agent/service/register", json!({"Name": "web", "ID": "a", "Port": 1})),
        ("/v1/catalog/register", catalog),
    ] {
        let refused = put(&serve, path, &body).await;
        assert_eq!(refused.status, 409, "{path}: {refused:?}");
        assert!(refused.body.as_str().unwrap().contains("deregister it there, or use another id"), "{refused:?}");
    }
    register(&serve, json!({"Name": "api", "ID": "a", "Port": 1})).await;
    let moving = put(&serve, "/v1/agent/service/register", &json!({"Name": "web", "ID": "a", "Port": 1})).await;
    assert_eq!(moving.status, 409, "an id does not move to where a lease holds it: {moving:?}");
    assert_eq!(get(&serve, "/v1/agent/service/a").await.body["Service"], "api", "and stays where it was");

    client.deregister("web", "a", &lease).await.unwrap();
    register(&serve, json!({"Name": "web", "ID": "a", "Port": 1})).await;
    assert_eq!(shown(&serve, "api").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reserved_id_is_rejected_by_register_and_accepted_from_operators() {
    let serve = ServerProcess::start(&[]).await;
    let client = serve.client().await;
    for node in ["n2", "N3"] {
        let service = json!({"Service": "web", "ID": "web", "Port": 1});
        put(&serve, "/v1/catalog/register", &json!({"Node": node, "Address": "10.0.0.1", "Service": service})).await;
    }
    let refused = client.register(RegisterRequest { replace: true, ..instance("web", "@n2/web") }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("starts with '@'"), "{refused}");

    let ids = || async { client.list("web").await.into_iter().map(|one| one.id).collect::<Vec<_>>() };
    assert_eq!(ids().await, ["@n2/web", "@n3/web"]);
    let (service, id) = ("web".to_owned(), "@n2/web".to_owned());
    let drain = UpdateInstanceRequest { service, id, draining: true, ..Default::default() };
    client.update(&["draining"], drain).await.unwrap();
    let checks = get(&serve, "/v1/health/checks/web").await.body;
    assert_eq!((len(&checks), &checks[0]["Node"]), (1, &json!("n2")), "{checks}");
    client.deregister("web", "@n2/web", &bytes::Bytes::new()).await.unwrap().unwrap();
    assert_eq!(ids().await, ["@n3/web"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn id_in_several_services_is_shown_once_for_each() {
    let serve = ServerProcess::start(&["--node-name", LOCAL]).await;
    let client = serve.client().await;
    register(&serve, json!({"Name": "web", "ID": "a", "Port": 1})).await;
    for service in ["api", "db"] {
        client.register(instance(service, "a")).await.unwrap();
    }
    let found = get(&serve, "/v1/catalog/node/n1").await.body["Services"].clone();
    let of = |key: &str| found[key]["Service"].as_str().map(str::to_owned);
    assert_eq!(["a", "api/a", "db/a"].map(of), ["web", "api", "db"].map(|name| Some(name.to_owned())), "{found}");
    assert_eq!(ask(&serve, "PUT", "/v1/agent/service/deregister/a", "").await.status, 200);
    assert_eq!(ask(&serve, "PUT", "/v1/agent/service/deregister/a", "").await.status, 404, "a lease keeps the others");
    assert_eq!(
        (client.list("web").await.len(), client.list("api").await.len(), client.list("db").await.len()),
        (0, 1, 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_or_id_too_long_or_with_control_characters_is_rejected() {
    let serve = ServerProcess::start(&[]).await;
    for bad in ["x".repeat(513), "a\nb".to_owned(), "\u{0}".to_owned()] {
        let said = put(&serve, "/v1/agent/service/register", &json!({"Name": "web", "ID": bad})).await;
        assert_eq!(said.status, 400, "{said:?}");
        assert!(said.body.as_str().unwrap().starts_with("ID "), "{said:?}");
        let body = json!({"Node": bad, "Address": "10.0.0.1", "Service": {"Service": "web"}});
        let said = put(&serve, "/v1/catalog/register", &body).await;
        assert_eq!(said.status, 400, "{said:?}");
        assert!(said.body.as_str().unwrap().starts_with("Node "), "{said:?}");
    }
    assert_eq!(shown(&serve, "web").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_under_another_spelling_is_the_same_node() {
    let data = TempDir::new().unwrap();
    let arguments = ["--data-dir", data.path().to_str().unwrap(), "--node-name", LOCAL];
    let serve = ServerProcess::start(&arguments).await;
    let node = |name: &str, address: &str| json!({"Node": name, "Address": address});
    for (name, id) in [("Edge07", "s1"), ("KÖLN", "k1"), ("köln", "k1")] {
        let service = json!({"Service": "shop", "ID": id, "Port": 80});
        let body = json!({"Node": name, "Address": "10.0.0.7", "NodeMeta": {"rack": "7"}, "Service": service});
        assert_eq!(put(&serve, "/v1/catalog/register", &body).await.status, 200);
    }
    let names = |body: Value| -> Vec<String> {
        body.as_array().unwrap().iter().map(|one| one["Node"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(get(&serve, "/v1/catalog/nodes").await.body), ["Edge07", "köln", LOCAL]);
    put(&serve, "/v1/catalog/register", &node("EDGE07", "10.0.0.8")).await;
    let serve = serve.restart(&arguments).await;
    assert_eq!(names(get(&serve, "/v1/catalog/nodes").await.body), ["EDGE07", "köln", LOCAL], "the newest spelling");
    for spelling in ["edge07", "EDGE07", "eDgE07"] {
        let found = get(&serve, &format!("/v1/catalog/node/{spelling}")).await.body;
        assert_eq!((&found["Node"]["Node"], &found["Node"]["Address"]), (&json!("EDGE07"), &json!("10.0.0.8")));
        assert_eq!(found["Services"]["s1"]["Service"], "shop");
        let services = get(&serve, &format!("/v1/catalog/node-services/{spelling}")).await.body;
        assert_eq!(services["Services"][0]["ID"], "s1");
    }
    let found = get(&serve, "/v1/health/service/shop?passing").await.body;
    assert_eq!(names(get(&serve, "/v1/catalog/service/shop").await.body), ["EDGE07", "köln"]);
    assert_eq!((len(&found), &found[0]["Node"]["Node"]), (2, &json!("EDGE07")));

    let disk = json!({"Node": "edge07", "CheckID": "disk", "Name": "disk", "Status": "critical"});
    let skip = json!({"Node": "edge07", "SkipNodeUpdate": true, "Check": disk});
    put(&serve, "/v1/catalog/register", &skip).await;
    assert_eq!(
        len(&get(&serve, "/v1/health/service/shop?passing").await.body),
        1,
        "the check applies to its instances"
    );
    assert_eq!(len(&get(&serve, "/v1/health/node/EDGE07").await.body), 1);
    assert_eq!(get(&serve, "/v1/health/node/edge07").await.body, json!([]), "here alone names are compared exactly");
    put(&serve, "/v1/catalog/deregister", &json!({"Node": "eDGE07", "CheckID": "disk"})).await;
    assert_eq!(len(&get(&serve, "/v1/health/service/shop?passing").await.body), 2);

    put(&serve, "/v1/catalog/register", &json!({"Node": "N1", "Address": "10.9.9.9", "Check": {"Name": "own"}})).await;
    assert_eq!(get(&serve, "/v1/agent/checks").await.body["own"]["Node"], LOCAL, "the local node has one name");
    put(&serve, "/v1/catalog/deregister", &json!({"Node": "eDGE07", "ServiceID": "s1"})).await;
    assert_eq!(names(get(&serve, "/v1/catalog/service/shop").await.body), ["köln"]);
    put(&serve, "/v1/catalog/deregister", &json!({"Node": "KöLN"})).await;
    put(&serve, "/v1/catalog/deregister", &json!({"Node": "edge07"})).await;
    assert_eq!(names(get(&serve, "/v1/catalog/nodes").await.body), [LOCAL]);
    assert_eq!(shown(&serve, "shop").await.len(), 0);
}
