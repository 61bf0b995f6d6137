//! Commands with certificates, and a server whose certificates are replaced.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use super::ID;
use crate::harness::{CertFiles, Child, Ended, TestCa, get, within};

/// `callboard serve` with gRPC over TLS alone.
struct TlsServer {
    child: Child,
    grpc: String,
    http: String,
}

impl TlsServer {
    async fn start(authority: &TestCa, files: &CertFiles) -> Self {
        let any = "127.0.0.1:0";
        let listeners = ["serve", "--grpc", "off", "--grpc-tls", any, "--http", any, "-o", "json", "--log", "warn"];
        let files =
            ["--tls-cert", files.certificate(), "--tls-key", files.key(), "--tls-client-ca", &authority.ca_path()];
        let mut child = Child::start(&[&listeners[..], &files].concat());
        let ready = child.line().await;
        assert_eq!(ready.get("grpc"), None, "{ready}");
        let at = |listener: &str| ready[listener].as_str().unwrap().to_owned();
        Self { grpc: at("grpc_tls"), http: at("http"), child }
    }

    async fn metric(&self, line: &str) {
        let at = self.http.parse().unwrap();
        within(line, async { while !get(at, "/metrics").await.1.lines().any(|shown| shown == line) {} }).await;
    }
}

/// Runs a command against this address, with these flags.
async fn run(server: &str, verb: &[&str], flags: &[&str]) -> Ended {
    Child::run(&[verb, &["--server", server], flags].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_work_over_tls() {
    let authority = TestCa::open();
    let serve = TlsServer::start(&authority, &authority.server()).await;
    let (client, ca) = (authority.workload(ID), authority.ca_path());
    let flags = ["--tls-ca", &ca, "--tls-cert", client.certificate(), "--tls-key", client.key(), "-o", "json"];

    let verb = ["register", "web", "10.0.0.1:80", "--id", "a", "--server", &serve.grpc];
    let mut instance = Child::start(&[&verb[..], &flags].concat());
    instance.of_type("registered").await;
    let mut watch = Child::start(&[&["watch", "web", "--server", &serve.grpc][..], &flags].concat());
    watch.of_type("synced").await;
    let listed = run(&serve.grpc, &["instances", "web"], &flags).await;
    assert_eq!(listed.code(), Some(0), "{}", listed.stderr);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed[0]["id"], "a");
    let clients = run(&format!("https://{}", serve.grpc), &["clients"], &flags).await;
    let clients: Value = serde_json::from_str(&clients.stdout).unwrap();
    assert_eq!(clients[0]["identity"], ID);
    assert_eq!(run(&serve.grpc, &["drain", "web/a"], &flags).await.code(), Some(0));
    assert_eq!(run(&serve.grpc, &["health", "web"], &flags).await.code(), Some(6), "the only one is draining");

    // By environment variables, as in a pod.
    let variables = [
        ("CALLBOARD_SERVER", &*format!("https://{}", serve.grpc)),
        ("CALLBOARD_TLS_CA", &ca),
        ("CALLBOARD_TLS_CERT", client.certificate()),
        ("CALLBOARD_TLS_KEY", client.key()),
    ];
    let ended = Child::start_with(&["services"], &variables).ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    instance.signal(Signal::TERM);
    assert_eq!(instance.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_error_of_a_command_names_the_remedy() {
    let (authority, stranger) = (TestCa::open(), TestCa::open());
    let serve = TlsServer::start(&authority, &authority.server()).await;
    let plain = crate::harness::ServerProcess::start(&[]).await;
    let (client, other) = (authority.workload(ID), stranger.workload(ID));
    let (ca, wrong, absent) = (authority.ca_path(), stranger.ca_path(), format!("{}/absent", authority.ca_path()));
    let own = ["--tls-cert", client.certificate(), "--tls-key", client.key()];
    let of_others = ["--tls-cert", other.certificate(), "--tls-key", other.key()];
    let mixed = ["--tls-cert", client.certificate(), "--tls-key", other.key()];
    let (grpc, plain) = (serve.grpc.as_str(), plain.address());
    let by_http = format!("http://{grpc}");
    let cases: [(&str, Vec<&str>, i32, &str); 11] = [
        (grpc, vec![], 4, "requires TLS; write https://"),
        (grpc, vec!["--tls-ca", &wrong], 4, "signed by an unknown authority; name"),
        (grpc, vec!["--tls-ca", &ca], 5, "requires a client certificate; present one with --tls-cert"),
        (grpc, [&["--tls-ca", &ca][..], &of_others].concat(), 5, "rejected the client certificate (UnknownCA)"),
        (grpc, [&["--tls-ca", &ca][..], &mixed].concat(), 2, "do not belong together"),
        (grpc, [&["--tls-ca", &ca, "--tls-server-name", "registry"][..], &own].concat(), 4, "for another name"),
        (&plain, vec!["--tls-ca", &ca], 4, "use the address of the registry's --grpc-tls"),
        (grpc, vec!["--tls-ca", &absent], 2, "absent: cannot be read"),
        (grpc, vec!["--tls-ca", client.key()], 2, "has no certificate in PEM"),
        (grpc, vec!["--tls-cert", client.certificate()], 2, "--tls-key"),
        (&by_http, vec!["--tls-ca", &ca], 2, "http:// means no TLS"),
    ];
    for (server, flags, code, said) in cases {
        let ended = run(server, &["services"], &flags).await;
        assert_eq!(ended.code(), Some(code), "{flags:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{flags:?}: {}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hangup_signal_reloads_the_files() {
    let authority = TestCa::open();
    let files = authority.server();
    let serve = TlsServer::start(&authority, &files).await;
    let (client, ca) = (authority.workload(ID), authority.ca_path());
    let flags = ["--tls-ca", &ca, "--tls-cert", client.certificate(), "--tls-key", client.key()];
    let good = fs::read(&files.certificate).unwrap();

    serve.child.signal(Signal::HUP);
    serve.metric("callboard_tls_reloads_total{result=\"ok\"} 1").await;
    // Malformed, and noticed without a signal; then read again on a signal.
    fs::write(&files.certificate, "malformed").unwrap();
    serve.metric("callboard_tls_reloads_total{result=\"failed\"} 1").await;
    serve.child.signal(Signal::HUP);
    serve.metric("callboard_tls_reloads_total{result=\"failed\"} 2").await;
    let ended = run(&serve.grpc, &["services"], &flags).await;
    assert_eq!(ended.code(), Some(0), "the previous certificate stays in use: {}", ended.stderr);
    fs::write(&files.certificate, good).unwrap();
    serve.metric("callboard_tls_reloads_total{result=\"ok\"} 2").await;

    serve.child.signal(Signal::TERM);
    let ended = serve.child.ended().await;
    assert_eq!(ended.code(), Some(0));
    let line = ended.stderr.lines().find(|line| line.contains("certificate not reloaded")).unwrap();
    assert!(line.contains("server.crt: has no certificate in PEM; put"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exposed_server_without_client_authority_does_not_start() {
    let authority = TestCa::open();
    let files = authority.server();
    let flags = ["--tls-cert", files.certificate(), "--tls-key", files.key()];
    let ended = Child::run(&[&["serve", "--grpc-tls", "0.0.0.0:0"][..], &flags].concat()).await;
    assert_eq!(ended.code(), Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("--grpc-tls: 0.0.0.0:0 can be reached from other machines"), "{}", ended.stderr);
    assert!(ended.stderr.contains("--tls-client-ca"), "{}", ended.stderr);

    let broken = ["serve", "--grpc-tls", "127.0.0.1:0", "--tls-cert", files.key(), "--tls-key", files.key()];
    let ended = Child::run(&broken).await;
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("server.key: has no certificate in PEM; put"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn insecure_listener_is_logged_and_counted() {
    let open = ["serve", "--grpc", "0.0.0.0:0", "--http", "127.0.0.1:0", "--allow-insecure-remote", "-o", "json"];
    let mut child = Child::start(&open);
    let ready = child.line().await;
    let (_, page) = get(ready["http"].as_str().unwrap().parse().unwrap(), "/metrics").await;
    assert!(page.lines().any(|line| line == "callboard_insecure_listeners 1"), "{page}");
    child.signal(Signal::TERM);
    let said = child.ended().await.stderr;
    assert!(said.contains("any client that reaches this listener can read and change every registration"), "{said}");
}
