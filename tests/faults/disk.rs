//! Disks that are full, read-only or forbidden, and a file that is taken away. The registry stops and says why, or does not start;
//! what it acknowledged is there when the disk is well again.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use crate::harness::{Child, Ended, Reader, ServerProcess, SmallDisk, instance};
use callboard::pb::callboard::v1::RegisterRequest;

/// User id without any files.
const UNPRIVILEGED_USER: u32 = 65_534;

fn data(directory: &Path) -> String {
    directory.join("data").to_str().unwrap().to_owned()
}

/// Registers large instances until a registration fails. Returns the acknowledged ids, and the end of the registry.
async fn fill(serve: ServerProcess) -> (Vec<String>, Ended) {
    let (client, mut acknowledged) = (serve.client().await, Vec::new());
    for number in 0..100_000 {
        let id = format!("i{number}");
        let metadata = [("k".to_owned(), "x".repeat(4_000))].into();
        match client.register(RegisterRequest { metadata, ..instance("web", &id) }).await {
            Ok(_) => acknowledged.push(id),
            Err(refused) => {
                let codes = [tonic::Code::Unavailable, tonic::Code::Unknown];
                assert!(codes.contains(&refused.code()), "{refused}");
                return (acknowledged, serve.child.ended().await);
            }
        }
    }
    panic!("the disk did not become full");
}

/// Asserts that the process ended with exit code 1 and these words in its error.
fn assert_failed(ended: &Ended, said: &[&str]) {
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    for word in said {
        assert!(ended.stderr.contains(word), "`{word}` is not in: {}", ended.stderr);
    }
}

/// Asserts that all acknowledged registrations are there, and at most one other, whose request was open when the disk failed.
async fn assert_kept(serve: &ServerProcess, acknowledged: &[String]) {
    let mut reader = Reader::of(&serve.client().await, &["web"]).await;
    reader.until("synced", |view| !view.token.is_empty()).await;
    let there = &reader.view.set;
    let lost: Vec<_> = acknowledged.iter().filter(|id| reader.view.get("web", id).is_none()).collect();
    assert!(lost.is_empty(), "{lost:?} were acknowledged, and are lost");
    assert!(
        there.len() <= acknowledged.len() + 1,
        "{} were acknowledged, {} are there",
        acknowledged.len(),
        there.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "mounts a disk, as root: just faults"]
async fn full_disk_stops_the_registry_and_keeps_acknowledged_changes() {
    let Some(disk) = SmallDisk::mount("size=8m") else { return };
    let data = data(disk.path());
    let (acknowledged, ended) = fill(ServerProcess::start(&["--data-dir", &data]).await).await;
    println!("{} registrations fill it, then: {}", acknowledged.len(), ended.stderr.trim());
    assert!(acknowledged.len() > 100);
    assert_failed(
        &ended,
        &["registry.redb", "No space left on device", "free some space and start the registry again"],
    );
    disk.remount("size=64m");
    let serve = ServerProcess::start(&["--data-dir", &data]).await;
    assert_kept(&serve, &acknowledged).await;
    serve.client().await.register(instance("web", "one-more")).await.unwrap();
}

/// The same for a file that may not grow: it needs no disk of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs bash: just faults"]
async fn file_at_its_size_limit_stops_the_registry_and_keeps_acknowledged_changes() {
    let directory = tempfile::tempdir().unwrap();
    let data = data(directory.path());
    let mut command = tokio::process::Command::new("bash");
    // In KiB. Without the trap, the signal would end it before the error is seen.
    command.args(["-c", r#"trap "" XFSZ; ulimit -f 6144; exec "$@""#, "bash", env!("CARGO_BIN_EXE_callboard")]);
    command.args(["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "-o", "json", "--log", "warn"]);
    command.args(["--data-dir", &data]);
    let (acknowledged, ended) = fill(ServerProcess::ready(Child::spawn(command)).await).await;
    println!("{} registrations fill it, then: {}", acknowledged.len(), ended.stderr.trim());
    assert_failed(&ended, &["registry.redb", "File too large", "start the registry again"]);
    let serve = ServerProcess::start(&["--data-dir", &data]).await;
    assert_kept(&serve, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "mounts a disk, as root: just faults"]
async fn read_only_disk_is_rejected_at_the_start() {
    let Some(disk) = SmallDisk::mount("size=8m") else { return };
    let data = data(disk.path());
    disk.remount("ro");
    let fresh = Child::run(&["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", &data]).await;
    assert_failed(
        &fresh,
        &[&data, "Read-only file system", "make it writable, or choose another directory with --data-dir"],
    );
    disk.remount("rw");
    let serve = ServerProcess::start(&["--data-dir", &data]).await;
    serve.client().await.register(instance("web", "a")).await.unwrap();
    serve.child.kill().await;
    disk.remount("ro");
    let again = Child::run(&["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", &data]).await;
    assert_failed(
        &again,
        &[&data, "Read-only file system", "make it writable, or choose another directory with --data-dir"],
    );
    disk.remount("rw");
    assert_kept(&ServerProcess::start(&["--data-dir", &data]).await, &["a".to_owned()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs it as another user where this one is root: just faults"]
async fn directory_without_permission_is_rejected_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let closed = directory.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
    let data = data(&closed);
    let mut command = Child::command(&["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir", &data]);
    if rustix::process::geteuid().is_root() {
        // Permissions do not restrict root.
        command.uid(UNPRIVILEGED_USER);
    }
    let ended = Child::spawn(command).ended().await;
    assert_failed(&ended, &[&data, "Permission denied", "choose another directory with --data-dir"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "with the other disks that fail: just faults"]
async fn removed_file_stops_the_registry_before_it_acknowledges_more() {
    for durability in ["durable", "relaxed"] {
        let directory = tempfile::tempdir().unwrap();
        let data = data(directory.path());
        let arguments = ["--data-dir", &data, "--durability", durability];
        let serve = ServerProcess::start(&arguments).await;
        let client = serve.client().await;
        client.register(instance("web", "a")).await.unwrap();
        let moved = format!("{data}.moved");
        fs::rename(&data, &moved).unwrap();
        let refused = client.register(instance("web", "b")).await.unwrap_err();
        assert!(!refused.message().is_empty());
        let ended = serve.child.ended().await;
        assert_failed(
            &ended,
            &["registry.redb", "was removed or replaced while it was in use", "start the registry again"],
        );
        fs::rename(&moved, &data).unwrap();
        let serve = ServerProcess::start(&arguments).await;
        if durability == "durable" {
            assert_kept(&serve, &["a".to_owned()]).await;
        }
    }
}
