//! HTTP checks: requests that the target receives, and outputs. Also targets of other checks, and outputs of reports.

mod redirects;

use std::net::SocketAddr;

use callboard::pb::callboard::v1::{
    Check, CheckStatus, GrpcProbe, HttpHeader, HttpProbe, RegisterRequest, TcpProbe, check::Probe,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::Code;

use crate::{
    consul_replay::client,
    harness::{Child, Page, PageRequest, Reader, ServerProcess, View, instance, seconds, within},
};

/// Response of Consul's API.
#[derive(Debug)]
struct ConsulResponse {
    status: u16,
    index: String,
    body: Value,
}

async fn ask(server: &ServerProcess, method: &str, path: &str, body: &str) -> ConsulResponse {
    let answer = client::ask(server.http, method, path, body, |text| text).await;
    let index = answer.headers.get("X-Consul-Index").cloned().unwrap_or_default();
    ConsulResponse { status: answer.status, index, body: answer.body }
}

/// Registers a service with a check. The initial status of the check is not the expected one.
async fn register(server: &ServerProcess, name: &str, expected: &str, mut check: Value) {
    check["Status"] = if expected == "passing" { "critical" } else { "passing" }.into();
    check.as_object_mut().unwrap().entry("Interval").or_insert("1s".into());
    let body = json!({"Name": name, "Check": check}).to_string();
    let answer = ask(server, "PUT", "/v1/agent/service/register", &body).await;
    assert_eq!(answer.status, 200, "{body}: {answer:?}");
}

/// Waits until the check of a service has the expected status, and returns its output.
async fn output(server: &ServerProcess, name: &str, expected: &str) -> String {
    let reached = async {
        let mut index = "0".to_owned();
        loop {
            let path = format!("/v1/health/checks/{name}?index={index}&wait=10s");
            let answer = ask(server, "GET", &path, "").await;
            if answer.body[0]["Status"] == expected {
                return;
            }
            index = answer.index;
        }
    };
    within(&format!("{name} is {expected}"), reached).await;
    let checks = ask(server, "GET", "/v1/agent/checks", "").await.body;
    let check = checks.as_object().unwrap().values().find(|check| check["ServiceName"] == name).unwrap();
    check["Output"].as_str().unwrap().to_owned()
}

/// Registers a service with a check, and returns the output with the expected status.
async fn register_and_wait(server: &ServerProcess, name: &str, expected: &str, check: Value) -> String {
    register(server, name, expected, check).await;
    output(server, name, expected).await
}

/// Returns the headers that are not sent with all requests.
fn special_headers(seen: &PageRequest) -> Vec<(String, &str)> {
    let common = ["host", "user-agent", "accept", "connection"];
    let headers = seen.headers.iter().map(|(name, value)| (name.to_lowercase(), value.as_str()));
    headers.filter(|(name, _)| !common.contains(&name.as_str())).collect()
}

/// Returns passing checks of the recording from Consul, and two more: name, definition, and output without `HTTP `.
fn recorded(at: SocketAddr) -> Vec<(&'static str, Value, String)> {
    let post = json!({"HTTP": format!("http://{at}/b"), "Method": "POST", "Body": "{}",
        "Header": {"Content-Type": ["application/json"], "x-a": ["1", "2"]}});
    vec![
        (
            "h1",
            json!({"HTTP": format!("http://{at}/a"), "Method": "HEAD"}),
            format!("HEAD http://{at}/a: 200 OK Output: "),
        ),
        ("h2", post, format!("POST http://{at}/b: 200 OK Output: ok")),
        ("h3", json!({"HTTP": format!("http://{at}/302")}), format!("GET http://{at}/302: 200 OK Output: ok")),
        ("h5", json!({"HTTP": format!("http://{at}/headers")}), format!("GET http://{at}/headers: 200 OK Output: ok")),
        (
            "h6",
            json!({"HTTP": format!("http://{at}/long"), "OutputMaxSize": 64}),
            format!("GET http://{at}/long: 200 OK Output: llo {}", "hello ".repeat(10)),
        ),
        (
            "h7",
            json!({"HTTP": format!("http://{at}/c"), "Header": {"Host": ["canary.example.com"]}}),
            format!("GET http://{at}/c: 200 OK Output: ok"),
        ),
        (
            "h8",
            json!({"HTTP": format!("http://{at}/d"), "Method": "OPTIONS"}),
            format!("OPTIONS http://{at}/d: 200 OK Output: ok"),
        ),
        (
            "h9",
            json!({"HTTP": format!("HTTP://user:secret@{at}/e")}),
            format!("GET HTTP://user:secret@{at}/e: 200 OK Output: ok"),
        ),
        ("large", json!({"HTTP": format!("http://{at}/large")}), format!("GET http://{at}/large: 200 OK Output: ok")),
        (
            "full",
            json!({"HTTP": format!("http://{at}/long"), "Method": "PURGE", "OutputMaxSize": 1_000_000}),
            format!("PURGE http://{at}/long: 200 OK Output: {}", &"hello ".repeat(2_000)[12_000 - 4_096..]),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn target_sees_method_headers_and_body_as_recorded_from_consul() {
    let (server, page) = (ServerProcess::start(&[]).await, Page::open().await);
    let at = page.address;
    let passing = recorded(at);
    let headers: Vec<_> = (0..150).map(|n| format!("X-H{n}: {n}\r\n")).collect();
    page.answer_at("/headers", format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok", headers.concat()));
    let large = format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\nContent-Length: 2\r\n\r\nok", "x".repeat(100_000));
    page.answer_at("/large", large);
    page.answer_at("/long", format!("HTTP/1.1 200 OK\r\n\r\n{}", "hello ".repeat(2_000)));
    page.redirect("/302", 302, "/ok");
    for (name, check, _) in &passing {
        register(&server, name, "passing", check.clone()).await;
    }
    for (name, _, expected) in &passing {
        assert_eq!(output(&server, name, "passing").await, format!("HTTP {expected}"), "{name}");
    }
    let output = register_and_wait(
        &server,
        "h4",
        "critical",
        json!({"HTTP": format!("http://{at}/302"), "DisableRedirects": true}),
    )
    .await;
    assert_eq!(output, format!("HTTP GET http://{at}/302: 302 Moved Output: "));

    let host = at.to_string();
    let none: &[(String, &str)] = &[];
    for (path, method) in [("/a", "HEAD"), ("/302", "GET"), ("/ok", "GET"), ("/d", "OPTIONS"), ("/headers", "GET")] {
        let seen = page.first_request(path).await;
        assert_eq!((&*seen.method, &*special_headers(&seen), &*seen.body), (method, none, ""), "{path}");
        assert_eq!(seen.header("host"), [&*host]);
        assert_eq!(seen.header("accept"), ["text/plain, text/*, */*"]);
        assert_eq!((seen.header("user-agent").len(), seen.header("connection")), (1, vec!["close"]));
    }
    assert_eq!(page.first_request("/c").await.header("host"), ["canary.example.com"]);
    assert_eq!(page.first_request("/e").await.header("authorization"), ["Basic dXNlcjpzZWNyZXQ="]);
    let seen = page.first_request("/b").await;
    let mut headers = special_headers(&seen);
    headers.sort();
    let wanted = [("content-length", "2"), ("content-type", "application/json"), ("x-a", "1"), ("x-a", "2")];
    assert_eq!(headers, wanted.map(|(name, value)| (name.to_owned(), value)));
    assert_eq!((&*seen.method, &*seen.body), ("POST", "{}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_headers_of_a_check_are_not_sent_and_others_are() {
    let (server, page) = (ServerProcess::start(&[]).await, Page::open().await);
    let mut headers: serde_json::Map<String, Value> =
        (0..150).map(|n| (format!("X-H{n}"), json!(["v".repeat(100), "ü"]))).collect();
    for (name, value) in [
        ("Transfer-Encoding", "chunked"),
        ("content-length", "999"),
        ("Connection", "x-h1"),
        ("Keep-Alive", "1"),
        ("Upgrade", "h2c"),
        ("TE", "trailers"),
        ("Trailer", "x"),
        ("Proxy-Connection", "keep-alive"),
        ("User-Agent", "mine"),
        ("Accept", "a/b"),
    ] {
        headers.insert(name.to_owned(), json!([value]));
    }
    let check = json!({"HTTP": format!("{}x", page.url()), "Method": "PUT", "Body": "ü", "Header": headers});
    register_and_wait(&server, "web", "passing", check).await;
    register_and_wait(&server, "empty", "passing", json!({"HTTP": format!("{}y", page.url()), "Method": "PATCH"}))
        .await;
    let seen = page.first_request("/x").await;
    assert_eq!((&*seen.body, seen.header("content-length")), ("ü", vec!["2"]));
    assert_eq!((seen.header("connection"), seen.header("user-agent")), (vec!["close"], vec!["mine"]));
    assert_eq!(seen.header("accept"), ["a/b"]);
    for dropped in ["transfer-encoding", "keep-alive", "upgrade", "te", "trailer", "proxy-connection"] {
        assert_eq!(seen.header(dropped), Vec::<&str>::new(), "{dropped}");
    }
    for n in 0..150 {
        assert_eq!(seen.header(&format!("x-h{n}")), [&*"v".repeat(100), "ü"]);
    }
    assert_eq!(page.first_request("/y").await.header("content-length"), ["0"], "Go sends the length of an empty body");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_in_a_url_is_in_no_log_and_no_error() {
    let arguments = ["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "-o", "json", "--log", "trace"];
    let server = ServerProcess::ready(Child::start(&arguments)).await;
    let page = Page::open().await;
    let valid = json!({"HTTP": format!("http://user:hunter2@{}/", page.address)});
    register_and_wait(&server, "web", "passing", valid).await;
    let closed = Page::open().await.address;
    let unreachable = json!({"HTTP": format!("http://user:hunter2@{closed}/")});
    let output = register_and_wait(&server, "unreachable", "critical", unreachable).await;
    assert!(output.starts_with(&format!("Get \"http://user:***@{closed}/\": dial tcp")), "{output}");
    for url in ["http://user:hunter2@h:99999/", "http://user:hunter2@169.254.169.254/", "http://user:hunter2@/"] {
        let body = json!({"Name": "bad", "Check": {"HTTP": url, "Interval": "1s"}}).to_string();
        let error = ask(&server, "PUT", "/v1/agent/service/register", &body).await;
        assert_eq!(error.status, 400, "{url}");
        assert!(!error.body.to_string().contains("hunter2"), "{error:?}");
    }
    server.child.signal(rustix::process::Signal::TERM);
    let ended = server.child.ended().await;
    assert!(ended.stderr.contains("\"level\""), "the log is not empty: {}", ended.stderr);
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_target_with_ipv6_address_needs_brackets() {
    let server = ServerProcess::start(&[]).await;
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let output = register_and_wait(&server, "good", "passing", json!({"TCP": format!("[::1]:{port}")})).await;
    assert_eq!(output, format!("TCP connect [::1]:{port}: Success"));
    let client = server.client().await;
    for target in [format!("::1:{port}"), format!("[::1:{port}"), "[::1]:70000".to_owned(), "[::1]:".to_owned()] {
        for kind in ["TCP", "GRPC"] {
            let body = json!({"Name": "bad", "Check": {kind: target, "Interval": "1s"}}).to_string();
            let error = ask(&server, "PUT", "/v1/agent/service/register", &body).await;
            assert_eq!(error.status, 400, "{body}");
            assert!(error.body.as_str().unwrap().contains("with an IPv6 address in brackets"), "{error:?}");
        }
        let tcp = Probe::Tcp(TcpProbe { target: target.clone(), tls: None });
        let grpc = Probe::Grpc(GrpcProbe { target: target.clone(), ..GrpcProbe::default() });
        for probe in [tcp, grpc] {
            let checks = vec![Check { probe: Some(probe), ..Check::default() }];
            let error = client.register(RegisterRequest { checks, ..instance("bad", "a") }).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{target}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn report_is_limited_to_output_max_size_as_in_consul() {
    let server = ServerProcess::start(&[]).await;
    let default = json!({"TTL": "10m", "Interval": "0s"});
    let small = json!({"TTL": "10m", "Interval": "0s", "OutputMaxSize": 5});
    let large = json!({"TTL": "10m", "Interval": "0s", "OutputMaxSize": 5_000});
    for (name, check, note, kept) in [
        ("small", small.clone(), "123456".to_owned(), "12345 ... (captured 5 of 6 bytes)".to_owned()),
        ("fits", small, "12345".to_owned(), "12345".to_owned()),
        ("default", default, "x".repeat(4_100), format!("{} ... (captured 4096 of 4100 bytes)", "x".repeat(4_096))),
        ("large", large, "x".repeat(4_100), format!("{} ... (captured 4096 of 4100 bytes)", "x".repeat(4_096))),
    ] {
        register(&server, name, "passing", check).await;
        let passed = ask(&server, "PUT", &format!("/v1/agent/check/pass/service:{name}?note={note}"), "").await;
        assert_eq!(passed.status, 200, "{passed:?}");
        assert_eq!(output(&server, name, "passing").await, kept);
        let update = json!({"Status": "warning", "Output": note}).to_string();
        ask(&server, "PUT", &format!("/v1/agent/check/update/service:{name}"), &update).await;
        assert_eq!(output(&server, name, "warning").await, kept);
    }
    let body = json!({"Name": "bad", "Check": {"TTL": "10s", "OutputMaxSize": -1}}).to_string();
    let error = ask(&server, "PUT", "/v1/agent/service/register", &body).await;
    assert_eq!((error.status, error.body), (400, "Invalid check: MaxOutputMaxSize must be positive".into()));
}

/// Returns a check of the native API with every field of an HTTP probe.
fn native(address: SocketAddr) -> Check {
    let header = |name: &str, value: &str| HttpHeader { name: name.to_owned(), value: value.to_owned() };
    let request = HttpProbe {
        url: format!("http://{address}/native"),
        headers: [("X-A".to_owned(), "1".to_owned())].into(),
        method: "POST".to_owned(),
        body: "{}".to_owned(),
        disable_redirects: true,
        more_headers: vec![header("x-a", "2"), header("X-B", "3")],
        tls: None,
    };
    let timeout = seconds(1.0);
    Check { probe: Some(Probe::Http(request)), interval: seconds(1.0), timeout, output_max_size: 3, ..Check::default() }
}

/// Waits until the check of `web/a` has this status, and returns its output.
async fn native_output(server: &ServerProcess, status: CheckStatus) -> String {
    let client = server.client().await;
    let mut reader = Reader::of(&client, &["web"]).await;
    let has_status = |view: &View| view.get("web", "a").is_some_and(|instance| instance.checks[0].status() == status);
    reader.until(status.as_str_name(), has_status).await;
    client.checks("web", "a").await.remove(0).output
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_http_check_keeps_its_definition_through_export_and_import() {
    let (source, target, page) = (TempDir::new().unwrap(), TempDir::new().unwrap(), Page::open().await);
    let (from, to) = (source.path().to_str().unwrap(), target.path().to_str().unwrap());
    page.answer_at("/native", "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n\r\n123456");
    let server = ServerProcess::start(&["--data-dir", from]).await;
    let mut check = native(page.address);
    check.set_initial_status(CheckStatus::Passing);
    let registration = RegisterRequest { ttl: seconds(600.0), checks: vec![check], ..instance("web", "a") };
    server.client().await.register(registration).await.unwrap();
    let output = native_output(&server, CheckStatus::Critical).await;
    assert_eq!(output, format!("HTTP POST http://{}/native: 302 Found Output: 456", page.address));
    let first = page.first_request("/native").await;
    assert_eq!((&*first.method, &*first.body, first.header("x-a")), ("POST", "{}", vec!["1", "2"]));
    assert_eq!(first.header("x-b"), ["3"]);

    server.child.kill().await;
    let file = target.path().join("export.jsonl");
    let file = file.to_str().unwrap();
    for arguments in [["export", "--data-dir", from, file], ["import", "--data-dir", to, file]] {
        let ended = Child::run(&arguments).await;
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    }
    page.answer_at("/native", "HTTP/1.1 200 Fine\r\n\r\nabcdef");
    let server = ServerProcess::start(&["--data-dir", to]).await;
    let output = native_output(&server, CheckStatus::Passing).await;
    assert_eq!(output, format!("HTTP POST http://{}/native: 200 Fine Output: def", page.address));
    assert_eq!(page.requests_for("/native").last(), Some(&first));
    assert!(!page.was_asked("/elsewhere"));
}
