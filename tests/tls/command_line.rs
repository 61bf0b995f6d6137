//! The verbs with certificates, and a server whose certificates are replaced.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use super::ID;
use crate::harness::{CertFiles, Child, Ended, TestCa, get, within};

/// `callboard serve` with TLS, and nothing without.
struct Serve {
    child: Child,
    grpc: String,
    http: String,
}

impl Serve {
    async fn start(office: &TestCa, papers: &CertFiles) -> Self {
        let any = "127.0.0.1:0";
        let doors = ["serve", "--grpc", "off", "--grpc-tls", any, "--http", any, "-o", "json", "--log", "warn"];
        let files =
            ["--tls-cert", papers.certificate(), "--tls-key", papers.key(), "--tls-client-ca", &office.ca_path()];
        let mut child = Child::start(&[&doors[..], &files].concat());
        let ready = child.line().await;
        assert_eq!(ready.get("grpc"), None, "{ready}");
        let at = |door: &str| ready[door].as_str().unwrap().to_owned();
        Self { grpc: at("grpc_tls"), http: at("http"), child }
    }

    async fn metric(&self, line: &str) {
        let at = self.http.parse().unwrap();
        within(line, async { while !get(at, "/metrics").await.1.lines().any(|shown| shown == line) {} }).await;
    }
}

/// A verb against this address, with these flags.
async fn run(server: &str, verb: &[&str], flags: &[&str]) -> Ended {
    Child::run(&[verb, &["--server", server], flags].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_verbs_speak_tls() {
    let office = TestCa::open();
    let serve = Serve::start(&office, &office.server()).await;
    let (client, ca) = (office.workload(ID), office.ca_path());
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

    // By the environment, as in a pod.
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
async fn what_is_wrong_is_told_with_the_remedy() {
    let (office, stranger) = (TestCa::open(), TestCa::open());
    let serve = Serve::start(&office, &office.server()).await;
    let plain = crate::harness::ServerProcess::start(&[]).await;
    let (client, other) = (office.workload(ID), stranger.workload(ID));
    let (ca, wrong, absent) = (office.ca_path(), stranger.ca_path(), format!("{}/absent", office.ca_path()));
    let own = ["--tls-cert", client.certificate(), "--tls-key", client.key()];
    let of_others = ["--tls-cert", other.certificate(), "--tls-key", other.key()];
    let mixed = ["--tls-cert", client.certificate(), "--tls-key", other.key()];
    let (grpc, plain) = (serve.grpc.as_str(), plain.address());
    let by_http = format!("http://{grpc}");
    let cases: [(&str, Vec<&str>, i32, &str); 11] = [
        (grpc, vec![], 4, "nothing but TLS at that address; write https://"),
        (grpc, vec!["--tls-ca", &wrong], 4, "signed by nobody who is trusted here; name"),
        (grpc, vec!["--tls-ca", &ca], 5, "wants a client certificate; show one with --tls-cert"),
        (grpc, [&["--tls-ca", &ca][..], &of_others].concat(), 5, "does not accept the client certificate (UnknownCA)"),
        (grpc, [&["--tls-ca", &ca][..], &mixed].concat(), 2, "no pair of certificate and key"),
        (grpc, [&["--tls-ca", &ca, "--tls-server-name", "registry"][..], &own].concat(), 4, "for another name"),
        (&plain, vec!["--tls-ca", &ca], 4, "use the address of the registry's --grpc-tls"),
        (grpc, vec!["--tls-ca", &absent], 2, "absent: cannot be read"),
        (grpc, vec!["--tls-ca", client.key()], 2, "has no certificate in PEM"),
        (grpc, vec!["--tls-cert", client.certificate()], 2, "--tls-key"),
        (&by_http, vec!["--tls-ca", &ca], 2, "http:// is without TLS"),
    ];
    for (server, flags, code, said) in cases {
        let ended = run(server, &["services"], &flags).await;
        assert_eq!(ended.code(), Some(code), "{flags:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{flags:?}: {}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_has_the_files_read_again() {
    let office = TestCa::open();
    let papers = office.server();
    let serve = Serve::start(&office, &papers).await;
    let (client, ca) = (office.workload(ID), office.ca_path());
    let flags = ["--tls-ca", &ca, "--tls-cert", client.certificate(), "--tls-key", client.key()];
    let good = fs::read(&papers.certificate).unwrap();

    serve.child.signal(Signal::HUP);
    serve.metric("callboard_tls_reloads_total{result=\"ok\"} 1").await;
    // Broken, and noticed without a signal; then read again at one.
    fs::write(&papers.certificate, "broken").unwrap();
    serve.metric("callboard_tls_reloads_total{result=\"failed\"} 1").await;
    serve.child.signal(Signal::HUP);
    serve.metric("callboard_tls_reloads_total{result=\"failed\"} 2").await;
    let ended = run(&serve.grpc, &["services"], &flags).await;
    assert_eq!(ended.code(), Some(0), "the one before stays: {}", ended.stderr);
    fs::write(&papers.certificate, good).unwrap();
    serve.metric("callboard_tls_reloads_total{result=\"ok\"} 2").await;

    serve.child.signal(Signal::TERM);
    let ended = serve.child.ended().await;
    assert_eq!(ended.code(), Some(0));
    let complaint = ended.stderr.lines().find(|line| line.contains("the certificate stays the one before")).unwrap();
    assert!(complaint.contains("server.crt: has no certificate in PEM; put"), "{complaint}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_would_let_anybody_in_does_not_start() {
    let office = TestCa::open();
    let papers = office.server();
    let files = ["--tls-cert", papers.certificate(), "--tls-key", papers.key()];
    let ended = Child::run(&[&["serve", "--grpc-tls", "0.0.0.0:0"][..], &files].concat()).await;
    assert_eq!(ended.code(), Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("--grpc-tls: 0.0.0.0:0 can be reached from other machines"), "{}", ended.stderr);
    assert!(ended.stderr.contains("--tls-client-ca"), "{}", ended.stderr);

    let broken = ["serve", "--grpc-tls", "127.0.0.1:0", "--tls-cert", papers.key(), "--tls-key", papers.key()];
    let ended = Child::run(&broken).await;
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("server.key: has no certificate in PEM; put"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consent_is_not_forgotten() {
    let open = ["serve", "--grpc", "0.0.0.0:0", "--http", "127.0.0.1:0", "--allow-insecure-remote", "-o", "json"];
    let mut child = Child::start(&open);
    let ready = child.line().await;
    let (_, page) = get(ready["http"].as_str().unwrap().parse().unwrap(), "/metrics").await;
    assert!(page.lines().any(|line| line == "callboard_insecure_listeners 1"), "{page}");
    child.signal(Signal::TERM);
    let said = child.ended().await.stderr;
    assert!(said.contains("any client that reaches this listener can read and change every registration"), "{said}");
}
