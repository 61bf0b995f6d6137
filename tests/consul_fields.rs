//! Fields of Consul registrations, and lookups by name.

mod mesh;

use std::{collections::BTreeMap, path::Path};

use callboard::pb::callboard::v1::RegisterRequest;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::join;

use crate::{
    consul::{Said, ask, get, len, put, register, until},
    consul_replay::client,
    harness::{Child, HeartbeatStream, ServerProcess, instance},
};

const NODE: [&str; 6] = ["--node-name", "n1", "--node-id", "a51aee3d-7c72-ddf7-58b1-6d63d89505d0", "--settle", "0"];

async fn on(directory: &Path) -> ServerProcess {
    ServerProcess::start(&[&NODE[..], &["--data-dir", directory.to_str().unwrap()]].concat()).await
}

async fn stop(serve: ServerProcess) {
    serve.child.signal(Signal::TERM);
    assert!(serve.child.ended().await.status.success());
}

async fn catalog(serve: &ServerProcess, body: Value) -> Said {
    put(serve, "/v1/catalog/register", &body).await
}

/// Answers of the endpoints that show a service in full.
async fn shown(serve: &ServerProcess, service: &str, node: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for path in [
        format!("/v1/health/service/{service}"),
        format!("/v1/catalog/service/{service}"),
        format!("/v1/health/checks/{service}"),
        format!("/v1/catalog/node/{node}"),
        format!("/v1/health/node/{node}"),
        "/v1/agent/services".to_owned(),
        "/v1/agent/checks".to_owned(),
        "/v1/catalog/services".to_owned(),
    ] {
        let mut body = get(serve, &path).await.body;
        remove_indexes(&mut body);
        all.push(body);
    }
    all
}

/// Our own node has those of the process.
fn remove_indexes(body: &mut Value) {
    match body {
        Value::Array(all) => all.iter_mut().for_each(remove_indexes),
        Value::Object(fields) => {
            fields.remove("CreateIndex");
            fields.remove("ModifyIndex");
            fields.values_mut().for_each(remove_indexes);
        }
        _ => {}
    }
}

/// Restarts on the same directory, then on one that an export of it was imported into, and compares what is shown.
async fn survives(serve: ServerProcess, directory: &TempDir, service: &str, node: &str) {
    let before = shown(&serve, service, node).await;
    stop(serve).await;
    let serve = on(directory.path()).await;
    assert_eq!(shown(&serve, service, node).await, before, "after a restart");
    stop(serve).await;
    let other = TempDir::new().unwrap();
    let file = other.path().join("export.jsonl");
    let (from, to, file) = (directory.path(), other.path().join("data"), file.to_str().unwrap());
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    for arguments in [["export", "--data-dir", from, file], ["import", "--data-dir", to, file]] {
        let ended = Child::run(&arguments).await;
        assert!(ended.status.success(), "{arguments:?}: {}", ended.stderr);
    }
    let serve = on(Path::new(to)).await;
    assert_eq!(shown(&serve, service, node).await, before, "after an export and an import");
}

