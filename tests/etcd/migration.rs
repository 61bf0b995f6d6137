//! A registry that moves between stores: from disk to etcd, within etcd, back to disk, and from memory to etcd.

use std::time::Duration;

use callboard::{
    etcd::{EtcdClient, EtcdRange},
    pb::callboard::v1::LeaseState,
};
use tempfile::TempDir;

use crate::{
    harness::{Child, Direction, EtcdCluster, Flow, Proxy, ServerProcess, instance, within},
    live_export::{
        contents::{MovingContents, assert_lease_is, run},
        in_memory,
        program::MovingProgram,
        steady_address,
    },
};

/// Asserts that a registry has everything that was registered, and that the heartbeats of the first lease continue.
async fn assert_moved(server: &ServerProcess, contents: &MovingContents) {
    contents.assert_lease_is(server, LeaseState::Held).await;
    contents.assert_present(server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn registry_moves_from_disk_to_etcd_and_back_with_leases_policies_and_checks() {
    let (etcd, files) = (EtcdCluster::start(1).await, TempDir::new().unwrap());
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let endpoints = etcd.endpoints();
    let (disk, exported) = (path("disk"), path("first.jsonl"));
    let server = ServerProcess::start(&["--data-dir", &disk]).await;
    let contents = MovingContents::register(&server).await;
    server.kill().await;

    // From disk to etcd, where replicas run during the next export.
    run(&["export", "--data-dir", &disk, &exported]).await;
    let import = ["import", "--etcd", &endpoints, "--cluster", "one", &exported];
    run(&import).await;
    let again = Child::run(&import).await;
    assert!(
        !again.status.success() && again.stderr.contains("has keys of a registry named \"one\""),
        "{}",
        again.stderr
    );
    let one = ServerProcess::start(&["--etcd", &endpoints, "--cluster", "one"]).await;
    assert_moved(&one, &contents).await;

    // Within etcd, where the revisions are higher than those of the new registry's history, and lower.
    let second = path("second.jsonl");
    run(&["export", "--etcd", &endpoints, "--cluster", "one", &second]).await;
    run(&["import", "--etcd", &endpoints, "--cluster", "two", &second]).await;
    one.kill().await;
    let two = ServerProcess::start(&["--etcd", &endpoints, "--cluster", "two"]).await;
    assert_moved(&two, &contents).await;
    two.kill().await;

    // And back to disk.
    let (third, back) = (path("third.jsonl"), path("back"));
    run(&["export", "--etcd", &endpoints, "--cluster", "two", &third]).await;
    run(&["import", "--data-dir", &back, &third]).await;
    let server = ServerProcess::start(&["--data-dir", &back]).await;
    assert_moved(&server, &contents).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn registry_moves_from_memory_to_etcd_while_programs_use_it() {
    let (etcd, files, grpc) = (EtcdCluster::start(1).await, TempDir::new().unwrap(), steady_address());
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let (endpoints, exported) = (etcd.endpoints(), path("first.jsonl"));
    let memory = in_memory(&grpc, &[]).await;
    let (mut program, _) = MovingProgram::start(&grpc).await;
    let contents = MovingContents::register(&memory).await;
    run(&["export", "--server", &grpc, &exported]).await;
    memory.kill().await;
    run(&["import", "--etcd", &endpoints, "--cluster", "one", &exported]).await;
    let replica = ServerProcess::start_at(&grpc, &["--etcd", &endpoints, "--cluster", "one"]).await;
    contents.assert_present(&replica).await;
    contents.assert_lease_is(&replica, LeaseState::Unknown).await;
    contents.assert_registers_again(&replica).await;
    let lease = program.registers_again().await;
    assert_lease_is(&lease, &replica, LeaseState::Held).await;
    program.is_seen().await;

    // A replica exports its registry, too, and memory can be the target.
    let second = path("second.jsonl");
    run(&["export", "--server", &grpc, "--consistent", &second]).await;
    replica.kill().await;
    let memory = in_memory(&grpc, &["--import", &second, "--settle", "0"]).await;
    contents.assert_present(&memory).await;
    let lease = program.registers_again().await;
    assert_lease_is(&lease, &memory, LeaseState::Held).await;
    program.is_seen().await;
    program.assert_never_missed();
}

/// Returns the number of keys with this prefix.
async fn count(client: &EtcdClient, prefix: &str) -> usize {
    client.range(EtcdRange::prefix(prefix.to_owned())).await.unwrap().entries.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn replica_does_not_start_with_a_part_of_an_import() {
    let (etcd, files) = (EtcdCluster::start(1).await, TempDir::new().unwrap());
    let exported = files.path().join("export.jsonl").to_str().unwrap().to_owned();
    let memory = ServerProcess::start(&[]).await;
    let client = memory.client().await;
    for number in 0..600 {
        client.register(instance("web", &format!("i{number}"))).await.unwrap();
    }
    run(&["export", "--server", &memory.address(), &exported]).await;

    // Each of several transactions takes a while, and the import is killed after one of them.
    let proxy = Proxy::before(etcd.address(0)).await;
    proxy.flow(Direction::Down, Flow::Late(Duration::from_millis(200)));
    let through = format!("http://{}", proxy.address());
    let import = Child::start(&["import", "--etcd", &through, "--cluster", "one", &exported]);
    let reader = etcd.client();
    within("a part of the import", async {
        while count(&reader, "/callboard/v1/one/i/").await == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    import.kill().await;
    let arguments = ["--etcd", &etcd.endpoints(), "--cluster", "one", "--dns", "off"];
    let ended = ServerProcess::begin("127.0.0.1:0", &arguments).ended().await;
    assert!(ended.stderr.contains("an import is writing the keys below /callboard/v1/one/"), "{}", ended.stderr);
    assert_eq!(count(&reader, "/callboard/v1/one/meta").await, 0);
    let again = Child::run(&["import", "--etcd", &etcd.endpoints(), "--cluster", "one", &exported]).await;
    assert!(!again.status.success() && again.stderr.contains("remove the keys below"), "{}", again.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn export_of_a_registry_that_does_not_exist_fails() {
    let etcd = EtcdCluster::start(1).await;
    let ended = Child::run(&["export", "--etcd", &etcd.endpoints(), "--cluster", "none"]).await;
    assert!(!ended.status.success() && ended.stderr.contains("no registry named \"none\""), "{}", ended.stderr);
}
