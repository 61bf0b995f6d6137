//! Policies over gRPC, on both engines: documents, revisions, errors, clients that leave, kills, exports.

use std::future::poll_fn;

use callboard::pb::callboard::v1::{
    CallerKind, GetPolicyRequest, GetPolicyResponse, ListPoliciesRequest, ListPolicyRevisionsRequest, Policy,
    RegisterRequest, SetPolicyRequest, SetPolicyResponse,
};
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{Child, Engine, ServerProcess, TestClient, TestServer, instance, metric, metric_becomes, within};

fn value(json: &serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(flag) => Kind::BoolValue(*flag),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(items) => Kind::ListValue(ListValue { values: items.iter().map(value).collect() }),
        serde_json::Value::Object(_) => Kind::StructValue(document(json)),
    };
    Value { kind: Some(kind) }
}

/// Returns a JSON object as a document.
fn document(json: &serde_json::Value) -> Struct {
    let fields = json.as_object().unwrap();
    Struct { fields: fields.iter().map(|(name, json)| (name.clone(), value(json))).collect() }
}

pub fn request(service: &str, policy: &serde_json::Value) -> SetPolicyRequest {
    SetPolicyRequest { service: service.to_owned(), policy: Some(document(policy)), ..SetPolicyRequest::default() }
}

pub async fn send(client: &TestClient, request: SetPolicyRequest) -> Result<SetPolicyResponse, Status> {
    within("SetPolicy", client.admin.clone().set_policy(request)).await.map(tonic::Response::into_inner)
}

/// Sets a policy and returns its revision.
pub async fn set(client: &TestClient, service: &str, policy: &serde_json::Value) -> u64 {
    send(client, request(service, policy)).await.unwrap().revision
}

async fn get(client: &TestClient, service: &str) -> GetPolicyResponse {
    let request = GetPolicyRequest { service: service.to_owned() };
    within("GetPolicy", client.admin.clone().get_policy(request)).await.unwrap().into_inner()
}

/// Returns the document of a policy.
async fn present(client: &TestClient, service: &str) -> Struct {
    get(client, service).await.policy.unwrap().policy.unwrap()
}

async fn revisions(client: &TestClient, service: &str) -> Vec<Policy> {
    let request = ListPolicyRevisionsRequest { service: service.to_owned() };
    let answer = within("ListPolicyRevisions", client.admin.clone().list_policy_revisions(request)).await;
    answer.unwrap().into_inner().revisions
}

/// Lists the policies of all pages of this size.
async fn list(client: &TestClient, page_size: u32) -> Vec<Policy> {
    let mut policies = Vec::new();
    let mut request = ListPoliciesRequest { page_size, ..ListPoliciesRequest::default() };
    loop {
        let page = within("ListPolicies", client.admin.clone().list_policies(request.clone())).await.unwrap();
        let page = page.into_inner();
        assert!(page_size == 0 || page.policies.len() <= page_size as usize);
        policies.extend(page.policies);
        if page.next_page_token.is_empty() {
            return policies;
        }
        request.page_token = page.next_page_token;
    }
}

