//! Hosts for which the HTTP listener serves requests: web pages must not reach it under a name of their own.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{TestServer, within};

/// Sends a request as it is written, and returns the complete response.
async fn response_to(address: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    within(request, socket.read_to_string(&mut response)).await.unwrap();
    response
}

fn request(method: &str, target: &str, host: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// Every kind of page behind the listener, and one that is not there.
const PATHS: [&str; 7] =
    ["/healthz", "/readyz", "/metrics", "/prometheus/sd", "/v1/catalog/services", "/v1/kv/a", "/absent"];

#[tokio::test]
async fn rebound_name_is_rejected_on_every_path_with_the_remedy() {
    let server = TestServer::open();
    for path in PATHS {
        for host in ["evil.example:8500", "evil.example", ":8500"] {
            let response = response_to(server.http(), &request("GET", path, host)).await;
            assert!(response.starts_with("HTTP/1.1 421 "), "{path} {host}: {response}");
            assert!(response.contains(&format!("{host:?}")), "{path} {host}: {response}");
            assert!(response.contains("--http-host"), "{path} {host}: {response}");
        }
    }
    let write = format!(
        "PUT /v1/agent/service/register HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\nContent-Length: 14\r\n\r\n{}",
        r#"{"Name":"web"}"#
    );
    assert!(response_to(server.http(), &write).await.starts_with("HTTP/1.1 421 "));
    let services = response_to(server.http(), &request("GET", "/v1/catalog/services", "localhost")).await;
    assert!(services.ends_with(r#"{"consul":[]}"#), "{services}");
}

#[tokio::test]
async fn address_localhost_and_named_host_are_served() {
    let server = TestServer::with(|config| config.http_hosts = vec!["registry.example.com".into()]);
    for host in ["127.0.0.1", "10.0.0.1:8500", "[::1]:8500", "localhost:8500", "Registry.example.com:8500"] {
        let response = response_to(server.http(), &request("GET", "/v1/status/leader", host)).await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{host}: {response}");
    }
    let other = response_to(server.http(), &request("GET", "/healthz", "other.example.com")).await;
    assert!(other.starts_with("HTTP/1.1 421 "), "{other}");
}

#[tokio::test]
async fn target_in_absolute_form_is_checked_too() {
    let server = TestServer::open();
    for (target, status) in [("http://127.0.0.1:8500/healthz", "200"), ("http://evil.example/healthz", "421")] {
        let response = response_to(server.http(), &request("GET", target, "localhost")).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {response}");
    }
}

#[tokio::test]
async fn request_without_host_is_served_in_http_1_0_only() {
    let server = TestServer::open();
    assert!(response_to(server.http(), "GET /healthz HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200 "));
    let missing = response_to(server.http(), "GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert!(missing.starts_with("HTTP/1.1 400 ") && missing.contains("no Host header"), "{missing}");
    let empty = response_to(server.http(), &request("GET", "/healthz", "")).await;
    assert!(empty.starts_with("HTTP/1.1 400 ") && empty.contains("no Host header"), "{empty}");
    let twice = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    let repeated = response_to(server.http(), twice).await;
    assert!(repeated.starts_with("HTTP/1.1 400 ") && repeated.contains("several Host headers"), "{repeated}");
}

#[tokio::test]
async fn every_response_forbids_browsers_to_guess_its_type() {
    let server = TestServer::open();
    for path in PATHS {
        for (method, host) in
            [("GET", "localhost"), ("PUT", "localhost"), ("OPTIONS", "localhost"), ("GET", "evil.example")]
        {
            let response = response_to(server.http(), &request(method, path, host)).await;
            let guarded = response.matches("\r\nX-Content-Type-Options: nosniff\r\n").count();
            assert_eq!(guarded, 1, "{method} {path} for {host}: {response}");
        }
    }
}
