//! Replicas over an etcd that demands certificates, or a user with a role for the keys of the registry only.

use std::{fs, path::PathBuf, time::Duration};

use bytes::Bytes;
use callboard::pb::callboard::v1::RegisterRequest;
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::Code;

use super::{
    replicas::{TTL, heartbeat, request},
    security::{enable_authentication, permit},
};
use crate::harness::{CertFiles, EtcdCluster, Reader, ServerProcess, TestCa, TestClient, seconds, wall, within};

/// Prefix of the keys of the registry `default`.
const PREFIX: &str = "/callboard/v1/default/";
/// Time for which registrations go on, in which etcd's tokens expire more than once.
const WRITING: Duration = Duration::from_secs(6);
/// Flag of etcd with a short TTL of its tokens in seconds.
const SHORT_TOKENS: &str = "--auth-token-ttl=2";

async fn replica(etcd: &EtcdCluster, settings: &[&str]) -> ServerProcess {
    ServerProcess::start(&[&["--etcd", &etcd.endpoints()], settings].concat()).await
}

/// Runs a replica that cannot start, and returns what it prints about it.
async fn failed_start(etcd: &EtcdCluster, settings: &[&str]) -> String {
    let endpoints = etcd.endpoints();
    let arguments = [&["--etcd", &endpoints], settings].concat();
    let ended = ServerProcess::begin("127.0.0.1:0", &arguments).ended().await;
    assert_eq!(ended.code(), Some(1), "{settings:?}: {}", ended.stderr);
    ended.stderr
}

/// Checks that an instance which registers at one replica is seen at another, and returns its lease and the watch.
async fn assert_one_registry(one: &TestClient, two: &TestClient) -> (Bytes, Reader) {
    let mut reader = Reader::synced(two, &["web"]).await;
    let lease = one.register(request("a")).await.unwrap().lease_id;
    reader.until("the instance", |view| view.get("web", "a").is_some()).await;
    (lease, reader)
}

fn certificate_flags<'a>(ca: &'a str, files: &'a CertFiles) -> [&'a str; 6] {
    ["--etcd-ca", ca, "--etcd-cert", files.certificate(), "--etcd-key", files.key()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn replicas_use_client_certificates_and_report_wrong_ones() {
    let (ca, other) = (TestCa::open(), TestCa::open());
    let files = ca.issue("client", &[], |_| {});
    let etcd = EtcdCluster::start_with_tls(3, &ca, &ca.server(), &files).await;
    let (authority, wrong_authority) = (ca.ca_path(), other.ca_path());
    let stranger = other.issue("stranger", &[], |_| {});
    let settings = certificate_flags(&authority, &files);
    let sharing = async {
        let (one, two) = (replica(&etcd, &settings).await, replica(&etcd, &settings).await);
        assert_one_registry(&one.client().await, &two.client().await).await;
    };
    // A replica waits for etcd for 30 s, because certificates may be renewed meanwhile.
    let with_wrong_authority = certificate_flags(&wrong_authority, &files);
    let without_certificate = ["--etcd-ca", &authority];
    let with_wrong_certificate = certificate_flags(&authority, &stranger);
    let ((), wrong_authority, no_certificate, wrong_certificate) = tokio::join!(
        sharing,
        failed_start(&etcd, &with_wrong_authority),
        failed_start(&etcd, &without_certificate),
        failed_start(&etcd, &with_wrong_certificate),
    );
    assert!(wrong_authority.contains("signed by an unknown authority"), "{wrong_authority}");
    assert!(no_certificate.contains("client certificate"), "{no_certificate}");
    assert!(wrong_certificate.contains("the server rejected the client certificate"), "{wrong_certificate}");
}

/// Files with passwords.
#[derive(Debug)]
struct Passwords(TempDir);

impl Passwords {
    fn file(&self, password: &str) -> PathBuf {
        let path = self.0.path().join(password);
        fs::write(&path, format!("{password}\n")).unwrap();
        path
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn replicas_with_role_for_their_prefix_outlive_tokens_and_a_revoked_permission() {
    let mut etcd = EtcdCluster::start_with(1, &[SHORT_TOKENS]).await;
    enable_authentication(&mut etcd, PREFIX).await;
    let passwords = Passwords(tempfile::tempdir().unwrap());
    let file = passwords.file("public");
    let settings = ["--etcd-user", "app", "--etcd-password-file", file.to_str().unwrap()];
    let (one, two) = (replica(&etcd, &settings).await, replica(&etcd, &settings).await);
    let (first, second) = (one.client().await, two.client().await);
    let (lease, mut reader) = assert_one_registry(&first, &second).await;
    let mut kept = Box::pin(heartbeat(&second, &lease));
    let using = async {
        let began = wall();
        let mut number = 0;
        while Duration::from_millis(wall() - began) < WRITING {
            let id = format!("i{number}");
            first.register(RegisterRequest { ttl: seconds(60.0), ..request(&id) }).await.unwrap();
            reader.until("the next instance", |view| view.get("web", &id).is_some()).await;
            number += 1;
        }
        permit(&etcd, PREFIX, false).await;
        let error = first.register(request("b")).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error:?}");
        assert_eq!(second.list("web").await.len(), number + 1);
        // Heartbeats are accepted meanwhile, for longer than the TTL.
        let _ = timeout(2 * Duration::from_secs_f64(TTL), reader.read_to_the_end()).await;
        permit(&etcd, PREFIX, true).await;
        within("a registration", async { while first.register(request("b")).await.is_err() {} }).await;
        reader.until("it", |view| view.get("web", "b").is_some()).await;
        assert!(reader.view.get("web", "a").is_some());
    };
    tokio::select! {
        () = using => {}
        () = &mut kept => {}
    }
    drop(first);
    one.child.signal(rustix::process::Signal::TERM);
    let log = one.child.ended().await.stderr;
    assert!(log.contains("permission denied; grant the user a role that may read and write the keys"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn replica_without_the_right_password_or_permission_says_so_and_ends() {
    let mut etcd = EtcdCluster::start(1).await;
    enable_authentication(&mut etcd, "/callboard/v1/other/").await;
    let passwords = Passwords(tempfile::tempdir().unwrap());
    let (right, wrong) = (passwords.file("public"), passwords.file("wrong"));
    let no_user = failed_start(&etcd, &[]).await;
    assert!(no_user.contains("etcd requires a user, and none is configured"), "{no_user}");
    let user = |file| ["--etcd-user", "app", "--etcd-password-file", file];
    let wrong_password = failed_start(&etcd, &user(wrong.to_str().unwrap())).await;
    assert!(wrong_password.contains("authentication failed"), "{wrong_password}");
    assert!(wrong_password.contains("check the user and the password of etcd"), "{wrong_password}");
    let denied = failed_start(&etcd, &user(right.to_str().unwrap())).await;
    assert!(denied.contains("permission denied; grant the user a role"), "{denied}");
    // Another registry of the same etcd is open to this user.
    let settings = [&user(right.to_str().unwrap())[..], &["--cluster", "other"]].concat();
    let (one, two) = (replica(&etcd, &settings).await, replica(&etcd, &settings).await);
    assert_one_registry(&one.client().await, &two.client().await).await;
}
