//! Exports of running registries, and registries in memory that start with an export.

pub mod contents;
pub mod program;

use std::os::unix::fs::PermissionsExt as _;

use callboard::pb::callboard::v1::{ExportRegistryRequest, ExportRegistryResponse, LeaseState, RegisterRequest};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    consul_replay::client::ask,
    harness::{Child, ServerProcess, TestClient, TestServer, free_port, instance, seconds, steady_port, within},
};
use contents::{MovingContents, assert_lease_is, run};
use program::MovingProgram;

/// Starts a registry in memory, whichever engine other tests use.
pub async fn in_memory(grpc: &str, more: &[&str]) -> ServerProcess {
    ServerProcess::ready(ServerProcess::begin(grpc, more)).await
}

/// Returns an address to which a registry can return.
pub fn steady_address() -> String {
    format!("127.0.0.1:{}", steady_port())
}

/// Returns a lease id as exports have it.
fn digits(lease: &[u8]) -> String {
    format!("{:032x}", u128::from_be_bytes(lease.try_into().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_moves_from_memory_to_disk_while_programs_use_it() {
    let (grpc, files) = (steady_address(), TempDir::new().unwrap());
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let (exported, disk) = (path("registry.jsonl"), path("disk"));
    let first = in_memory(&grpc, &[]).await;
    let (mut program, lease) = MovingProgram::start(&grpc).await;
    let contents = MovingContents::register(&first).await;

    let ended = run(&["export", "--server", &grpc, &exported]).await;
    let text = std::fs::read_to_string(&exported).unwrap();
    let header: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let summary =
        format!("exported {} instances and 1 policies at revision {}", header["instances"], header["revision"]);
    assert!(ended.stderr.contains(&summary), "{}", ended.stderr);
    assert_eq!(std::fs::metadata(&exported).unwrap().permissions().mode() & 0o777, 0o600);
    for secret in [&lease, &contents.lease] {
        assert!(!text.contains(&digits(secret)), "a lease id left the registry");
    }
    first.kill().await;
    run(&["import", "--data-dir", &disk, &exported]).await;
    let second = ServerProcess::start_at(&grpc, &["--data-dir", &disk]).await;
    contents.assert_present(&second).await;
    contents.assert_lease_is(&second, LeaseState::Unknown).await;
    contents.assert_registers_again(&second).await;
    let lease = program.registers_again().await;
    assert_lease_is(&lease, &second, LeaseState::Held).await;
    program.is_seen().await;
    program.assert_never_missed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_moves_from_disk_to_memory_with_its_leases() {
    let (grpc, files) = (steady_address(), TempDir::new().unwrap());
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let (exported, disk) = (path("registry.jsonl"), path("disk"));
    let first = ServerProcess::start_at(&grpc, &["--data-dir", &disk]).await;
    let (mut program, lease) = MovingProgram::start(&grpc).await;
    let contents = MovingContents::register(&first).await;
    let before = first.client().await.list("web").await;
    first.kill().await;
    run(&["export", "--data-dir", &disk, &exported]).await;
    assert!(
        std::fs::read_to_string(&exported).unwrap().contains(&digits(&lease)),
        "the export of a store has lease ids"
    );

    let imports = ["--import", &exported, "--settle", "0"];
    let second = in_memory(&grpc, &imports).await;
    contents.assert_present(&second).await;
    contents.assert_lease_is(&second, LeaseState::Held).await;
    program.resumes().await;
    assert_lease_is(&lease, &second, LeaseState::Held).await;
    program.is_seen().await;
    program.assert_never_missed();
    let client = second.client().await;
    assert_eq!(client.list("web").await, before, "revisions, too");
    let newer = client.register(instance("web", "b")).await.unwrap();
    assert!(newer.revision > before[0].revision);

    // The next start begins with the export again.
    client.deregister("web", "a", &contents.lease).await.unwrap().unwrap();
    second.kill().await;
    let third = in_memory(&grpc, &imports).await;
    assert_eq!(third.client().await.list("web").await, before);
    program.resumes().await;
    program.assert_never_missed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_in_memory_restarts_with_its_own_export() {
    let (grpc, files) = (steady_address(), TempDir::new().unwrap());
    let exported = files.path().join("registry.jsonl").to_str().unwrap().to_owned();
    let first = in_memory(&grpc, &[]).await;
    let contents = MovingContents::register(&first).await;
    let ended = run(&["export", "--server", &grpc]).await;
    std::fs::write(&exported, &ended.stdout).unwrap();
    first.kill().await;
    let second = in_memory(&grpc, &["--import", &exported]).await;
    contents.assert_present(&second).await;
    contents.assert_registers_again(&second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_export_ends_the_start_before_anything_is_served() {
    let files = TempDir::new().unwrap();
    let file = files.path().join("registry.jsonl").to_str().unwrap().to_owned();
    let header = r#"{"callboard_export":1,"revision":9,"instances":1}"#;
    let line = r#"{"service":"web","id":"a","addresses":[{"host":"::1","port":80000}],"weight":1,"registered_at":"2026-01-31T12:00:00Z","registered_revision":1,"revision":8}"#;
    let serve = ["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "-o", "json", "--import", &file];
    for (text, reason) in [
        ("hello\n".to_owned(), "line 1: "),
        (format!("{header}\n"), "the export has 0 instances, but its first line says 1"),
        (format!("{header}\n{line}\n"), "line 2: addresses[0].port"),
        (format!("{header}\n{}", &line[..line.len() - 9]), "line 2: "),
    ] {
        std::fs::write(&file, text).unwrap();
        let ended = Child::run(&serve).await;
        assert_eq!((ended.code(), &*ended.stdout), (Some(1), ""), "{}", ended.stderr);
        assert!(ended.stderr.contains(&format!("error: {file}: {reason}")), "{}", ended.stderr);
    }
    std::fs::remove_file(&file).unwrap();
    let ended = Child::run(&serve).await;
    assert_eq!((ended.code(), &*ended.stdout), (Some(1), ""));
    assert!(ended.stderr.contains(&format!("error: {file}: cannot read: ")), "{}", ended.stderr);
    let ended = Child::run(&[&serve[..], &["--data-dir", files.path().to_str().unwrap()]].concat()).await;
    assert_eq!(ended.code(), Some(2));
    assert!(ended.stderr.contains("--import: ") && ended.stderr.contains("`callboard import`"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_without_a_registry_leaves_an_earlier_export() {
    let files = TempDir::new().unwrap();
    let file = files.path().join("registry.jsonl").to_str().unwrap().to_owned();
    std::fs::write(&file, "earlier").unwrap();
    let (one, other) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    for servers in [one.clone(), format!("{one},{other}")] {
        let ended = Child::run(&["export", "--server", &servers, &file]).await;
        assert_eq!(ended.code(), Some(4), "{}", ended.stderr);
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "earlier");
    let ended = Child::run(&["export", &file]).await;
    assert_eq!(ended.code(), Some(2));
    assert!(ended.stderr.contains("name the registry with --data-dir, --etcd or --server"), "{}", ended.stderr);
    for store in [["--data-dir", "x"], ["--etcd", "http://127.0.0.1:1"]] {
        let ended = Child::run(&["export", "--server", &one, store[0], store[1], &file]).await;
        assert_eq!(ended.code(), Some(2), "{}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_uses_the_server_that_answers_and_not_the_directory_of_the_environment() {
    let (server, down) = (TestServer::open(), format!("127.0.0.1:{}", free_port()));
    server.client().await.register(instance("web", "a")).await.unwrap();
    let servers = format!("{down},{}", server.grpc());
    let arguments = ["export", "--server", &servers, "--consistent"];
    let ended = Child::start_with(&arguments, &[("CALLBOARD_DATA_DIR", "/nonexistent")]).ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("exported 1 instances at revision"), "{}", ended.stderr);
    assert!(ended.stdout.lines().nth(1).unwrap().starts_with(r#"{"service":"web","id":"a""#), "{}", ended.stdout);
    let ended = Child::start_with(&["export"], &[("CALLBOARD_DATA_DIR", "/nonexistent")]).ended().await;
    assert!(ended.stderr.contains("/nonexistent holds no registry"), "{}", ended.stderr);
}

/// Reads an export to its end. Returns the first part, and all bytes.
async fn read(client: &TestClient) -> (ExportRegistryResponse, Vec<u8>) {
    let answer = within("an export", client.admin.clone().export_registry(ExportRegistryRequest::default())).await;
    let mut parts = answer.unwrap().into_inner();
    let first = within("the first part", parts.message()).await.unwrap().unwrap();
    let mut text = first.data.to_vec();
    while let Some(part) = within("a part", parts.message()).await.unwrap() {
        assert_eq!(part, ExportRegistryResponse { data: part.data.clone(), ..Default::default() });
        text.extend(part.data);
    }
    (first, text)
}

/// Returns the lines of an export after the first one.
fn lines(text: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(text).unwrap();
    text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_is_one_state_while_an_id_moves_between_services() {
    let server = TestServer::open();
    let (client, http) = (server.client().await, server.http());
    for number in 0..200 {
        client.register(instance(&format!("between-{number}"), "a")).await.unwrap();
    }
    let register = async move |service: &str| {
        let body = json!({"ID": "moving", "Name": service, "Port": 1}).to_string();
        let answer = ask(http, "PUT", "/v1/agent/service/register", &body, |text| text).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    register("a").await;
    let writer = tokio::spawn(async move {
        loop {
            register("z").await;
            register("a").await;
        }
    });
    let mut services = std::collections::BTreeSet::new();
    let exports = async {
        while services.len() < 2 {
            for _ in 0..10 {
                let (first, text) = read(&client).await;
                let lines = lines(&text);
                let moving: Vec<_> = lines.iter().filter(|line| line["id"] == "moving").collect();
                let [moving] = moving[..] else { panic!("{moving:?}") };
                let newest = lines.iter().map(|line| line["revision"].as_u64().unwrap()).max();
                assert!(newest <= Some(first.revision), "{newest:?} in an export at {}", first.revision);
                assert_eq!(first.instances, lines.len() as u64);
                services.insert(moving["service"].as_str().unwrap().to_owned());
            }
        }
    };
    within("exports of both states", exports).await;
    assert!(!writer.is_finished());
    writer.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_that_is_read_late_has_the_state_of_its_beginning_and_stops_no_writer() {
    let server = TestServer::open();
    let writer = server.client().await;
    let metadata = std::collections::HashMap::from([("text".to_owned(), "x".repeat(2_000))]);
    let mut leases = Vec::new();
    for number in 0..200 {
        let request = RegisterRequest {
            metadata: metadata.clone(),
            ttl: seconds(60.0),
            ..instance("web", &format!("i{number}"))
        };
        leases.push(writer.register(request).await.unwrap().lease_id);
    }
    // The windows of the reader are much smaller than the export.
    let windows = |endpoint: tonic::transport::Endpoint| {
        endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535)
    };
    let reader = TestClient::connect_with(server.grpc(), windows).await;
    let answer = within("an export", reader.admin.clone().export_registry(ExportRegistryRequest::default())).await;
    let mut parts = answer.unwrap().into_inner();
    let first = within("the first part", parts.message()).await.unwrap().unwrap();
    let late = writer.register(instance("web", "late")).await.unwrap();
    writer.deregister("web", "i199", &leases[199]).await.unwrap().unwrap();
    let mut text = first.data.to_vec();
    while let Some(part) = within("a part", parts.message()).await.unwrap() {
        text.extend(part.data);
    }
    assert!(text.len() > 400_000 && first.revision < late.revision);
    let lines = lines(&text);
    let has = |id: &str| lines.iter().any(|line| line["id"] == id);
    assert!(has("i199") && !has("late"));
    assert_eq!((lines.len(), first.instances), (200, 200));
}
