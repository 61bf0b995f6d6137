//! Registry with a data directory: kills, exports, two servers on one directory.

use callboard::pb::callboard::v1::{LeaseState, RegisterRequest};
use tempfile::TempDir;

use crate::harness::{Child, HeartbeatStream, ServerProcess, TestClient, instance, seconds};

async fn states(client: &TestClient, leases: &[bytes::Bytes]) -> Vec<LeaseState> {
    let all: Vec<_> = leases.iter().collect();
    HeartbeatStream::open(client).await.beat(&all).await.unwrap().0
}

async fn register_many(client: &TestClient, count: usize) -> Vec<bytes::Bytes> {
    let mut leases = Vec::new();
    for number in 0..count {
        let request = RegisterRequest { ttl: seconds(60.0), ..instance("web", &format!("i{number}")) };
        leases.push(client.register(request).await.unwrap().lease_id);
    }
    leases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_registry_restores_instances_and_leases() {
    let directory = TempDir::new().unwrap();
    let data = ["--data-dir", directory.path().to_str().unwrap()];
    let serve = ServerProcess::start(&data).await;
    let client = serve.client().await;
    let leases = register_many(&client, 20).await;
    client.deregister("web", "i0", &leases[0]).await.unwrap().unwrap();
    let (before, events) = (client.list("web").await, client.events().await);
    let serve = serve.restart(&data).await;
    let client = serve.client().await;
    assert_eq!(client.list("web").await, before, "revisions are restored too");
    let mut expected = vec![LeaseState::Held; 20];
    expected[0] = LeaseState::Unknown;
    assert_eq!(states(&client, &leases).await, expected, "leases continue");
    let next = client.register(instance("web", "next")).await.unwrap();
    assert!(next.revision > events.last().unwrap().revision, "revisions rise over the kill");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directory_in_use_is_rejected_with_the_process_id() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().to_str().unwrap();
    let serve = ServerProcess::start(&["--data-dir", data]).await;
    let serving = ["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", data];
    let pid = serve.child.pid().as_raw_nonzero();
    for arguments in [&serving[..], &["export", "--data-dir", data], &["import", "--data-dir", data, "/dev/null"]] {
        let ended = Child::run(arguments).await;
        assert_eq!(ended.code(), Some(1));
        let expected = if arguments[0] == "import" {
            "this is not an export".to_owned()
        } else {
            format!("in use by process {pid}")
        };
        assert!(ended.stderr.contains(&expected), "{arguments:?}: {}", ended.stderr);
    }
    serve.client().await.register(instance("web", "a")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imported_export_is_the_same_registry_in_another_directory() {
    let (old, new) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let file = old.path().join("export.jsonl");
    let (from, to, file) = (old.path().to_str().unwrap(), new.path().to_str().unwrap(), file.to_str().unwrap());
    let serve = ServerProcess::start(&["--data-dir", from]).await;
    let client = serve.client().await;
    let leases = register_many(&client, 20).await;
    let before = client.list("web").await;
    serve.child.kill().await;
    let ended = Child::run(&["export", "--data-dir", from, file]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("exported 20 instances"), "{}", ended.stderr);
    let ended = Child::run(&["export", "--data-dir", from]).await;
    assert_eq!(ended.stdout, std::fs::read_to_string(file).unwrap(), "data goes to standard output");
    assert_eq!(ended.stdout.lines().count(), 21);
    let ended = Child::run(&["import", "--data-dir", to, file]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let again = Child::run(&["import", "--data-dir", to, file]).await;
    assert_eq!(again.code(), Some(1));
    assert!(again.stderr.contains("holds a registry already"), "{}", again.stderr);
    let serve = ServerProcess::start(&["--data-dir", to]).await;
    let client = serve.client().await;
    assert_eq!(client.list("web").await, before);
    assert!(states(&client, &leases).await.iter().all(|state| *state == LeaseState::Held));
    let nothing = Child::run(&["export", "--data-dir", "/nonexistent"]).await;
    assert!(nothing.stderr.contains("holds no registry"), "{}", nothing.stderr);
}