fn names(body: &Value) -> Vec<&str> {
    body.as_array().unwrap().iter().map(|entry| entry["Service"]["Service"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookup_in_any_case_finds_every_spelling() {
    let serve = ServerProcess::start(&[]).await;
    register(&serve, json!({"Name": "Redis", "ID": "b", "Check": {"TTL": "1h"}})).await;
    register(&serve, json!({"Name": "redis", "ID": "a", "Check": {"TTL": "1h"}})).await;
    let client = serve.client().await;
    client.register(instance("REDIS", "c")).await.unwrap();
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
    let watched = client.list("redis").await;
    assert_eq!(watched.len(), 1, "the native API tells spellings apart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_query_wakes_on_changes_of_another_spelling() {
    let serve = ServerProcess::start(&[]).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalog_changes_tags_of_an_agent_service_only_if_allowed() {
    let serve = ServerProcess::start(&NODE).await;
    let tags = async |id: &str| get(&serve, &format!("/v1/agent/service/{id}")).await.body["Tags"].clone();
    let write = async |id: &str, tags: &[&str], allow: bool| {
        let service = json!({"ID": id, "Service": id, "Tags": tags, "Port": 9, "EnableTagOverride": allow});
        let said = catalog(&serve, json!({"Node": "N1", "SkipNodeUpdate": true, "Service": service})).await;
        assert_eq!((said.status, said.body), (200, json!(true)));
    };
    for (id, allowed) in [("open", true), ("closed", false)] {
        let own = json!({"ID": id, "Name": id, "Tags": ["own"], "Port": 1, "EnableTagOverride": allowed});
        register(&serve, own.clone()).await;
        // What the catalog's write says of the permission does not count: the program's word does.
        write(id, &["other"], !allowed).await;
        assert_eq!(tags(id).await, if allowed { json!(["other"]) } else { json!(["own"]) });
        let service = get(&serve, &format!("/v1/agent/service/{id}")).await.body;
        assert_eq!((&service["Port"], &service["EnableTagOverride"]), (&json!(1), &json!(allowed)));
        register(&serve, own).await;
        assert_eq!(tags(id).await, json!(["own"]), "its program registers it again");
    }
    // What only the catalog has registered, the catalog changes.
    write("listed", &["a"], false).await;
    write("listed", &["b"], false).await;
    assert_eq!(tags("listed").await, json!(["b"]));
    register(&serve, json!({"ID": "listed", "Name": "listed", "Tags": ["own"]})).await;
    write("listed", &["c"], true).await;
    assert_eq!(tags("listed").await, json!(["own"]), "a program has taken it over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalog_write_for_another_datacenter_is_rejected() {
    let serve = ServerProcess::start(&NODE).await;
    let service = json!({"Service": "web"});
    let here = json!({"Datacenter": "dc1", "Node": "x", "Address": "10.0.0.1", "Service": service});
    assert_eq!(catalog(&serve, here).await.status, 200);
    for dc in ["dc7", "DC1"] {
        let there = json!({"Datacenter": dc, "Node": "y", "Address": "10.0.0.1", "Service": service});
        let said = catalog(&serve, there).await;
        assert_eq!((said.status, said.body), (500, json!("No path to datacenter")));
        let there = json!({"Datacenter": dc, "Node": "x"});
        let said = put(&serve, "/v1/catalog/deregister", &there).await;
        assert_eq!((said.status, said.body), (500, json!("No path to datacenter")));
    }
    assert_eq!(len(&get(&serve, "/v1/catalog/service/web").await.body), 1);
    assert_eq!(len(&get(&serve, "/v1/catalog/nodes").await.body), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalog_check_keeps_output_type_and_definition_through_restart_and_export() {
    let directory = TempDir::new().unwrap();
    let serve = on(directory.path()).await;
    let definition = json!({"HTTP": "http://10.0.0.1/", "Interval": "10s", "Timeout": "1.5s", "Header": {"A": ["b"]}, "TLSSkipVerify": true});
    let check = |output: &str| {
        json!({"Node": "ext", "CheckID": "c", "Name": "c", "Status": "warning", "Output": output, "Type": "http",
            "ServiceID": "web", "Interval": "10s", "Timeout": "2s", "Definition": definition})
    };
    let of_node =
        json!({"Node": "ext", "CheckID": "n", "Status": "passing", "Output": "up\nand well", "Type": "alias"});
    let body = |output: &str| json!({"Node": "ext", "Address": "10.0.0.1", "Service": {"Service": "web"}, "Checks": [check(output), of_node]});
    assert_eq!(catalog(&serve, body("slow")).await.status, 200);
    let first = get(&serve, "/v1/health/checks/web").await;
    let shown = &first.body[0];
    assert_eq!((&shown["Output"], &shown["Type"], &shown["Definition"]), (&json!("slow"), &json!("http"), &definition));
    assert_eq!((&shown["Interval"], &shown["Timeout"]), (&json!("10s"), &json!("2s")));
    let node = get(&serve, "/v1/health/node/ext").await.body;
    let of_node: Vec<_> = node.as_array().unwrap().iter().filter(|check| check["CheckID"] == "n").collect();
    assert_eq!((&of_node[0]["Output"], &of_node[0]["Type"]), (&json!("up\nand well"), &json!("alias")));

    // An output is what the answer shows, so a query waits for it.
    let path = format!("/v1/health/service/web?index={}&wait=60s", first.index);
    let (woken, said) = join!(get(&serve, &path), catalog(&serve, body("slower")));
    assert_eq!(said.status, 200);
    assert!(woken.index > first.index && woken.body.to_string().contains("slower"), "{woken:?}");
    let long = "é".repeat(5_000);
    assert_eq!(catalog(&serve, body(&long)).await.status, 200);
    let output = get(&serve, "/v1/health/checks/web").await.body[0]["Output"].as_str().unwrap().len();
    assert_eq!(output, 4_096, "the beginning of a long output is kept");
    let large = json!({"Node": "ext", "Address": "10.0.0.1", "Check": {"CheckID": "d", "Status": "passing", "Definition": {"Body": "x".repeat(9_000)}}});
    let said = catalog(&serve, large).await;
    assert!(said.status == 400 && said.body.to_string().contains("keep it within 8192 bytes"), "{said:?}");
    survives(serve, &directory, "web", "ext").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalog_write_to_an_agent_check_is_ignored() {
    let serve = ServerProcess::start(&NODE).await;
    register(&serve, json!({"Name": "web", "Check": {"TTL": "1h", "Status": "passing"}})).await;
    let check = json!({"CheckID": "service:web", "ServiceID": "web", "Status": "critical", "Type": "http"});
    let said = catalog(&serve, json!({"Node": "n1", "SkipNodeUpdate": true, "Check": check})).await;
    assert_eq!(said.status, 200, "{said:?}");
    let checks = get(&serve, "/v1/health/checks/web").await.body;
    assert_eq!((&checks[0]["Status"], &checks[0]["Type"]), (&json!("passing"), &json!("ttl")));
    assert_eq!(ask(&serve, "PUT", "/v1/agent/check/warn/service:web", "").await.status, 200, "it is fed still");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catalog_deregisters_leased_instance_unless_its_id_is_ambiguous() {
    let serve = ServerProcess::start(&NODE).await;
    let client = serve.client().await;
    let lease = client.register(instance("web", "one")).await.unwrap().lease_id;
    for service in ["web", "db"] {
        client.register(instance(service, "two")).await.unwrap();
    }
    let deregister =
        async |id: &str| put(&serve, "/v1/catalog/deregister", &json!({"Node": "n1", "ServiceID": id})).await;
    let said = deregister("two").await;
    let why = said.body.to_string();
    assert!(said.status == 409 && why.contains("db, web") && why.contains("callboard deregister"), "{said:?}");
    assert_eq!(len(&get(&serve, "/v1/catalog/service/web").await.body), 2);
    let said = deregister("one").await;
    assert_eq!((said.status, said.body), (200, json!(true)));
    assert_eq!(len(&get(&serve, "/v1/catalog/service/web").await.body), 1);
    let (states, _) = HeartbeatStream::open(&client).await.beat(&[&lease]).await.unwrap();
    assert_ne!(states, [callboard::pb::callboard::v1::LeaseState::Held], "its holder hears that it is gone");
    assert_eq!(deregister("nobody").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cached_query_is_a_miss_first_and_a_hit_afterwards() {
    let serve = ServerProcess::start(&NODE).await;
    register(&serve, json!({"Name": "web"})).await;
    let cache = async |path: &str| {
        let answer = client::ask(serve.http, "GET", path, "", |text| text).await;
        assert_eq!(answer.status, 200, "{path}");
        let header = |name: &str| answer.header(name).map(str::to_owned);
        (header("X-Cache"), header("Age"))
    };
    let (miss, hit) = ((Some("MISS".to_owned()), None), (Some("HIT".to_owned()), Some("0".to_owned())));
    for path in ["/v1/catalog/service/web", "/v1/health/service/web", "/v1/catalog/services"] {
        assert_eq!(cache(path).await, (None, None));
        assert_eq!(cache(&format!("{path}?cached")).await, miss, "{path}");
        register(&serve, json!({"Name": "web", "Tags": [path]})).await;
        assert_eq!(cache(&format!("{path}?cached")).await, hit, "{path}: a change makes no miss");
        assert_eq!(cache(&format!("{path}?cached&node-meta=a:b")).await, miss, "{path}: another question");
        assert_eq!(cache(path).await, (None, None), "{path}");
    }
    for path in [
        "/v1/catalog/nodes",
        "/v1/health/checks/web",
        "/v1/health/state/any",
        "/v1/catalog/node/n1",
        "/v1/agent/services",
    ] {
        for _ in 0..2 {
            assert_eq!(cache(&format!("{path}?cached")).await, (None, None), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusual_tags_and_large_metadata_are_accepted_and_survive_restart() {
    let directory = TempDir::new().unwrap();
    let serve = on(directory.path()).await;
    let many: Vec<String> = (0..1_023).map(|n| format!("t{n}")).chain([String::new()]).collect();
    let meta: BTreeMap<String, String> = (0..64).map(|n| (format!("{n:0128}"), "v".repeat(512))).collect();
    register(&serve, json!({"ID": "a", "Name": "web", "Tags": [""]})).await;
    register(&serve, json!({"ID": "b", "Name": "web", "Tags": many, "Meta": meta})).await;
    let node = json!({"Node": "ext", "Address": "10.0.0.1", "NodeMeta": meta, "Service": {"Service": "web", "Tags": many, "Meta": meta}});
    assert_eq!(catalog(&serve, node).await.status, 200);
    let found = get(&serve, "/v1/catalog/service/web").await.body;
    let (other, [a, b]) = (&found[0], [&found[1], &found[2]]);
    assert_eq!((&a["ServiceTags"], &b["ServiceTags"]), (&json!([""]), &json!(many)));
    assert_eq!((&b["ServiceMeta"], &other["NodeMeta"]), (&json!(meta), &json!(meta)));
    let client = serve.client().await;
    assert_eq!(client.list("web").await.len(), 3, "the native API shows them");
    let too_many: Vec<String> = (0..1_025).map(|n| format!("t{n}")).collect();
    let mut one_more = meta.clone();
    one_more.insert("k".to_owned(), String::new());
    for (body, why) in [
        (json!({"Name": "x", "Tags": too_many}), "tags have 1025 entries: give at most 1024"),
        (json!({"Name": "x", "Tags": ["x".repeat(4_097)]}), "use 1 to 4096 bytes"),
        (json!({"Name": "x", "Tags": (0..5).map(|n| format!("{n:04000}")).collect::<Vec<_>>()}), "within 16384 bytes"),
        (json!({"Name": "x", "Meta": one_more}), "more than 64 key/value pairs"),
        (json!({"Name": "x", "Meta": {"k": "v".repeat(513)}}), "Value is too long (limit: 512 characters)"),
    ] {
        let said = put(&serve, "/v1/agent/service/register", &body).await;
        assert!(said.status == 400 && said.body.to_string().contains(why), "{said:?}");
    }
    for tags in [many, vec![String::new()]] {
        let refused = client.register(RegisterRequest { tags, ..instance("web", "native") }).await;
        assert!(refused.is_err(), "the native API keeps its limits");
    }
    survives(serve, &directory, "web", "ext").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_service_name_is_a_400_that_lists_allowed_characters() {
    let serve = ServerProcess::start(&NODE).await;
    let allowed = "use 1 to 253 letters, digits, '.', '_' or '-', starting with a letter or digit";
    for name in ["bad name!", "a/b", "caf\u{e9}", "-web", "_web", ".web", "a:b", "a\tb", &"x".repeat(254)] {
        for said in [
            put(&serve, "/v1/agent/service/register", &json!({"Name": name})).await,
            catalog(&serve, json!({"Node": "x", "Address": "10.0.0.1", "Service": {"Service": name}})).await,
        ] {
            let text = said.body.as_str().unwrap().to_owned();
            assert!(said.status == 400 && text.contains(allowed), "{name}: {text}");
        }
    }
    for name in ["v2.billing", "a_b-c", "7", &"x".repeat(253)] {
        register(&serve, json!({"Name": name})).await;
        assert_eq!(len(&get(&serve, &format!("/v1/health/service/{name}")).await.body), 1, "{name}");
    }
    assert_eq!(len(&get(&serve, "/v1/catalog/nodes").await.body), 1, "a refused registration registers no node");
    let said = get(&serve, "/v1/health/service/bad%20name!").await;
    assert_eq!((said.status, said.body), (200, json!([])), "a name that nothing can have is that of nothing");
}