/// Returns the reason of an error, and the field that it names.
fn reason(status: &Status) -> (String, String) {
    let details = status.get_error_details();
    let field = details.bad_request().map(|bad| bad.field_violations[0].field.clone());
    (details.error_info().unwrap().reason.clone(), field.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_is_set_read_and_removed_with_its_revisions_on_every_engine() {
    for engine in Engine::all() {
        let server = TestServer::on(engine, |_| {});
        let client = server.client().await;
        let never = get(&client, "web").await;
        let policy = never.policy.unwrap();
        assert_eq!((policy.revision, policy.time, policy.policy), (0, None, Some(Struct::default())));
        assert_eq!(never.inherited, [""; 0]);

        // The largest number that a field has, a list, tables and a text.
        let first = json!({
            "max_requests": 4_294_967_295_u32, "retry": {"attempts": 2, "on": ["internal", "unavailable"]},
            "subsets": {"v2": "\"v2\" in tags"}, "default": {"v2": 100}, "timeout": "5s",
        });
        let answer = send(&client, request("web", &first)).await.unwrap();
        assert!(answer.changed);
        assert_eq!(answer.policy.as_ref(), Some(&document(&first)));
        let again = send(&client, request("web", &first)).await.unwrap();
        assert_eq!((again.changed, again.revision), (false, answer.revision));
        let read = get(&client, "web").await.policy.unwrap();
        assert_eq!((read.revision, read.policy.unwrap()), (answer.revision, document(&first)));
        let caller = read.caller.unwrap();
        assert_eq!((caller.kind(), read.time.is_some()), (CallerKind::Grpc, true));
        assert!(caller.peer.starts_with("127.0.0.1:"), "{caller:?}");

        // Fields with their built-in values are kept, because they differ from open ones.
        let explicit = json!({"lb": "round_robin", "timeout": "0s"});
        let second = set(&client, "web", &explicit).await;
        let removed = send(&client, SetPolicyRequest { service: "web".into(), ..Default::default() }).await.unwrap();
        assert!(removed.changed && removed.revision > second && second > answer.revision);
        assert_eq!(present(&client, "web").await, Struct::default());
        let revisions = revisions(&client, "web").await;
        let kept: Vec<_> = revisions.iter().map(|kept| (kept.revision, kept.policy.clone().unwrap())).collect();
        assert_eq!(
            kept,
            [(removed.revision, Struct::default()), (second, document(&explicit)), (answer.revision, document(&first))]
        );
        // A policy has a place in the order of all changes, and is no event of an instance.
        let next = client.register(instance("web", "a")).await.unwrap().revision;
        assert!(next > removed.revision);
        assert_eq!(client.events().await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effective_policy_names_the_fields_that_come_from_the_defaults() {
    let server = TestServer::open();
    let client = server.client().await;
    set(&client, "", &json!({"timeout": "5s", "lb": "least_request"})).await;
    set(&client, "web", &json!({"lb": "weighted", "shed": 3})).await;
    let web = get(&client, "web").await;
    assert_eq!(web.inherited, ["timeout"]);
    let effective = web.effective.unwrap().fields;
    let text = |name: &str| match effective[name].kind.as_ref().unwrap() {
        Kind::StringValue(text) => text.clone(),
        other => format!("{other:?}"),
    };
    assert_eq!((text("lb"), text("timeout"), text("zone")), ("weighted".into(), "5s".into(), "off".into()));
    let other = get(&client, "other").await;
    assert_eq!(other.inherited, ["lb", "timeout"]);
    assert_eq!(other.policy.unwrap().revision, 0);
    let defaults = get(&client, "").await;
    assert_eq!(defaults.inherited, ["lb", "timeout"]);
    assert_eq!(defaults.effective, other.effective);
    assert_eq!(metric(server.http(), "callboard_policies").await.to_string(), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_listed_in_pages_with_the_defaults_first() {
    let server = TestServer::open();
    let client = server.client().await;
    assert_eq!(list(&client, 1).await, []);
    for service in ["c", "", "gone", "a", "b"] {
        set(&client, service, &json!({"timeout": "1s"})).await;
    }
    set(&client, "gone", &json!({})).await;
    for page_size in [1, 2, 3, 4, 0] {
        let services: Vec<_> = list(&client, page_size).await.into_iter().map(|policy| policy.service).collect();
        assert_eq!(services, ["", "a", "b", "c"], "pages of {page_size}");
    }
    let request = ListPoliciesRequest { page_token: "no token".into(), ..ListPoliciesRequest::default() };
    let error = client.admin.clone().list_policies(request).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).1), (Code::InvalidArgument, "page_token".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_policy_is_rejected_with_its_field_and_changes_nothing() {
    let server = TestServer::open();
    let client = server.client().await;
    set(&client, "b", &json!({"fallback": ["web"]})).await;
    set(&client, "keyed", &json!({"slow_start": "60s"})).await;
    let route = |at: usize| {
        let header = |number: usize| (format!("x-{at}-{number}"), json!("v".repeat(256)));
        json!({"header": (0..8).map(header).collect::<serde_json::Map<_, _>>()})
    };
    let cases = [
        ("web", json!({"timeout": "soon"}), "timeout"),
        ("web", json!({"lb": null}), "lb"),
        ("web", json!({"max_requests": 1.5}), "max_requests"),
        ("web", json!({"max_requests": -1}), "max_requests"),
        ("web", json!({"max_requests": 9_007_199_254_740_993_u64}), "max_requests"),
        ("web", json!({"retries": 2}), "retries"),
        ("web", json!({"subsets": {"v2": "tags =="}}), "subsets.v2"),
        ("web", json!({"route": [{}, {"timeout": "1s"}]}), "route[1]"),
        ("web", json!({"fallback": ["b"]}), "fallback"),
        ("", json!({"fallback": ["b"]}), "fallback"),
        ("", json!({"lb": "ring_hash"}), "lb"),
        ("web", json!({"lb": "ring_hash", "weights": "response_time"}), "weights"),
        ("web", json!({"route": (0..32).map(route).collect::<Vec<_>>()}), "policy"),
        ("we b", json!({"lb": "ring_hash"}), "service"),
    ];
    for (service, policy, field) in cases {
        for dry_run in [true, false] {
            let request = SetPolicyRequest { dry_run, ..request(service, &policy) };
            let error = send(&client, request).await.unwrap_err();
            let (reason, named) = reason(&error);
            assert_eq!((error.code(), &*reason), (Code::InvalidArgument, "INVALID_FIELD"), "{error}");
            assert_eq!(named, field, "{error}");
            let message = error.message();
            assert!(message.starts_with(field) && message.contains(": "), "{message}");
        }
    }
    let number = |number| Struct { fields: [("shed".into(), Value { kind: Some(Kind::NumberValue(number)) })].into() };
    for number in [number(f64::NAN), number(f64::INFINITY), number(-0.5)] {
        let error = send(&client, SetPolicyRequest { policy: Some(number), ..request("web", &json!({})) }).await;
        assert_eq!(reason(&error.unwrap_err()).1, "shed");
    }
    let mut deep = Value { kind: None };
    for _ in 0..200 {
        deep = Value { kind: Some(Kind::ListValue(ListValue { values: vec![deep] })) };
    }
    let policy = Some(Struct { fields: [("lb".into(), deep)].into() });
    let error = send(&client, SetPolicyRequest { policy, ..request("web", &json!({})) }).await;
    assert_eq!(error.unwrap_err().code(), Code::InvalidArgument);
    let services: Vec<_> = list(&client, 0).await.into_iter().map(|policy| policy.service).collect();
    assert_eq!(services, ["b", "keyed"]);
    assert!(revisions(&client, "web").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dry_run_returns_what_would_happen_and_changes_nothing() {
    let server = TestServer::open();
    let client = server.client().await;
    let revision = set(&client, "web", &json!({"timeout": "1s"})).await;
    let dry = |policy: serde_json::Value, expected_revision| {
        let request = SetPolicyRequest { dry_run: true, expected_revision, ..request("web", &policy) };
        let client = client.clone();
        async move { send(&client, request).await }
    };
    let changing = dry(json!({"timeout": "2s", "retry": {"attempts": 1, "on": ["unavailable"]}}), None).await.unwrap();
    assert_eq!((changing.changed, changing.revision), (true, revision));
    assert_eq!(
        changing.policy,
        Some(document(&json!({"timeout": "2s", "retry": {"attempts": 1}}))),
        "the shortest form"
    );
    let same = dry(json!({"timeout": "1s"}), Some(revision)).await.unwrap();
    assert_eq!((same.changed, same.revision), (false, revision));
    assert_eq!(dry(json!({}), Some(revision + 1)).await.unwrap_err().code(), Code::Aborted);
    assert_eq!(present(&client, "web").await, document(&json!({"timeout": "1s"})));
    assert_eq!(revisions(&client, "web").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doubtful_policy_is_set_with_warnings_about_the_present_instances() {
    let server = TestServer::open();
    let client = server.client().await;
    client.register(RegisterRequest { tags: vec!["v1".into()], ..instance("web", "a") }).await.unwrap();
    let policy = json!({
        "subsets": {"v1": "\"v1\" in tags", "v2": "\"v2\" in tags"}, "default": {"v1": 90, "v2": 10}, "fallback": ["dr"],
    });
    let fields = |answer: SetPolicyResponse| -> Vec<_> {
        assert!(answer.warnings.iter().all(|warning| !warning.problem.is_empty() && !warning.hint.is_empty()));
        answer.warnings.into_iter().map(|warning| warning.field).collect()
    };
    let dry = send(&client, SetPolicyRequest { dry_run: true, ..request("web", &policy) }).await.unwrap();
    assert_eq!(fields(dry), ["subsets.v2", "default.v2", "fallback[0]"]);
    client.register(RegisterRequest { tags: vec!["v2".into()], ..instance("web", "b") }).await.unwrap();
    client.register(instance("dr", "c")).await.unwrap();
    let set = send(&client, request("web", &policy)).await.unwrap();
    assert!(set.changed);
    assert_eq!(fields(set), [""; 0]);
    assert_eq!(fields(send(&client, request("web", &json!({}))).await.unwrap()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_clients_that_expect_the_same_revision_wins() {
    let server = TestServer::open();
    let client = server.client().await;
    let mut revision = 0;
    for round in 1..=20 {
        let mut calls = JoinSet::new();
        for other in 0..2 {
            let client = server.client().await;
            let policy = json!({"timeout": format!("{}s", 10 * round + other)});
            let request = SetPolicyRequest { expected_revision: Some(revision), ..request("web", &policy) };
            calls.spawn(async move { send(&client, request).await });
        }
        let (won, lost): (Vec<_>, Vec<_>) = calls.join_all().await.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 1));
        let error = lost[0].as_ref().unwrap_err();
        let expected = revision;
        revision = won[0].as_ref().unwrap().revision;
        assert_eq!((error.code(), &*reason(error).0), (Code::Aborted, "OTHER_POLICY_REVISION"));
        let text = format!("the policy of service \"web\" has revision {revision}, not {expected}: ");
        assert!(error.message().starts_with(&text), "{error} without {text}");
        let details = error.get_error_details();
        let resource = details.resource_info().unwrap();
        assert_eq!((&*resource.resource_type, &*resource.resource_name), ("policy", "web"));
        let read = get(&client, "web").await.policy.unwrap();
        assert_eq!((read.revision, read.policy), (revision, won[0].as_ref().unwrap().policy.clone()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_of_a_client_that_leaves_is_complete_or_absent() {
    for engine in Engine::all() {
        let server = TestServer::on(engine, |_| {});
        let client = server.client().await;
        let mut before = document(&json!({}));
        let connections = "callboard_open_connections{listener=\"grpc\"}";
        let open = metric(server.http(), connections).await;
        for round in 1..=40_u64 {
            let after = json!({"timeout": format!("{round}s"), "shed": round});
            let mut leaving = server.client().await.admin;
            let mut call = Box::pin(leaving.set_policy(request("web", &after)));
            // The connection sends the request between two polls; each round leaves at another moment.
            for _ in 0..round % 8 {
                let done = poll_fn(|context| std::task::Poll::Ready(call.as_mut().poll(context).is_ready())).await;
                if done {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(call);
            drop(leaving);
            metric_becomes(server.http(), connections, |now| now <= open).await;
            let found = present(&client, "web").await;
            assert!(found == before || found == document(&after), "{found:?}");
            // A write that the registry has received is done before a later one.
            let marked = json!({"timeout": "1h", "shed": round});
            set(&client, "web", &marked).await;
            before = document(&marked);
        }
        let revisions = revisions(&client, "web").await;
        assert!(revisions.is_sorted_by(|one, other| one.revision > other.revision));
        server.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_that_was_answered_survives_a_kill_and_an_export() {
    let (old, new) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (from, to) = (old.path().to_str().unwrap(), new.path().to_str().unwrap());
    let data = ["--data-dir", from];
    let mut serve = ServerProcess::start(&data).await;
    let mut newest = 0;
    for round in 1..=5 {
        let client = serve.client().await;
        set(&client, "", &json!({"lb": "least_request", "shed": round})).await;
        newest = set(&client, "web", &json!({"timeout": format!("{round}s"), "fallback": ["dr"]})).await;
        serve = serve.restart(&data).await;
        let client = serve.client().await;
        let read = get(&client, "web").await;
        let policy = read.policy.unwrap();
        assert_eq!((policy.revision, &*read.inherited), (newest, &["lb".to_owned(), "shed".to_owned()][..]));
        let kept: Vec<_> = revisions(&client, "web").await.iter().map(|kept| kept.revision).collect();
        assert_eq!((kept.len(), kept[0]), (round, newest));
    }
    let client = serve.client().await;
    let (all, web) = (list(&client, 0).await, revisions(&client, "web").await);
    serve.child.kill().await;
    let file = old.path().join("export.jsonl");
    let file = file.to_str().unwrap();
    let ended = Child::run(&["export", "--data-dir", from, file]).await;
    assert!(ended.stderr.contains("exported 0 instances and 2 policies"), "{}", ended.stderr);
    let ended = Child::run(&["import", "--data-dir", to, file]).await;
    assert!(ended.stderr.contains("imported 0 instances and 2 policies into"), "{}", ended.stderr);
    let serve = ServerProcess::start(&["--data-dir", to]).await;
    let client = serve.client().await;
    assert_eq!((list(&client, 0).await, revisions(&client, "web").await), (all, web));
    assert!(set(&client, "web", &json!({})).await > newest);
}
